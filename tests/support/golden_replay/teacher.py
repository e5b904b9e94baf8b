"""teacher_*: the CLIP tower's features and attention, masked and not, and what it is fed.

Stored clips are [B, 3, T, H, W].
"""

import torch

from golden_replay.case import Case
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig, resize_bicubic
from reelscan.models.clip_weights import from_open_clip_state
from reelscan.models.weights import load_strict


def replay(case: Case) -> None:
    case.settings.irrelevant(reason="a description", keys=("note",))
    if not case.names("param."):
        _resize(case)
        return
    teacher = _build(case)
    runs = sorted({name.removeprefix("out.").rpartition(".")[0] for name in case.names("out.")})
    for run in runs:
        _run(case, teacher, run)


def _resize(case: Case) -> None:
    """A case without weights holds clips before and after resizing, under one name."""
    for name in case.names("out."):
        clips, size = case[name.replace("out.", "in.", 1)], case.stored(name).shape[-1]
        frames = clips.transpose(1, 2).flatten(0, 1)
        resized = resize_bicubic(frames, size).unflatten(0, (clips.shape[0], -1))
        case.compare(name, resized.transpose(1, 2))


def _build(case: Case) -> ClipVision:
    settings = case.settings
    settings.must_be(return_attn={True, False}, kernel_size=1)
    config = ClipVisionConfig(
        image_size=settings["input_resolution"],
        patch_size=settings["patch_size"],
        width=settings["width"],
        layers=settings["layers"],
        heads=settings["heads"],
        output_dim=settings["output_dim"],
        return_layers=settings.whole_number("clip_return_layer", 1),
        return_interval=settings.whole_number("clip_return_interval", 1),
        class_feature=settings.get("clip_return_cls", True),
        l2_features=settings.get("clip_norm_type") == "l2",
    )
    settings.must_be(clip_norm_type={"l2", "none", None})
    teacher = ClipVision(config)
    state = case.group("param.")
    load_strict(teacher, from_open_clip_state(state))
    return teacher.to(device=case.device, dtype=state["proj"].dtype).eval()


def _run(case: Case, teacher: ClipVision, run: str) -> None:
    """A run is named by its clips, with _masked if some of their patches are hidden."""
    source = run.removesuffix("_masked") or "video"
    mask = None
    if run.endswith("_masked"):
        own = f"in.mask_nocls_{source}"
        mask = case[own if own in case else "in.mask_nocls"]
    with torch.no_grad():
        output = teacher(case[f"in.{source}"].transpose(1, 2), mask=mask)
    found = {"feat": output.features, "attn": output.attention}
    prefix = f"out.{run}." if run else "out."
    for name in case.names(prefix):
        if run or name.count(".") == 1:
            case.compare(name, found[name.removeprefix(prefix)])
