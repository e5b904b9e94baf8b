"""The encoder. Axes: B clips, T frames, N tokens, C model width, K alignment layers."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from reelscan.models.masks import random_mask, tube_mask, with_class_token
from reelscan.models.videomamba import (
    VideoMamba,
    VideoMambaConfig,
    videomamba_base,
    videomamba_middle,
    videomamba_small,
    videomamba_tiny,
)

SMALL = VideoMambaConfig(
    image_size=16,
    patch_size=4,
    frames=4,
    depth=3,
    width=32,
    state_size=4,
    alignment_width=24,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    encoder = VideoMamba(SMALL).eval()
    with torch.no_grad():
        encoder.temporal_pos_embedding.normal_()
        encoder.cls_token.normal_()
    return encoder


@pytest.fixture
def clips():
    return torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def drawn_mask(kind=random_mask, *, clips=2, frames=4, ratio=0.7):
    generator = torch.Generator().manual_seed(2)
    return with_class_token(kind(clips, (frames, 4, 4), ratio=ratio, generator=generator))


def on_meta(config):
    with torch.device("meta"):
        return VideoMamba(config)


@pytest.mark.parametrize(
    ("name", "config", "prefix", "changes"),
    [
        ("UMT_VIDEOMAMBA_middle_pretrain_unmasked", videomamba_middle(), "vision_encoder.", {}),
        ("UMT_VIDEOMAMBA_middle_retrieval", videomamba_middle(), "vision_encoder.", {}),
        ("sm_videomamba_tiny", videomamba_tiny(), "", {"norm_f.weight": "norm.weight"}),
        ("sm_videomamba_small", videomamba_small(), "", {"norm_f.weight": "norm.weight"}),
        ("sm_videomamba_middle_pretrain", videomamba_middle(), "", {}),
    ],
)
def test_published_names_and_shapes(name, config, prefix, changes, golden_dir):
    published = json.loads((golden_dir / "checkpoint_names.json").read_text())[name]
    expected = {
        changes.get(key.removeprefix(prefix), key.removeprefix(prefix)): shape
        for key, (shape, _dtype) in published.items()
        if key.startswith(prefix) and not key.startswith("head.")
    }
    ours = {key: list(tensor.shape) for key, tensor in on_meta(config).state_dict().items()}
    if name.startswith("sm_"):
        ours = {key: shape for key, shape in ours.items() if key in expected}
    assert ours == expected


@pytest.mark.parametrize(
    ("config", "millions"),
    [
        (videomamba_tiny(), 7),
        (videomamba_small(), 25.4),
        (videomamba_middle(), 74),
        (videomamba_base(), 98),
    ],
)
def test_preset_sizes(config, millions):
    model = on_meta(replace(config, alignment_layers=0))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("published", [True, False])
def test_initialisation(published, golden_dir):
    stored = json.loads((golden_dir / "init_stats.json").read_text())
    torch.manual_seed(0)
    model = VideoMamba(
        VideoMambaConfig(
            depth=stored["cfg"]["depth"], width=stored["cfg"]["embed_dim"], published_init=published
        )
    )
    state = model.state_dict()
    for name, expected in stored["params"].items():
        if "dt_proj" in name and not published:
            continue
        tensor = state[name]
        assert list(tensor.shape) == expected["shape"], name
        slack = 6 * max(expected["std"], 1e-8) / tensor.numel() ** 0.5
        assert abs(tensor.mean().item() - expected["mean"]) <= 1e-6 + 2 * slack, name
        assert tensor.std().item() == pytest.approx(expected["std"], rel=0.1, abs=1e-6), name
        assert tensor.abs().max().item() <= 1.3 * max(abs(expected["min"]), expected["max"]) + 1e-6


def test_time_steps_start_small_unless_published(model):
    steps = functional.softplus(model.layers[0].mixer.dt_proj.bias)
    assert steps.max() < 0.11 and steps.std() > 0
    published = VideoMamba(replace(SMALL, published_init=True))
    assert not published.layers[0].mixer.dt_proj.bias.any()


def test_output_shapes(model, clips):
    result = model(clips)
    assert result.tokens.shape == (2, 64, 32)
    assert result.pooled.shape == (2, 4, 32)
    assert result.alignment.shape == (1, 2, 65, 24)
    image = model(clips[:, :1])
    assert image.tokens.shape == (2, 16, 32)
    assert image.pooled.shape == (2, 1, 32)
    assert image.alignment.shape == (1, 2, 17, 24)


def test_an_image_has_no_temporal_position(model, clips):
    before = model(clips[:, :1]).tokens
    clip_before = model(clips).tokens
    with torch.no_grad():
        model.temporal_pos_embedding += 1
    assert torch.equal(model(clips[:, :1]).tokens, before)
    assert not torch.allclose(model(clips).tokens, clip_before)


def test_hidden_pixels_do_not_matter_and_visible_ones_do(model, clips):
    mask = drawn_mask()
    result = model(clips, mask=mask, keep_temporal=False)
    assert result.tokens.shape == (2, int((~mask[0, 1:]).sum()), 32)
    hidden = mask[:, 1:].view(2, 4, 1, 4, 1, 4, 1).expand(2, 4, 3, 4, 4, 4, 4)
    pixels = hidden.reshape(2, 4, 3, 16, 16)
    changed = model(torch.where(pixels, 9.0, clips), mask=mask, keep_temporal=False)
    assert torch.equal(changed.tokens, result.tokens)
    assert torch.equal(changed.alignment, result.alignment)
    changed = model(torch.where(pixels, clips, 9.0), mask=mask, keep_temporal=False)
    assert not torch.allclose(changed.tokens, result.tokens)


def test_a_mask_that_hides_nothing_changes_nothing(model, clips):
    nothing = torch.zeros(2, 65, dtype=torch.bool)
    masked, whole = model(clips, mask=nothing), model(clips)
    torch.testing.assert_close(masked.tokens, whole.tokens)
    torch.testing.assert_close(masked.alignment, whole.alignment)


def test_a_tube_mask_keeps_frames_apart(model, clips):
    assert model(clips, mask=drawn_mask(tube_mask)).pooled.shape == (2, 4, 32)


def test_frames_cannot_be_kept_apart_when_unevenly_hidden(model, clips):
    with pytest.raises(ValueError, match="keep_temporal"):
        model(clips, mask=drawn_mask())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda mask: mask[:, 1:], r"need torch.bool \(2, 65\)"),
        (lambda mask: mask[:1], r"need torch.bool \(2, 65\)"),
        (lambda mask: mask.float(), "need torch.bool"),
        (lambda mask: mask.clone().index_fill_(1, torch.tensor([0]), True), "class token"),
        (lambda mask: mask ^ (torch.arange(130).view(2, 65) == 3), "as many in each"),
        (lambda mask: torch.arange(65).expand(2, 65) > 0, "every patch"),
    ],
)
def test_masks_that_do_not_fit(model, clips, damage, message):
    with pytest.raises(ValueError, match=message):
        model(clips, mask=damage(drawn_mask()), keep_temporal=False)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 4, 3, 16, 20), "3, 16, 16"),
        ((2, 3, 4, 16, 16), "3, 16, 16"),
        ((4, 3, 16, 16), "3, 16, 16"),
        ((2, 5, 3, 16, 16), "takes 1 or 4"),
    ],
)
def test_clips_that_do_not_fit(model, shape, message):
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


def test_raw_frames_are_refused(model):
    with pytest.raises(ValueError, match="uint8"):
        model(torch.zeros(2, 4, 3, 16, 16, dtype=torch.uint8))


def test_an_image_does_not_fit_a_tubelet():
    model = VideoMamba(replace(SMALL, tubelet_size=2))
    assert model(torch.zeros(1, 4, 3, 16, 16)).pooled.shape == (1, 2, 32)
    with pytest.raises(ValueError, match="takes 4;"):
        model(torch.zeros(1, 1, 3, 16, 16))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"image_size": 18}, "image_size"),
        ({"frames": 5, "tubelet_size": 2}, "tubelet_size"),
        ({"depth": 0}, "depth"),
        ({"width": -1}, "width"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"norm": "batch"}, "norm"),
        ({"norm_epsilon": 0.0}, "norm_epsilon"),
        ({"pooling": "max"}, "pooling"),
        ({"alignment_layers": 4}, "alignment_layers"),
        ({"alignment_layers": 2, "alignment_interval": 3}, "alignment_interval"),
        ({"alignment_layers": -1}, "alignment_layers"),
        ({"checkpointed_blocks": -1}, "checkpointed_blocks"),
    ],
)
def test_configurations_that_make_no_sense(changes, name):
    with pytest.raises(ValueError, match=name):
        replace(SMALL, **changes)


def test_aligned_blocks_go_from_shallow_to_deep():
    config = replace(SMALL, depth=8, alignment_layers=3, alignment_interval=2)
    assert config.aligned_blocks == (3, 5, 7)


def test_aligned_streams(clips):
    """The last layer's is taken before or after its mixer, un-normalised; the others normalised."""
    torch.manual_seed(0)
    before = VideoMamba(replace(SMALL, alignment_layers=3))
    after = VideoMamba(replace(SMALL, alignment_layers=3, last_alignment_before_mixer=False))
    after.load_state_dict(before.state_dict())
    streams, others = before.encode(clips).aligned, after.encode(clips).aligned
    torch.testing.assert_close(streams[:2], others[:2])
    torch.testing.assert_close(before.norm(streams[2]), streams[1])
    torch.testing.assert_close(after.norm(others[2]), after.encode(clips).tokens)


def test_the_last_block_learns_from_alignment_only_when_told(clips):
    for before_mixer in (True, False):
        model = VideoMamba(replace(SMALL, last_alignment_before_mixer=before_mixer))
        model(clips).alignment.square().sum().backward()
        learns = model.layers[-1].mixer.in_proj.weight.grad is not None
        assert learns == (not before_mixer)


def test_no_alignment_layers(clips):
    model = VideoMamba(replace(SMALL, alignment_layers=0))
    assert model(clips).alignment is None
    assert not any("clip_decoder" in name for name in model.state_dict())


def test_recomputing_activations_changes_no_gradient(model, clips):
    other = VideoMamba(replace(SMALL, checkpointed_blocks=2, drop_path_rate=0.5)).train()
    plain = VideoMamba(replace(SMALL, drop_path_rate=0.5)).train()
    other.load_state_dict(model.state_dict())
    plain.load_state_dict(model.state_dict())
    for encoder in (other, plain):
        torch.manual_seed(5)
        encoder(clips).pooled.square().sum().backward()
    gradients = dict(plain.named_parameters())
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad)


def test_drop_path_rises_from_zero_to_its_rate():
    rates = [
        layer.drop_path.rate for layer in VideoMamba(replace(SMALL, drop_path_rate=0.4)).layers
    ]
    assert rates == pytest.approx([0.0, 0.2, 0.4])


def test_bfloat16_autocast_keeps_the_stream_in_float32(model, clips):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model.encode(clips)
        result = model(clips)
    assert features.aligned[0].dtype == torch.float32
    assert features.tokens.dtype == torch.float32
    torch.testing.assert_close(result.tokens, model(clips).tokens, atol=0.1, rtol=0.1)


def test_a_model_cast_to_bfloat16_runs(model, clips):
    expected = model(clips).tokens
    tokens = model.bfloat16()(clips).tokens
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(tokens.float(), expected, atol=0.2, rtol=0.2)


def test_gradients_reach_every_parameter(clips):
    model = VideoMamba(replace(SMALL, last_alignment_before_mixer=False))
    result = model(clips)
    (result.pooled.square().sum() + result.alignment.square().sum()).backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_no_part_of_the_weights_is_a_table(model):
    assert "alignment_positions" not in model.state_dict()


def test_sincos_positions_tell_places_and_times_apart_from_the_start():
    config = VideoMambaConfig(
        image_size=16, patch_size=4, frames=3, depth=1, width=32, position_init="sincos"
    )
    encoder = VideoMamba(config)
    places = encoder.pos_embed[0, 1:]
    times = encoder.temporal_pos_embedding[0]
    tokens = (places[:, None] + times).flatten(0, 1)
    nearest = torch.cdist(tokens, tokens).fill_diagonal_(torch.inf).min()
    assert nearest > 0.2
    assert places.requires_grad and times.requires_grad


def test_sincos_positions_need_a_width_of_four_parts():
    with pytest.raises(ValueError, match="multiple of 4"):
        VideoMambaConfig(width=34, position_init="sincos")
