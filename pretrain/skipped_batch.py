"""The batch of a skipped step on disk, to be looked at later.

    OUT/skipped/step-00001234-process-0.safetensors   clips and sample ids of that process, and what
                                                      a teacher sees, if that was at hand
    OUT/skipped/step-00001234-process-0.json          captions, and what was measured

Axes: B clips, T frames, S x S pixels.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from reelscan.models.atomic_file import write_atomically
from reelscan.models.clip_vit import TeacherOutput
from reelscan.models.plain_config import from_plain
from reelscan.pretrain.shard_loader import Batch

NAME = re.compile(r"step-(\d{8,})-process-(\d+)\.safetensors")


@dataclass(frozen=True, kw_only=True)
class SkippedStep:
    """A step that was not learned from."""

    step: int
    """Its number."""
    position: int
    """Number of the batch, which also seeds what is random in the step."""
    losses: Mapping[str, float | None]
    """As measured, over all processes; None if not finite."""
    gradient_norm: float | None
    highest_loss: float | None
    """Above this total the loss was a spike; None while nothing was."""

    @classmethod
    def of(
        cls,
        *,
        step: int,
        position: int,
        losses: Mapping[str, float],
        gradient_norm: float,
        highest_loss: float,
    ) -> "SkippedStep":
        """From numbers that may be infinite or not a number, which json does not know."""
        return cls(
            step=step,
            position=position,
            losses={name: _finite(loss) for name, loss in losses.items()},
            gradient_norm=_finite(gradient_norm),
            highest_loss=_finite(highest_loss),
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def save_skipped(folder: Path, batch: Batch, step: SkippedStep, *, process: int) -> Path:
    """Writes a process's part of the batch; returns the safetensors file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step.step:08d}-process-{process}.safetensors"
    told = {
        "step": step.step,
        "position": step.position,
        "losses": dict(step.losses),
        "gradient_norm": step.gradient_norm,
        "highest_loss": step.highest_loss,
        "captions": list(batch.captions),
    }
    tensors = {"clips_uint8": batch.clips_uint8.contiguous(), "sample_ids": batch.sample_ids}
    if batch.taught is not None:
        tensors["taught_features"] = batch.taught.features.contiguous()
        tensors["taught_attention"] = batch.taught.attention.contiguous()
    # The captions first: a file of clips always has them beside it.
    write_atomically(path.with_suffix(".json"), json.dumps(told, indent=1).encode())
    write_atomically(path, save(tensors))
    return path


def read_skipped(path: Path) -> tuple[SkippedStep, list[Batch]]:
    """The step and the batches of all its processes, from the file of any of them.

    Raises ValueError for what is no such file.
    """
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(
            f"{path.name} is no saved batch; give a file step-N-process-P.safetensors of a run's "
            "folder `skipped`"
        )
    files = sorted(
        path.parent.glob(f"step-{match[1]}-process-*.safetensors"),
        key=lambda file: int(file.stem.rsplit("-", 1)[1]),
    )
    if path not in files:
        raise FileNotFoundError(2, "No such file", str(path))
    told = [_told(file.with_suffix(".json")) for file in files]
    batches = [_batch(file, content["captions"]) for file, content in zip(files, told, strict=True)]
    first = {name: value for name, value in told[0].items() if name != "captions"}
    return from_plain(SkippedStep, first, where=files[0].with_suffix(".json").name), batches


def count_skipped(folder: Path) -> int:
    """Steps whose batches are saved."""
    found = folder.glob("step-*.safetensors") if folder.is_dir() else ()
    return len({match[1] for path in found if (match := NAME.fullmatch(path.name))})


def _told(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = set(SkippedStep.__dataclass_fields__) | {"captions"}
        if isinstance(content, dict) and content.keys() == names:
            return content
    except ValueError:
        pass
    raise ValueError(f"{path} does not describe a saved batch: it is damaged, or not ours")


def _batch(path: Path, captions: object) -> Batch:
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file: {error}") from error
    clips, ids = tensors.get("clips_uint8"), tensors.get("sample_ids")
    if (
        clips is None
        or ids is None
        or not isinstance(captions, list)
        or not len(clips) == len(ids) == len(captions)
        or clips.dtype != torch.uint8
    ):
        raise ValueError(f"{path} and its .json do not hold a batch: as many clips as captions")
    taught = None
    if "taught_features" in tensors and "taught_attention" in tensors:
        taught = TeacherOutput(
            features=tensors["taught_features"], attention=tensors["taught_attention"]
        )
    return Batch(
        clips_uint8=clips,
        captions=[str(text) for text in captions],
        sample_ids=ids,
        taught=taught,
    )
