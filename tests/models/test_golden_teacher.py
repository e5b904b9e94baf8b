"""The CLIP teacher gives the published teacher's features, attention and resized input."""

import pytest
import torch

from reelscan.models.clip_vit import (
    ClipVision,
    ClipVisionConfig,
    TeacherOutput,
    resize_bicubic,
)
from reelscan.models.clip_weights import from_open_clip_state
from reelscan.models.weights import load_strict


def build_teacher(case) -> ClipVision:
    stored = case.config
    config = ClipVisionConfig(
        image_size=stored["input_resolution"],
        patch_size=stored["patch_size"],
        width=stored["width"],
        layers=stored["layers"],
        heads=stored["heads"],
        output_dim=stored["output_dim"],
        return_layers=stored["clip_return_layer"],
        return_interval=stored["clip_return_interval"],
        class_feature=stored.get("clip_return_cls", True),
        l2_features=stored.get("clip_norm_type") == "l2",
    )
    teacher = ClipVision(config)
    load_strict(teacher, from_open_clip_state(case.group("param.")))
    return teacher.eval()


def run(teacher: ClipVision, stored_clips: torch.Tensor, mask=None) -> TeacherOutput:
    with torch.no_grad():
        return teacher(stored_clips.transpose(1, 2), mask=mask)


@pytest.mark.golden("teacher_*")
def test_teacher_agrees_with_the_published_one(case, assert_close):
    compared = 0
    if "out.video" in case:
        clips = case["in.video"].transpose(1, 2).flatten(0, 1)
        expected = case["out.video"].transpose(1, 2).flatten(0, 1)
        assert_close(resize_bicubic(clips, expected.shape[-1]), expected)
        compared += 1
    for prefix, source, masked in (
        ("out.", "in.video", False),
        ("out.video.", "in.video", False),
        ("out.image.", "in.image", False),
        ("out.video_masked.", "in.video", True),
        ("out.image_masked.", "in.image", True),
    ):
        if f"{prefix}feat" not in case:
            continue
        mask = case["in.mask_nocls"] if masked else None
        output = run(build_teacher(case), case[source], mask)
        assert_close(output.features, case[f"{prefix}feat"])
        if f"{prefix}attn" in case:
            assert_close(output.attention, case[f"{prefix}attn"])
        compared += 1
    assert compared, f"nothing of {case.name} was compared"


@pytest.mark.golden("umt_*", "sm_masked_pretrain_*")
def test_teacher_inside_a_training_step(case, assert_close):
    if "out.teacher_feat" in case:
        teacher = _teacher_of(case, "param.clip_teacher.", l2=False)
        with torch.no_grad():
            output = teacher(case["in.image"])
        assert_close(output.features, case["out.teacher_feat"])
        assert_close(output.attention, case["out.teacher_attn"])
    elif "in.target_full" in case:
        output = run(_teacher_of(case, "teacher.", l2=True), case["in.video"])
        assert_close(output.features, case["in.target_full"])
        assert_close(output.attention, case["in.attn"])
    else:
        assert not case.group("param.clip_teacher."), "a stored teacher was not compared"


def _teacher_of(case, prefix: str, *, l2: bool) -> ClipVision:
    """A teacher of the sizes that its stored parameters show; heads are 4 in these cases."""
    state = case.group(prefix)
    width, output_dim = state["proj"].shape
    options = case.config.get("model", {}).get("vision_encoder", case.config)
    patch = state["conv1.weight"].shape[-1]
    config = ClipVisionConfig(
        image_size=int((len(state["positional_embedding"]) - 1) ** 0.5) * patch,
        patch_size=patch,
        width=width,
        layers=1 + max(int(name.split(".")[2]) for name in state if "resblocks" in name),
        heads=4,
        output_dim=output_dim,
        return_layers=options["clip_return_layer"],
        return_interval=options.get("clip_return_interval", 1),
        l2_features=l2,
    )
    teacher = ClipVision(config)
    load_strict(teacher, from_open_clip_state(state))
    return teacher.eval()
