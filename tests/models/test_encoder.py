"""The encoder keeps its protocol: what it takes, what it returns, and that it repeats itself."""

from dataclasses import replace

import pytest
import torch

from reelscan.models.bert import BertConfig
from reelscan.models.encoder import (
    Encoder,
    MatchingEncoder,
    OnePassEncoder,
    TextTokens,
    VideoTextEncoder,
)
from reelscan.models.patch_embedding import PatchEmbedding
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba import VideoMamba
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_checkpoint import fit_encoder_state

TOKENIZER = Tokenizer(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "ball", "rolls", "falls"]
)
PREPROCESSING = Preprocessing(frames=2, size=16, max_text_tokens=8)
TEXTS = ["a red ball", "a blue ball rolls", "a ball falls", "blue", "a red ball falls"]


def build(**options) -> VideoTextEncoder:
    torch.manual_seed(0)
    config = VideoTextConfig(
        vision=VideoMambaConfig(image_size=16, patch_size=8, frames=2, depth=2, width=16),
        text=BertConfig(
            vocab_size=11,
            hidden_size=12,
            num_hidden_layers=3,
            fusion_layer=2,
            encoder_width=16,
            num_attention_heads=3,
            intermediate_size=24,
            max_position_embeddings=8,
        ),
        embed_dim=6,
    )
    values = {"preprocessing": PREPROCESSING, "tokenizer": TOKENIZER} | options
    return VideoTextEncoder(VideoTextModel(config), fingerprint="f" * 64, **values)


def random_frames(*, batch: int = 5, frames: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, frames, 3, 16, 16)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_it_keeps_the_protocol():
    encoder = build()
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, MatchingEncoder)
    assert encoder.fingerprint == "f" * 64
    assert encoder.preprocessing == PREPROCESSING
    assert encoder.embed_dim == 6


def test_something_without_matching_is_an_encoder_only():
    class Vectors:
        fingerprint, preprocessing, embed_dim = "x", PREPROCESSING, 3

        def encode_video(self, frames_uint8):
            return torch.zeros(len(frames_uint8), 3)

        def encode_text(self, texts):
            return torch.zeros(len(texts), 3)

    assert isinstance(Vectors(), Encoder)
    assert not isinstance(Vectors(), MatchingEncoder)


def test_a_product_of_vectors_is_the_mean_cosine_over_frames(assert_close):
    encoder = build()
    frames = random_frames()
    videos, texts = encoder.encode_video(frames), encoder.encode_text(TEXTS)
    assert videos.shape == texts.shape == (5, 6)
    assert videos.dtype == texts.dtype == torch.float32
    assert videos.device.type == texts.device.type == "cpu"
    assert_close(texts.norm(dim=1), torch.ones(5))
    assert (videos.norm(dim=1) < 1).all(), "the mean over frames must stay as long as it is"

    with torch.no_grad():
        by_frame = encoder.model.embed_video(PREPROCESSING.normalise(frames))
    assert_close(videos @ texts.T, torch.einsum("bte,qe->btq", by_frame, texts).mean(dim=1))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_frame_vectors_of_any_length_are_those_of_a_model_fitted_to_it(assert_close, frames):
    encoder = build()
    clips = random_frames(frames=frames)
    vectors = encoder.encode_frames(clips)
    assert vectors.shape == (5, frames, 6)
    config = replace(encoder.model.config.vision, frames=max(2, frames))
    fitted = VideoMamba(config).eval()
    state = fit_encoder_state(encoder.model.vision_encoder.state_dict(), config)
    fitted.load_state_dict(state)
    with torch.no_grad():
        pooled = fitted(PREPROCESSING.normalise(clips)).pooled
        expected = encoder.model.project_vision(pooled)
    assert_close(vectors, expected)
    if frames <= 2:
        assert_close(vectors.mean(1), encoder.encode_video(clips))


def test_long_clips_are_read_in_pieces(assert_close, monkeypatch):
    """Nothing but the frames of two clips is computed at once, and the vectors stay."""
    clips = random_frames(batch=2, frames=9)
    expected = build().encode_frames(clips)
    computed: list[int] = []
    embed = PatchEmbedding.forward

    def note(self, frames, visible):
        computed.append(frames.shape[1])
        return embed(self, frames, visible)

    monkeypatch.setattr(PatchEmbedding, "forward", note)
    vectors = build(videos_at_once=2).encode_frames(clips)
    assert computed == [4, 4, 1] * 2
    assert_close(vectors, expected)


def test_clips_of_another_length_share_the_weights():
    encoder = build()
    before = encoder.encode_frames(random_frames(frames=3))
    with torch.no_grad():
        encoder.model.vision_encoder.layers[0].mixer.in_proj.weight.mul_(-1)
    assert not torch.allclose(before, encoder.encode_frames(random_frames(frames=3)), atol=1e-3)


def test_the_same_input_gives_the_same_bytes_and_micro_batches_the_same_vectors(assert_close):
    whole, parts = build(), build(videos_at_once=2, texts_at_once=2)
    frames = random_frames()
    assert torch.equal(whole.encode_video(frames), whole.encode_video(frames))
    assert torch.equal(whole.encode_text(TEXTS), whole.encode_text(TEXTS))
    assert_close(parts.encode_video(frames), whole.encode_video(frames))
    assert_close(parts.encode_text(TEXTS), whole.encode_text(TEXTS))
    tokens, texts = whole.video_tokens(frames), whole.text_tokens(TEXTS)
    assert_close(parts.video_tokens(frames), tokens)
    assert_close(parts.text_tokens(TEXTS).hidden, texts.hidden)
    assert_close(parts.match(texts, tokens), whole.match(texts, tokens))


def test_a_model_left_in_training_mode_is_quiet_again():
    encoder = build()
    assert not encoder.model.training
    assert not encoder.encode_text(TEXTS).requires_grad


def test_matching_gives_one_logit_a_pair(assert_close):
    encoder = build()
    tokens, texts = encoder.video_tokens(random_frames()), encoder.text_tokens(TEXTS)
    assert tokens.shape == (5, 8, 16)
    assert texts.hidden.shape == (5, 8, 12)
    logits = encoder.match(texts, tokens)
    assert logits.shape == (5,)
    assert logits.dtype == torch.float32
    with torch.no_grad():
        expected = encoder.model.match(texts.hidden, texts.attention_mask, tokens)[:, 1]
    assert_close(logits, expected)

    one_with_all = encoder.match(texts[[2] * 5], tokens)
    assert_close(one_with_all[2], logits[2])
    assert not torch.allclose(one_with_all, logits)


def test_one_video_for_all_texts_gives_what_copies_of_it_give(assert_close):
    encoder = build(texts_at_once=2)
    tokens, texts = encoder.video_tokens(random_frames()), encoder.text_tokens(TEXTS)
    copies = tokens[[3] * 5]
    shared = encoder.match(texts, tokens[3:4].expand(5, -1, -1))
    assert_close(shared, encoder.match(texts, copies))
    assert not torch.allclose(shared, encoder.match(texts, tokens))


def test_one_pass_gives_vectors_and_tokens(assert_close):
    encoder = build(videos_at_once=2, texts_at_once=2)
    frames = random_frames()
    videos, texts = encoder.video_features(frames), encoder.text_features(TEXTS)
    assert isinstance(encoder, OnePassEncoder)
    assert_close(videos.vectors, encoder.encode_video(frames))
    assert_close(videos.tokens, encoder.video_tokens(frames))
    assert_close(texts.vectors, encoder.encode_text(TEXTS))
    assert_close(texts.tokens.hidden, encoder.text_tokens(TEXTS).hidden)
    assert torch.equal(texts.tokens.attention_mask, encoder.text_tokens(TEXTS).attention_mask)


def test_texts_may_be_read_longer_up_to_what_the_model_takes():
    encoder = build()
    shorter = encoder.with_text_length(4)
    assert shorter.preprocessing.max_text_tokens == 4
    assert shorter.text_tokens(TEXTS).hidden.shape[1] == 4
    assert shorter.fingerprint != encoder.fingerprint
    assert shorter.with_text_length(150).preprocessing.max_text_tokens == 8
    assert encoder.with_text_length(8) is encoder


def test_unequal_numbers_of_texts_and_videos_are_refused():
    encoder = build()
    tokens, texts = encoder.video_tokens(random_frames()), encoder.text_tokens(TEXTS)
    with pytest.raises(ValueError, match="2 texts and 5 videos"):
        encoder.match(texts[:2], tokens)


def test_rows_of_texts_can_be_picked():
    tokens = TextTokens(hidden=torch.arange(6.0).view(3, 2, 1), attention_mask=torch.eye(3, 2))
    picked = tokens[torch.tensor([2, 0])]
    assert picked.hidden.flatten().tolist() == [4, 5, 0, 1]
    assert picked.attention_mask.tolist() == [[0, 0], [1, 0]]


def test_an_image_is_a_clip_of_one_frame():
    vectors = build().encode_video(random_frames(frames=1))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(5))


def test_nothing_to_embed_gives_no_vectors():
    encoder = build()
    assert encoder.encode_text([]).shape == (0, 6)
    assert encoder.encode_video(random_frames(batch=0)).shape == (0, 6)


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"takes torch.uint8 \[B, 2 or 1, 3, 16, 16\]"):
        build().encode_video(torch.zeros(1, 2, 3, 8, 8, dtype=torch.uint8))


def test_a_bare_string_is_refused():
    with pytest.raises(TypeError, match="list of strings"):
        build().encode_text("a red ball")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"preprocessing": Preprocessing(frames=2, size=32)}, "preprocessing.size is 32"),
        ({"preprocessing": Preprocessing(frames=4, size=16)}, "preprocessing.frames is 4"),
        ({"preprocessing": Preprocessing(frames=2, size=16)}, "max_text_tokens is 32"),
        ({"tokenizer": Tokenizer.bert_uncased()}, "tokenizer has 30522 tokens"),
        ({"videos_at_once": 0}, "videos_at_once is 0"),
        pytest.param(
            {"device": "cuda"},
            "no CUDA GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        build(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_agrees_within_its_precision():
    on_cpu, on_gpu = build(), build(device="cuda")
    frames = random_frames()
    videos, texts = on_gpu.encode_video(frames), on_gpu.encode_text(TEXTS)
    assert videos.device.type == texts.device.type == "cpu"
    assert videos.dtype == texts.dtype == torch.float32
    torch.testing.assert_close(videos, on_cpu.encode_video(frames), atol=0.03, rtol=0)
    torch.testing.assert_close(texts, on_cpu.encode_text(TEXTS), atol=0.03, rtol=0)
    tokens = on_gpu.video_tokens(frames)
    assert tokens.dtype == torch.bfloat16
    logits = on_gpu.match(on_gpu.text_tokens(TEXTS), tokens)
    expected = on_cpu.match(on_cpu.text_tokens(TEXTS), on_cpu.video_tokens(frames))
    torch.testing.assert_close(logits, expected, atol=0.05, rtol=0)
