"""Checkpoints of a run: whole folders that are there completely or not at all.

    step-00001234/model.safetensors      parameters and buffers
    step-00001234/optimizer.safetensors  AdamW's state, one tensor a parameter and kind
    step-00001234/state.json             position, settings of the run, sizes of the other files

A checkpoint is written beside its final place and renamed into it, so a kill leaves at most a
folder that starts with a dot. Nothing in it is pickled. Random generators are not stored: training
seeds them from (seed, step, process), so the step says it all.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from reelscan.models.atomic_directory import atomic_directory

FORMAT = 1
STEP_FOLDER = re.compile(r"step-(\d{8,})")
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands, besides its tensors."""

    step: int
    """Steps done; the next one has this number."""
    skipped_steps: int = 0
    """Steps whose update was left out because of a loss or gradient that was not finite."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The run's configuration as plain JSON values, to be compared on resume."""


def save_checkpoint(
    folder: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: RunState,
    keep_last: int,
) -> Path:
    """Writes `folder/step-N` atomically, deletes all but the newest `keep_last`, returns its path.

    The optimizer must have been built with named parameters (`optimizer.build_optimizer`).
    """
    if keep_last < 1:
        raise ValueError(f"keep_last is {keep_last}, but at least 1 checkpoint must be kept")
    folder.mkdir(parents=True, exist_ok=True)
    final = checkpoint_path(folder, state.step)
    _sweep_unfinished(folder)
    with atomic_directory(final) as unfinished:
        save_model(model, str(unfinished / MODEL_FILE))
        save_file(_optimizer_tensors(optimizer), unfinished / OPTIMIZER_FILE)
        sizes = {name: (unfinished / name).stat().st_size for name in (MODEL_FILE, OPTIMIZER_FILE)}
        content = {"format": FORMAT, **asdict(state), "bytes": sizes}
        (unfinished / STATE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for old in complete_checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return folder / f"step-{step:08d}"


def load_checkpoint(
    path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> RunState:
    """Restores model and optimizer in place. Raises ValueError if the checkpoint does not fit."""
    if not is_complete(path):
        raise ValueError(f"{path} is not a complete checkpoint: choose another or start anew")
    try:
        load_model(model, path / MODEL_FILE)
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds another model than the configured one: {error}; "
            "resume with the configuration the run was started with"
        ) from error
    if optimizer is not None:
        _restore_optimizer(optimizer, load_file(path / OPTIMIZER_FILE))
    return read_state(path)


def read_state(path: Path) -> RunState:
    """The state of a complete checkpoint, without its tensors."""
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    return RunState(
        step=state["step"], skipped_steps=state["skipped_steps"], settings=state["settings"]
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    found = complete_checkpoints(folder)
    return found[-1] if found else None


def complete_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    if not folder.is_dir():
        return []
    steps = {
        int(match[1]): entry
        for entry in folder.iterdir()
        if (match := STEP_FOLDER.fullmatch(entry.name)) and is_complete(entry)
    }
    return [steps[step] for step in sorted(steps)]


def is_complete(path: Path) -> bool:
    """Whether the state is readable and every file it lists has the listed size."""
    try:
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if state.get("format") != FORMAT:
        return False
    return all(
        (path / name).is_file() and (path / name).stat().st_size == size
        for name, size in state["bytes"].items()
    )


def _sweep_unfinished(folder: Path) -> None:
    """Removes what a killed run left half-written."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)


def _named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """{"exp_avg/NAME": tensor, ...}; parameters that never had a gradient have no state."""
    return {
        f"{kind}/{name}": value.contiguous()
        for name, parameter in _named_parameters(optimizer).items()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = _named_parameters(optimizer)
    unknown = sorted({key.split("/", 1)[1] for key in tensors} - parameters.keys())
    if unknown:
        raise ValueError(
            f"the checkpoint's optimizer knows parameters this run does not train: {unknown[:5]}; "
            "resume with the configuration the run was started with"
        )
    optimizer.state.clear()
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][kind] = value.to(parameter.device)
