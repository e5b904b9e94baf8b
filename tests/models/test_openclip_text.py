import sys

import pytest
import torch
from tests.support.tiny_open_clip import NAME, open_clip_with_tiny_model

from reelscan.models.openclip_text import OpenClipText, OpenClipTokenizer, load_openclip_text

TEXTS = ["a dog runs", "A man, playing the guitar!", ""]


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    return open_clip_with_tiny_model(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def clip(open_clip):
    torch.manual_seed(0)
    return open_clip.create_model(NAME).eval()


@pytest.fixture(scope="module")
def encoder(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(clip.state_dict(), path)
    return load_openclip_text(NAME, weights=str(path)).eval()


@pytest.mark.parametrize("max_tokens", [20, 11])
def test_projected_text_vectors_are_open_clips(open_clip, clip, encoder, max_tokens):
    batch = OpenClipTokenizer(NAME)(TEXTS, max_tokens=max_tokens)
    hidden = encoder.encode_text(batch.input_ids, batch.attention_mask)
    ours = encoder.project(encoder.text_vector(hidden, batch.attention_mask))
    expected = clip.encode_text(open_clip.get_tokenizer(NAME)(TEXTS))
    assert hidden.shape == (3, max_tokens, encoder.hidden_size)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_mask_covers_the_text_up_to_its_end_token(encoder):
    batch = OpenClipTokenizer(NAME)([*TEXTS, "word " * 30], max_tokens=8)
    assert batch.attention_mask.sum(1).tolist() == [5, 8, 2, 8]
    last = batch.input_ids[torch.arange(4), batch.attention_mask.sum(1) - 1]
    assert last.tolist() == [49407] * 4


def test_gradients_reach_the_tower(encoder):
    batch = OpenClipTokenizer(NAME)(TEXTS, max_tokens=8)
    hidden = encoder.encode_text(batch.input_ids, batch.attention_mask)
    encoder.text_vector(hidden, batch.attention_mask).square().sum().backward()
    assert encoder.tower.token_embedding.weight.grad.abs().sum() > 0


def test_what_does_not_fit_is_refused(open_clip, encoder):
    with pytest.raises(ValueError, match=r"21 tokens.*at most 20"):
        encoder.encode_text(torch.ones(1, 21, dtype=torch.int64))
    with pytest.raises(TypeError, match="list of strings"):
        OpenClipTokenizer(NAME)("a dog")
    with pytest.raises(ValueError, match="not a plain CLIP one"):
        OpenClipText(torch.nn.Linear(2, 2))


def test_missing_open_clip_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'reelscan\[openclip\]'"):
        load_openclip_text("ViT-B-32", weights=None)
