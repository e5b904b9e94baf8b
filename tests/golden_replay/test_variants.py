"""The replays are written for the families: cases of other sizes are met, and wrong ones are not.

The variants are made by an encoder of its own, in float64 (tests/support/plain_videomamba.py).
"""

import json

import pytest
import torch
from golden_replay.case import Case, Score
from golden_replay.families import family_of, stored_files
from golden_replay.step_variants import first_stage_case, step_case
from golden_replay.variants import mixer_case, scan_case, vision_case, vision_settings
from safetensors.torch import load_file, save_file


def replay(path):
    _, run = family_of(path)
    case = Case(path, device=torch.device("cpu"))
    run(case)
    case.finish()
    return case.score


@pytest.mark.parametrize(
    ("length", "channels", "states", "gated"),
    [(1, 1, 1, True), (3, 7, 2, False), (1569, 5, 16, True), (12545, 2, 4, True)],
)
def test_scans_of_any_length_and_size(tmp_path, length, channels, states, gated):
    path = scan_case(tmp_path, length=length, channels=channels, states=states, gated=gated)
    assert len(replay(path).compared) == (10 if gated else 7)


@pytest.mark.parametrize(("length", "two_directions"), [(2, True), (130, True), (17, False)])
def test_mixers_of_other_states_taps_and_expansion(tmp_path, length, two_directions):
    path = mixer_case(tmp_path, length=length, two_directions=two_directions)
    assert len(replay(path).compared) == (18 if two_directions else 11)


def drawn(kind, *, frames=4, area=16, hidden=6):
    """bool [3, 1 + frames * area]: as many hidden in each clip, and for tube in each frame."""
    generator = torch.Generator().manual_seed(4)
    if kind == "random":
        chosen = torch.rand(3, frames * area, generator=generator).argsort(1) < frames * hidden
    elif kind == "attention":
        chosen = (torch.rand(3, frames, area, generator=generator).argsort(2) < hidden).flatten(1)
    else:
        one = torch.rand(3, area, generator=generator).argsort(1) < hidden
        chosen = one.repeat(1, frames)
    return torch.cat([torch.zeros(3, 1, dtype=torch.bool), chosen], 1)


VISION = {
    "two_layers_random": (
        {"clip_return_layer": 2, "depth": 4},
        {"mask": drawn("random")},
    ),
    "three_layers_two_apart_tube_layernorm_nonfused": (
        {
            "clip_return_layer": 3,
            "clip_student_return_interval": 2,
            "depth": 6,
            "rms_norm": False,
            "fused_add_norm": False,
        },
        {"mask": drawn("tube"), "mask_name": "mask_tube", "keep_temporal": True},
    ),
    "droppath_two_layers_attention": (
        {"drop_path_rate": 0.6, "clip_return_layer": 2},
        {"mask": drawn("attention"), "mask_name": "mask_attention", "pooling": "avg"},
    ),
    "droppath_nonfused_unmasked": (
        {"drop_path_rate": 0.4, "fused_add_norm": False},
        {"mask": None, "keep_temporal": True, "pooling": "cls_cat_avg"},
    ),
    "one_block_droppath": (
        {"drop_path_rate": 0.5, "depth": 1, "embed_dim": 40, "clip_decoder_embed_dim": 40},
        {"mask": drawn("random"), "pooling": "cls"},
    ),
    "tubelet_of_two": (
        {"kernel_size": 2, "clip_return_layer": 2},
        {"mask": drawn("random", frames=2), "pooling": "cls_cat_avg"},
    ),
    "image_masked": (
        {"clip_return_layer": 2},
        {"mask": drawn("random", frames=1), "mask_name": "mask_image", "image": True},
    ),
    "other_epsilon_and_frames": (
        {"norm_epsilon": 1e-3, "num_frames": 3, "img_size": 24, "patch_size": 8},
        {"mask": None, "pooling": "avg"},
    ),
}


@pytest.mark.parametrize("name", sorted(VISION))
def test_encoders_of_other_shapes_masks_and_layers(tmp_path, name):
    changes, run = VISION[name]
    score = replay(vision_case(tmp_path, name, vision_settings(**changes), **run))
    assert len(score.compared) > 30


ALL_LOSSES = {"vtc": 1.0, "mlm": 1.0, "vtm": 1.0, "uta": 1.0}
STEPS = {
    "two_layers_random": {"mask": drawn("random"), "mask_kind": "random", "layers": 2},
    "tube_by_frame": {"mask": drawn("tube"), "mask_kind": "tube", "layers": 1},
    "mse": {"mask": drawn("attention"), "mask_kind": "attention", "layers": 1, "distance": "mse"},
    "one_vector_a_clip": {"mask": None, "mask_kind": "none", "layers": 1, "keep_temporal": False},
    "masked_image": {
        "mask": drawn("random", frames=1),
        "mask_kind": "attention",
        "layers": 2,
        "frames": 1,
    },
    "without_matching": {
        "mask": None,
        "mask_kind": "none",
        "layers": 1,
        "weights": {"vtc": 0.5, "mlm": 2.0, "vtm": 0.0, "uta": 0.0},
    },
}


@pytest.mark.parametrize("name", sorted(STEPS))
def test_training_steps_of_other_masks_layers_and_losses(tmp_path, name):
    common = {"distance": "l2", "keep_temporal": True, "weights": ALL_LOSSES}
    assert len(replay(step_case(tmp_path, name, **(common | STEPS[name]))).compared) > 60


@pytest.mark.parametrize(("kind", "layers"), [("random", 2), ("tube", 3)])
def test_first_stage_steps_of_other_masks_and_layers(tmp_path, kind, layers):
    path = first_stage_case(tmp_path, mask=drawn(kind), kind=kind, layers=layers)
    assert len(replay(path).compared) > 40


def small_case(folder):
    return scan_case(folder, length=4, channels=2, states=3, gated=True)


def changed_tensor(path, name, tensor):
    tensors = load_file(path)
    save_file(tensors | {name: tensor}, path)


def changed_config(path, **changes):
    config = path.with_name(path.name.replace(".safetensors", ".config.json"))
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def test_a_wrong_value_fails_by_name(tmp_path):
    path = small_case(tmp_path)
    wrong = load_file(path)["grad.A"] + 0.001
    changed_tensor(path, "grad.A", wrong)
    with pytest.raises(AssertionError, match=r"grad\.A: off by 0\.001"):
        replay(path)


def test_a_wrong_shape_fails(tmp_path):
    path = small_case(tmp_path)
    changed_tensor(path, "out.y", load_file(path)["out.y"][..., :-1].contiguous())
    with pytest.raises(AssertionError, match=r"out\.y: \(1, 2, 4\), stored \(1, 2, 3\)"):
        replay(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rng.more", "never used: rng.more"),
        ("const.table", "not compared: const.table"),
        ("grad_in.x", "not compared: grad_in.x"),
        ("train.loss", "not compared: train.loss"),
    ],
)
def test_a_tensor_that_nothing_consumes_fails(tmp_path, name, message):
    path = small_case(tmp_path)
    changed_tensor(path, name, torch.zeros(2))
    with pytest.raises(AssertionError, match=message):
        replay(path)


def test_an_unknown_output_fails(tmp_path):
    path = small_case(tmp_path)
    changed_tensor(path, "out.more", torch.zeros(2))
    with pytest.raises(AssertionError, match=r"not compared: out\.more"):
        replay(path)


def test_an_unknown_setting_fails(tmp_path):
    path = small_case(tmp_path)
    changed_config(path, reverse=True)
    with pytest.raises(AssertionError, match="settings nobody reads: reverse"):
        replay(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bimamba": False}, "bimamba is False"),
        ({"clip_student_return_interval": 1.5}, "1.5; only whole numbers"),
        ({"clip_decoder_embed_dim": 32}, "clip_decoder_embed_dim is 32"),
    ],
)
def test_a_setting_that_is_not_replayed_fails(tmp_path, settings, message):
    path = vision_case(tmp_path, "plain", vision_settings(depth=1), mask=None)
    changed_config(path, **settings)
    with pytest.raises(AssertionError, match=message):
        replay(path)


@pytest.mark.parametrize("name", ["audio_new.safetensors", "new_table.json", "notes.txt"])
def test_a_file_of_no_family_fails_and_is_not_skipped(tmp_path, name):
    (tmp_path / name).write_text("{}")
    (path,) = stored_files(tmp_path)
    with pytest.raises(AssertionError, match="belongs to no family"):
        family_of(path)


def test_not_a_number_is_no_agreement():
    score = Score()
    score.add("out.x", torch.tensor([float("nan"), 1.0]), torch.tensor([1.0, 1.0]))
    score.add("out.y", torch.tensor([float("inf")]), torch.tensor([float("inf")]))
    assert len(score.failures) == 1 and score.absolute == float("inf")
