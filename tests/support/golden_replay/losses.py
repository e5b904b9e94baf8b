"""loss_uta*, loss_vtc*, loss_vtc_*rank*: alignment and contrastive losses with their gradients."""

import re

import torch
from torch import Tensor

from golden_replay.case import Case
from reelscan.models.losses import (
    alignment_loss,
    contrastive_loss,
    contrastive_targets,
    frame_similarity,
)

FIRST_TEMPERATURE = 0.07
"""Published start of the temperature, where a case names none."""


def replay_alignment(case: Case) -> None:
    case.settings.irrelevant(reason="tell axes and names of the tensors", keys=("shape", "naming"))
    for name in case.names("out."):
        told = re.fullmatch(r"out\.(l2|none)\.(\w+)\.loss", name)
        assert told, f"{name} is no known output"
        normalisation, kind = told.groups()
        student = case.leaf("in.student")
        loss = alignment_loss(student, case["in.clip"], kind=kind, normalise=normalisation == "l2")
        loss.backward()
        case.compare(name, loss)
        case.compare(f"grad.{normalisation}.{kind}.student", student.grad)


def replay_contrastive(case: Case) -> None:
    case.settings.irrelevant(reason="a description", keys=("note",))
    temperature = case.settings.get("temp", FIRST_TEMPERATURE)
    for name in case.names("out."):
        if re.fullmatch(r"out\.rank\d+\.loss", name):
            _of_one_process(case, name.split(".")[1], temperature)
        elif name.endswith(".loss"):
            _alone(case, name, temperature)
        elif ".sim_" in name:
            _similarity(case, name, temperature)
        else:
            kind = name.removeprefix("out.targets_")
            ids = _ids(case, kind)
            assert ids is not None
            case.compare(name, contrastive_targets(ids, ids))
    _stored_numbers(case, temperature)


def _ids(case: Case, kind: str) -> Tensor | None:
    known = {"none": None, "unique": torch.arange(len(case["in.idx"]), device=case.device)}
    return known[kind] if kind in known else {"dup": case["in.idx"]}[kind]


def _alone(case: Case, name: str, temperature: float) -> None:
    """out.{shape of the video}.{none, unique or dup}.loss of one process."""
    _, shape, kind, _ = name.split(".")
    video, text = case.leaf(f"in.vision_proj.{shape}"), case.leaf("in.text_proj")
    learned = torch.tensor(temperature, device=case.device, requires_grad=True)
    loss = contrastive_loss(video, text, temperature=learned, ids=_ids(case, kind))
    loss.backward()
    case.compare(name, loss)
    found = {"vision_proj": video.grad, "text_proj": text.grad, "temp": learned.grad}
    for gradient in case.names(f"grad.{shape}.{kind}."):
        case.compare(gradient, found[gradient.rsplit(".", 1)[1]])


def _similarity(case: Case, name: str, temperature: float) -> None:
    """out.{shape, or textN for texts of N vectors}.sim_{mean or max}.{v2t or t2v}."""
    _, shape, over, direction = name.split(".")
    several = re.fullmatch(r"text(\d+)", shape)
    if several:
        rows, columns = case[f"in.text_proj{several[1]}"], case["in.vision_proj.BC"]
    else:
        rows, columns = case[f"in.vision_proj.{shape}"], case["in.text_proj"]
    similarity = frame_similarity(
        rows, columns, temperature=temperature, over_frames=over.removeprefix("sim_")
    )
    rows_are_videos = not several
    case.compare(name, similarity if rows_are_videos == (direction == "v2t") else similarity.T)


def _of_one_process(case: Case, rank: str, temperature: float) -> None:
    """The published gradients: of a process's own samples alone, before any averaging."""
    count = len(case.names("out.rank"))
    size, number = len(case["in.idx"]) // count, int(rank.removeprefix("rank"))
    own = slice(size * number, size * (number + 1))
    video = case["in.vision_proj"][own].clone().requires_grad_()
    text = case["in.text_proj"][own].clone().requires_grad_()
    learned = torch.tensor(temperature, device=case.device, requires_grad=True)
    loss = contrastive_loss(
        video,
        text,
        temperature=learned,
        ids=case["in.idx"][own],
        all_video=case["in.vision_proj"],
        all_text=case["in.text_proj"],
        all_ids=case["in.idx"],
        row_offset=size * number,
        gathered_gradient="local_slice",
    )
    loss.backward()
    case.compare(f"out.{rank}.loss", loss)
    found = {"vision_proj": video.grad, "text_proj": text.grad, "temp": learned.grad}
    for gradient in case.names(f"grad.{rank}."):
        case.compare(gradient, found[gradient.rsplit(".", 1)[1]])


def _stored_numbers(case: Case, temperature: float) -> None:
    """What the configuration of several processes holds: their losses, and what a slice lacks."""
    if "rank_losses" in case.settings:
        stored = torch.stack(
            [case.stored(f"out.rank{r}.loss") for r in range(len(case.names("out.rank")))]
        )
        case.score.add("config.rank_losses", stored, torch.tensor(case.settings["rank_losses"]))
    if "ratio_local_to_full" in case.settings:
        video, text = case.leaf("in.vision_proj"), case.leaf("in.text_proj")
        contrastive_loss(video, text, temperature=temperature, ids=case["in.idx"]).backward()
        ranks = range(len(case.names("out.rank")))
        local = torch.cat([case.stored(f"grad.rank{rank}.vision_proj") for rank in ranks])
        ratio = (local.norm() / video.grad.cpu().norm()).reshape(())
        stored_ratio = torch.tensor(float(case.settings["ratio_local_to_full"]))
        case.score.add("config.ratio_local_to_full", ratio, stored_ratio)
