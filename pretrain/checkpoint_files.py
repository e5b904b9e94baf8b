"""Where the checkpoints of a run lie, which of them are whole, and what their states say.

A checkpoint is written beside its final place and renamed into it, so a kill leaves at most a
folder that starts with a dot. `state.json` comes last and lists the sizes of the other files.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

FORMAT = 2
STEP_FOLDER = re.compile(r"step-(\d{8,})")
STATE_FILE = "state.json"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run stands, besides its tensors."""

    step: int
    """Steps done; the next one has this number."""
    position: int = 0
    """Batches taken from the data; more than `step` after a roll-back."""
    skipped_steps: int = 0
    """Steps whose update was left out: loss or gradient not finite, or a spike."""
    roll_backs: int = 0
    """Times that the run went back to a checkpoint because it had diverged."""
    recent_losses: tuple[float, ...] = ()
    """Total losses of the last applied steps, which tell what a spike is."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The run's configuration as plain JSON values, to be compared on resume."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return folder / f"step-{step:08d}"


def unfinished_path(folder: Path, step: int) -> Path:
    """Where it lies while it is written."""
    return folder / f".step-{step:08d}.unfinished"


def is_checkpoint(path: Path) -> bool:
    """Whether this is the folder of a checkpoint, whole or not."""
    return (path / STATE_FILE).is_file()


def put_in_place(unfinished: Path, final: Path, state: RunState) -> None:
    """Adds the state to the files in `unfinished` and moves all to `final`, in one step."""
    sizes = {file.name: file.stat().st_size for file in sorted(unfinished.iterdir())}
    content = {"format": FORMAT, **asdict(state), "bytes": sizes}
    (unfinished / STATE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for file in unfinished.iterdir():
        _sync(file)
    _sync(unfinished)
    if final.exists():
        # Not whole, or it would not be written again.
        shutil.rmtree(final)
    unfinished.rename(final)
    _sync(final.parent)


def sweep(folder: Path, *, keep_last: int) -> None:
    """Removes all but the newest checkpoints."""
    for old in complete_checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)


def sweep_unfinished(folder: Path) -> None:
    """Removes what a killed run left half-written."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)


def read_state(path: Path) -> RunState:
    """The state of a complete checkpoint, without its tensors."""
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    return RunState(
        step=state["step"],
        position=state["position"],
        skipped_steps=state["skipped_steps"],
        roll_backs=state["roll_backs"],
        recent_losses=tuple(state["recent_losses"]),
        settings=state["settings"],
    )


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None.

    Raises ValueError if there are only checkpoints of another version.
    """
    found = complete_checkpoints(folder)
    if not found and folder.is_dir():
        for entry in folder.iterdir():
            if (version := _version(entry)) not in (None, FORMAT):
                raise ValueError(
                    f"{entry} was written in format {version}, this version reads {FORMAT}: resume "
                    "with the version that wrote it, or start a new run in another folder"
                )
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
    if _version(path) != FORMAT:
        return False
    state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    return all(
        (path / name).is_file() and (path / name).stat().st_size == size
        for name, size in state["bytes"].items()
    )


def _version(path: Path) -> object:
    """The format that a state names; None without a readable state."""
    try:
        state = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return state.get("format") if isinstance(state, dict) else None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
