"""masks*, sincos*, ckpt_interp*: what is computed from sizes, and carried over to other sizes.

Masks cannot be drawn alike (the published draws come from numpy): what is compared is what the
drawing leaves alone, the counts in a clip, a frame and a row. Attention masks follow from draws
that are stored, so they are compared position by position.
"""

import re

import torch
from torch import Tensor

from golden_replay.case import Case
from golden_replay.settings import Settings
from reelscan.models.masks import (
    attention_mask,
    clip_row_mask,
    frame_row_mask,
    hide_undrawn,
    random_mask,
    tube_mask,
)
from reelscan.models.positions import inflate_patch_weight, interpolate_spatial, sincos_table
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_checkpoint import fit_encoder_state

DRAWN = {
    "sm_random": random_mask,
    "mm_random": random_mask,
    "sm_tube": tube_mask,
    "mm_tube": tube_mask,
    "sm_tube_row": frame_row_mask,
    "sm_random_row": clip_row_mask,
}
DRAWN_NAME = re.compile(r"(\w+)\.f(\d+)h(\d+)w(\d+)_r([\d.]+)_s\d+")


def replay_masks(case: Case) -> None:
    for name in sorted(case.tensors):
        told = DRAWN_NAME.fullmatch(name)
        if told:
            _drawn(case, name, told)
        elif name.startswith("out.attention."):
            _from_attention(case, name)


def _drawn(case: Case, name: str, told: re.Match[str]) -> None:
    kind, ratio = told[1], float(told[5])
    grid = (int(told[2]), int(told[3]), int(told[4]))
    assert kind in DRAWN, f"{name} is a mask of no known kind"
    ours = DRAWN[kind](3, grid, ratio=ratio, generator=torch.Generator().manual_seed(0))
    stored = case.stored(name).view(-1, *grid)
    case.score.fact(name, _structure(ours, kind), _structure(stored, kind))
    if name in case.settings:
        told_counts: Settings = case.settings[name]
        per_clip = int(ours[0].sum())
        stored_count = told_counts["masked"]
        counts = stored_count if isinstance(stored_count, list) else [stored_count]
        case.score.fact(f"config.{name}.masked", [per_clip] * len(counts), counts)
        told_counts.must_be(total=ours[0].numel())
        if "per_frame_masked" in told_counts and kind != "sm_random" and kind != "sm_random_row":
            per_frame = ours[0].flatten(1).sum(1).tolist()
            case.score.fact(f"config.{name}", per_frame, told_counts["per_frame_masked"])
        told_counts.irrelevant(
            reason="counts of one drawing", keys=("per_frame_masked", "per_row_uniform")
        )


def _structure(masks: Tensor, kind: str) -> set[tuple[object, ...]]:
    """What the drawing does not change: counts in a clip, in a frame and in a row."""
    per_frame = masks.flatten(2).sum(-1)
    facts: set[tuple[object, ...]] = {("clip", n) for n in per_frame.sum(-1).tolist()}
    if kind in ("sm_tube", "mm_tube", "sm_tube_row"):
        facts |= {("frame", n) for n in per_frame.flatten().tolist()}
    if kind.endswith("row"):
        whole = (masks == masks[..., :1]).all()
        facts.add(("rows are hidden as a whole", bool(whole)))
    if kind.endswith("tube"):
        facts.add(("same in every frame", bool((masks == masks[:, :1]).all())))
    return facts


def _from_attention(case: Case, name: str) -> None:
    ratio = name.removeprefix("out.attention.r").removesuffix(".mask")
    draws, attention = case[f"rng.attention.r{ratio}.importance"], case["in.attention.attn"]
    stored = case.stored(name)
    hidden = hide_undrawn(draws, ratio=float(ratio))
    case.compare(name, hidden.view(stored.shape))
    frames, area = attention.shape[0] // stored.shape[0], attention.shape[1]
    # Not all grids are square, but a drawn mask's counts are the same for any of this area.
    ours = attention_mask(attention, (frames, 1, area), ratio=float(ratio)).flatten(2).sum(-1)
    case.score.fact(f"{name} drawn anew", ours.unique().tolist(), hidden.sum(-1).unique().tolist())
    if f"attention.r{ratio}" in case.settings:
        counts = case.settings[f"attention.r{ratio}"].plain()
        masked = int(hidden.sum(-1)[0])
        found = {"vis_per_frame": area - masked, "masked_per_frame": masked}
        case.score.fact(f"config.attention.r{ratio}", found, counts)


def replay_sincos(case: Case) -> None:
    rows = case.settings.get("rows")
    for name in sorted(case.tensors):
        whole = re.fullmatch(r"n(\d+)_d(\d+)", name)
        some = re.fullmatch(r"\w+?_(\d+)x(\d+)x(\d+)_head", name)
        assert whole or some, f"{name} is no known table"
        if whole:
            table = sincos_table(int(whole[1]), int(whole[2]))
        else:
            assert some is not None
            frames, area, width = (int(number) for number in some.groups())
            table = sincos_table(1 + frames * area, width)[rows]
        case.compare(name, table.view(case.stored(name).shape))


def replay_interpolation(case: Case) -> None:
    case.settings.irrelevant(reason="a description", keys=("note",))
    for name in case.names("out."):
        case_name, table = name.removeprefix("out.").rsplit(".", 1)
        if case_name.startswith("inflate."):
            how = {"center": "centre", "mean": "mean"}[case_name.split(".")[1]]
            case.compare(name, _inflated(case["in.inflate.w2d"], int(table[1:]), how))
        elif case_name == "teacher_pos":
            (source,) = case.names("in.teacher_pos.")
            carried = interpolate_spatial(case[source][None], side=int(table))[0]
            case.compare(name, carried)
        else:
            case.compare(name, _carried(case, name, case_name, table))


def _inflated(weight: Tensor, tubelet: int, how: str) -> Tensor:
    """By the loader where it is the published way, which puts the weight in the middle."""
    if how == "mean":
        return inflate_patch_weight(weight, tubelet_size=tubelet, how="mean")
    config = VideoMambaConfig(frames=tubelet, tubelet_size=tubelet)
    return fit_encoder_state({"patch_embed.proj.weight": weight}, config)["patch_embed.proj.weight"]


def _carried(case: Case, name: str, case_name: str, table: str) -> Tensor:
    """A learned table as the loader fits it to the size of the stored one."""
    stored, patch = case.stored(name), 16
    if table == "pos_embed":
        side = round((stored.shape[1] - 1) ** 0.5)
        config = VideoMambaConfig(image_size=side * patch, patch_size=patch)
    else:
        assert table == "temporal_pos_embedding", f"{name} is no known table"
        config = VideoMambaConfig(frames=stored.shape[1])
    return fit_encoder_state({table: case[f"in.{case_name}.{table}"]}, config)[table]
