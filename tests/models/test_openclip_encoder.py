"""open_clip models as encoders, against open_clip's own calls."""

import pytest
import torch
from tests.support.tiny_open_clip import NAME, open_clip_with_tiny_model

from reelscan.models.encoder import Encoder, MatchingEncoder
from reelscan.models.openclip_encoder import load_openclip_encoder

TEXTS = ["a dog runs", "A man, playing the guitar!"]


@pytest.fixture(scope="module")
def open_clip(tmp_path_factory):
    return open_clip_with_tiny_model(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def clip(open_clip):
    torch.manual_seed(0)
    return open_clip.create_model(NAME).eval()


@pytest.fixture(scope="module")
def weights(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(clip.state_dict(), path)
    return str(path)


def test_similarity_is_the_mean_cosine_over_frames(open_clip, clip, weights):
    encoder = load_openclip_encoder(NAME, weights=weights, frames=3)
    assert isinstance(encoder, Encoder)
    assert not isinstance(encoder, MatchingEncoder)
    frames = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    found = encoder.encode_video(frames) @ encoder.encode_text(TEXTS).T
    mean, std = (torch.tensor(clip.visual.preprocess_cfg[name]) for name in ("mean", "std"))
    with torch.no_grad():
        pixels = (frames / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        images = clip.encode_image(pixels.flatten(0, 1), normalize=True).view(2, 3, -1)
        texts = clip.encode_text(open_clip.get_tokenizer(NAME)(TEXTS), normalize=True)
    expected = torch.einsum("bte,qe->btq", images, texts).mean(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert encoder.preprocessing.max_text_tokens == 20
    assert encoder.embed_dim == 24


def test_the_fingerprint_follows_weights_and_frames(clip, weights, tmp_path):
    first = load_openclip_encoder(NAME, weights=weights).fingerprint
    assert load_openclip_encoder(NAME, weights=weights).fingerprint == first
    assert load_openclip_encoder(NAME, weights=weights, frames=4).fingerprint != first
    state = clip.state_dict()
    state["logit_scale"] = state["logit_scale"] + 1
    torch.save(state, tmp_path / "other.pt")
    other = load_openclip_encoder(NAME, weights=str(tmp_path / "other.pt"))
    assert other.fingerprint != first


def test_unknown_names_are_corrected(open_clip, weights):
    with pytest.raises(ValueError, match=r"no model 'ViT-B32'; did you mean .*ViT-B-32"):
        load_openclip_encoder("ViT-B32", weights="openai")
    with pytest.raises(ValueError, match=r"no weights 'opnai'.*it has openai"):
        load_openclip_encoder("ViT-B-32", weights="opnai")
