"""The video-text model: vectors, matching, published names, and published checkpoints."""

import json
from dataclasses import replace

import pytest
import torch

from reelscan.models.bert import BertConfig
from reelscan.models.video_text import (
    VideoTextConfig,
    VideoTextModel,
    load_published,
    video_text_middle,
    video_text_small,
    video_text_tiny,
)
from reelscan.models.videomamba_config import VideoMambaConfig

CONFIG = VideoTextConfig(
    vision=VideoMambaConfig(
        image_size=16, patch_size=8, frames=2, depth=2, width=16, alignment_width=8
    ),
    text=BertConfig(
        vocab_size=40,
        hidden_size=12,
        num_hidden_layers=3,
        fusion_layer=2,
        encoder_width=16,
        num_attention_heads=3,
        intermediate_size=24,
        max_position_embeddings=10,
    ),
    embed_dim=6,
)


def build() -> VideoTextModel:
    torch.manual_seed(0)
    return VideoTextModel(CONFIG).eval()


def random_clips(*, batch: int = 3, frames: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def random_texts(*, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 40, (batch, 7), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([7, 4, 5])[:batch]
    mask = torch.arange(7) < lengths[:, None]
    return ids.masked_fill(~mask, 0), mask


def test_vectors_have_length_one_for_each_frame_and_text(assert_close):
    model = build()
    with torch.no_grad():
        videos, texts = model.embed_video(random_clips()), model.embed_text(*random_texts())
        image = model.embed_video(random_clips(frames=1))
    assert videos.shape == (3, 2, 6)
    assert image.shape == (3, 1, 6)
    assert texts.shape == (3, 6)
    for vectors in (videos, texts, image):
        assert vectors.dtype == torch.float32
        assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))


def test_padding_changes_nothing(assert_close):
    model = build()
    ids, mask = random_texts()
    with torch.no_grad():
        tokens = model.encode_vision(random_clips()).tokens
        hidden = model.encode_text(ids, mask)
        alone = model.encode_text(ids[1:2, :4], mask[1:2, :4])
        assert_close(
            model.embed_text(ids, mask)[1:2], model.embed_text(ids[1:2, :4], mask[1:2, :4])
        )
        logits = model.match(hidden, mask, tokens)
        assert_close(logits[1:2], model.match(alone, mask[1:2, :4], tokens[1:2]))
    assert logits.shape == (3, 2)


def test_matching_looks_at_the_video():
    model = build()
    ids, mask = random_texts()
    with torch.no_grad():
        hidden = model.encode_text(ids, mask)
        tokens = model.encode_vision(random_clips()).tokens
        logits = model.match(hidden, mask, tokens)
        others = model.match(hidden, mask, tokens.roll(1, dims=0))
        words = model.predict_tokens(model.fuse(hidden, mask, tokens))
    assert not torch.allclose(logits, others)
    assert words.shape == (3, 7, 40)


def test_a_mask_shortens_the_tokens_and_pools_over_what_is_seen():
    mask = torch.zeros(3, 1 + 8, dtype=torch.bool)
    mask[:, 1:4] = True
    with torch.no_grad():
        output = build().encode_vision(random_clips(), mask, keep_temporal=False)
    assert output.tokens.shape == (3, 5, 16)
    assert output.pooled.shape == (3, 1, 16)
    assert output.alignment.shape == (1, 3, 6, 8)


@pytest.mark.parametrize(
    ("before", "after"), [(0.9, 0.5), (1e-9, 0.001), (-3.0, 0.001), (0.2, 0.2)]
)
def test_the_temperature_is_kept_in_range(before, after):
    model = build()
    with torch.no_grad():
        model.temp.fill_(before)
    model.clamp_temperature()
    assert model.temp.item() == pytest.approx(after)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": replace(CONFIG.text, encoder_width=20)}, "set text.encoder_width to 16"),
        ({"embed_dim": 0}, "embed_dim is 0"),
        ({"temperature": 0.6}, "temperature is 0.6; give one from 0.001 to 0.5"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(CONFIG, **change)


@pytest.fixture(scope="module")
def middle() -> VideoTextModel:
    return VideoTextModel(video_text_middle())


@pytest.fixture(scope="module")
def published(golden_dir):
    return json.loads((golden_dir / "checkpoint_names.json").read_text())


def test_the_middle_preset_has_the_published_names_shapes_and_size(middle, published):
    name = "UMT_VIDEOMAMBA_middle_pretrain_unmasked"
    found = {
        key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in middle.state_dict().items()
    }
    assert found == published[name]
    parameters = sum(parameter.numel() for parameter in middle.parameters())
    assert parameters == published[f"_n_params.{name}"]


@pytest.mark.parametrize(
    ("variant", "missing", "unknown"),
    [
        ("UMT_VIDEOMAMBA_middle_pretrain_unmasked", 0, 0),
        ("UMT_VIDEOMAMBA_middle_pretrain_masked_with_teacher", 0, 152),
        ("UMT_VIDEOMAMBA_middle_retrieval", 7, 0),
    ],
)
def test_every_published_variant_is_taken(middle, published, variant, missing, unknown):
    state = {
        name: torch.zeros((), dtype=getattr(torch, dtype)).expand(shape)  # takes no memory
        for name, (shape, dtype) in published[variant].items()
    }
    report = load_published(middle, state)
    assert (len(report.missing), len(report.unknown)) == (missing, unknown)


def test_the_smaller_presets_differ_in_the_video_encoder_alone():
    middle = video_text_middle()
    for preset, width in ((video_text_tiny(), 192), (video_text_small(), 384)):
        assert (preset.vision.width, preset.text.encoder_width) == (width, width)
        assert replace(preset.text, encoder_width=576) == middle.text
        assert preset.embed_dim == middle.embed_dim == 512


def published_retrieval_state(model: VideoTextModel) -> dict[str, torch.Tensor]:
    return {
        name.replace("text_encoder.bert.", "text_encoder."): tensor.clone()
        for name, tensor in model.state_dict().items()
        if not name.startswith("text_encoder.cls.")
    }


def test_a_retrieval_checkpoint_brings_back_the_vectors(assert_close):
    model, other = build(), VideoTextModel(CONFIG).eval()
    load_published(other, published_retrieval_state(model))
    with torch.no_grad():
        assert_close(other.embed_video(random_clips()), model.embed_video(random_clips()))
        assert_close(other.embed_text(*random_texts()), model.embed_text(*random_texts()))


@pytest.mark.parametrize("name", ["vision_proj.weight", "text_encoder.embeddings.LayerNorm.bias"])
def test_incomplete_published_checkpoints_are_refused(name):
    state = published_retrieval_state(build())
    del state[name]
    with pytest.raises(ValueError, match="1 missing"):
        load_published(build(), state)


def test_a_language_head_must_be_complete_if_there_is_one():
    state = build().state_dict()
    del state["text_encoder.cls.predictions.transform.dense.bias"]
    with pytest.raises(ValueError, match=r"1 missing: .*transform\.dense\.bias"):
        load_published(build(), state)


@pytest.mark.parametrize(
    "name",
    [
        "text_encoder.cls.predictions.decoder.weight",
        "text_encoder.cls.predictions.bias",
        "text_encoder.bert.embeddings.position_ids",
    ],
)
def test_tied_copies_and_position_ids_may_be_missing(name):
    model, other = build(), VideoTextModel(CONFIG)
    state = dict(model.state_dict())
    del state[name]
    load_published(other, state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor), key


def test_tied_copies_that_differ_are_refused():
    state = dict(build().state_dict())
    name = "text_encoder.cls.predictions.decoder.bias"
    state[name] = state[name] + 1
    with pytest.raises(ValueError, match="differ, but they are one parameter"):
        load_published(build(), state)
