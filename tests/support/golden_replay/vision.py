"""vision_*: the encoder, with every mask, pooling, stored stream, drop path and gradient.

Stored clips are [B, 3, T, H, W]; masks bool [B, 1 + N].
"""

import re

import torch
from torch import Tensor

from golden_replay.case import Case
from golden_replay.vision_settings import vision_config
from reelscan.models.drop_path import DropPath
from reelscan.models.videomamba import VideoMamba, VisionOutput
from reelscan.models.weights import load_strict

OUTPUTS = {"x_vis": "tokens", "x_pool": "pooled", "x_clip": "alignment"}
LOSS = "(x_vis*w_vis).mean()+(x_pool*w_pool).sum()+(x_clip*w_clip).mean()"
"""The published text that tells how the stored gradients came about."""


def replay(case: Case) -> None:
    case.settings.must_be(call="forward(x,mask,use_image,keep_temporal)")
    case.settings.irrelevant(reason="listed by the tensors' names too", keys=("cases",))
    _check_drop_rates(case)
    _constants(case)
    results = case.names("out.")
    named = [name for name in results if name.count(".") == 5]
    streams = [name for name in results if name.startswith("out.forward_features.")]
    single = [name for name in results if name.count(".") == 1]
    for run in sorted({name.rsplit(".", 1)[0] for name in named}):
        _named_run(case, run)
    for kind in sorted({name.split(".")[2] for name in streams}):
        _streams(case, kind)
    if single:
        _single_run(case, single)
    if case.names("grad."):
        _gradients(case)
    else:
        case.settings.irrelevant(reason="no gradient of it is stored", keys=("loss",))


def build(case: Case, **changes: object) -> VideoMamba:
    """The encoder of the case with its weights, in evaluation mode unless draws are stored."""
    model = VideoMamba(vision_config(case.settings, **changes))
    state = case.group("param.")
    load_strict(model, state)
    model.to(device=case.device, dtype=state["pos_embed"].dtype)
    return model.train(bool(case.names("rng.rand.")))


def feed_drop_path(case: Case, model: VideoMamba) -> list[Tensor]:
    """Lets the stored draws decide, in the order of calls; the list shrinks as they are used."""
    names = sorted(case.names("rng.rand."), key=lambda name: int(name.rsplit(".", 1)[1]))
    remaining = [case[name].flatten() for name in names]
    for module in model.modules():
        if isinstance(module, DropPath):
            module.draw = lambda _clips: remaining.pop(0)
    return remaining


def _run(
    case: Case, clips: str, mask: Tensor | None, *, keep_temporal: bool, **changes: object
) -> tuple[VideoMamba, VisionOutput]:
    model = build(case, **changes)
    remaining = feed_drop_path(case, model)
    output = model(case[clips].transpose(1, 2), mask=mask, keep_temporal=keep_temporal)
    assert not remaining, f"{len(remaining)} stored draws were not asked for"
    return model, output


def _check_drop_rates(case: Case) -> None:
    if "inter_dpr" in case.settings:
        stored = torch.tensor(case.settings["inter_dpr"])
        blocks = [layer.drop_path.rate for layer in build(case).layers]
        case.score.add("config.inter_dpr", torch.tensor([0.0, *blocks]), stored)
    case.settings.must_be(n_draws=len(case.names("rng.rand.")))


def _constants(case: Case) -> None:
    for name in case.names("const."):
        frames = {"const.clip_pos_embed": None, "const.clip_img_pos_embed": 1}
        assert name in frames, f"{name} is no known constant"
        model = build(case)
        _, rows, columns = model.config.grid
        count = 1 + (frames[name] or model.config.grid[0]) * rows * columns
        case.compare(name, model.alignment_positions[:, :count])


def _named_run(case: Case, run: str) -> None:
    """out.{mask or nomask}.{kind}.{pooling}.{kt0 or kt1}."""
    _, masked, kind, pooling, keep = run.split(".")
    assert masked in ("mask", "nomask") and keep in ("kt0", "kt1"), f"{run} is no known run"
    mask = case[f"in.mask_{kind}"] if masked == "mask" else None
    clips = "in.image" if kind.startswith("image") else "in.video"
    with torch.no_grad():
        _, output = _run(case, clips, mask, keep_temporal=keep == "kt1", pooling=pooling)
    for name in case.names(f"{run}."):
        case.compare(name, getattr(output, OUTPUTS[name.rsplit(".", 1)[1]]))


def _streams(case: Case, kind: str) -> None:
    model = build(case)
    remaining = feed_drop_path(case, model)
    mask = case.get(f"in.mask_{kind}")
    assert mask is not None or kind in ("video", "image", "nomask"), f"no mask for {kind}"
    clips = case["in.image" if kind.startswith("image") else "in.video"].transpose(1, 2)
    features = model.encode(clips, mask=mask)
    assert not remaining, f"{len(remaining)} stored draws were not asked for"
    found = {"x_vis_with_cls": features.tokens, "x_clip_vis": torch.stack(features.aligned)}
    for name in case.names(f"out.forward_features.{kind}."):
        case.compare(name, found[name.rsplit(".", 1)[1]])


def _single_run(case: Case, names: list[str]) -> None:
    """One run of the only clips under the only mask, if there is one."""
    masks, sources = case.names("in.mask"), [n for n in case.names("in.") if "mask" not in n]
    assert len(masks) <= 1 and len(sources) == 1, f"{masks} and {sources}: which ones were run?"
    pooling = case.settings.get("pool_type", "cls+avg")
    frames = case.settings["num_frames"] // case.settings.get("kernel_size", 1)
    groups = case.stored("out.x_pool").shape[1] if "out.x_pool" in case else 1
    keep = groups == frames > 1 and pooling != "cls"
    keep = case.settings.get("keep_temporal", keep)
    mask = case[masks[0]] if masks else None
    with torch.no_grad():
        _, output = _run(case, sources[0], mask, keep_temporal=keep)
    for name in names:
        case.compare(name, getattr(output, OUTPUTS[name.removeprefix("out.")]))


def _gradients(case: Case) -> None:
    formula = case.settings["loss"]
    told = re.fullmatch(re.escape(LOSS) + r"(?:, (mask_\w+))?(?:, pool (\S+))?", formula)
    assert told, f"the gradients are those of {formula!r}; replayed is {LOSS}"
    mask = case[f"in.{told[1]}"] if told[1] else None
    clips = "in.image" if told[1] == "mask_image" else "in.video"
    keep = case.stored("train.w_pool").shape[1] > (2 if told[2] == "cls_cat_avg" else 1)
    changes = {"pooling": told[2]} if told[2] else {}
    model, output = _run(case, clips, mask, keep_temporal=keep, **changes)
    assert output.alignment is not None
    loss = (
        (output.tokens * case["train.w_vis"]).mean()
        + (output.pooled * case["train.w_pool"]).sum()
        + (output.alignment * case["train.w_clip"]).mean()
    )
    case.compare("train.loss", loss)
    loss.backward()
    case.compare_gradients(model)
