"""What a run measured: one JSON line a logged step, and the same for TensorBoard and, if wanted,
Weights & Biases.

After a kill the file may hold steps beyond the checkpoint that training resumes from, and a torn
last line: both are dropped on resume, so that no step appears twice.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from reelscan.models.atomic_file import write_atomically
from reelscan.pretrain.wandb_run import WandbRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Appends metrics to `folder/metrics.jsonl` and, if asked, to `folder/tensorboard/` and to the
    project `wandb`.

    `steps_done` is the number of steps kept from earlier parts of the run (0 for a new one).
    Raises ImportError if wandb is wanted but not installed.
    """

    def __init__(
        self, folder: Path, *, steps_done: int, tensorboard: bool, wandb: str | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._tensorboard = tensorboard
        self._wandb = None if wandb is None else WandbRun(wandb, folder)
        self._open(steps_done)

    def _open(self, steps_done: int) -> None:
        path = self._folder / METRICS_FILE
        keep_steps_before(path, steps_done)
        self._next_step = steps_done
        self._file = path.open("a", encoding="utf-8")
        self._writer = _summary_writer(self._folder, steps_done) if self._tensorboard else None

    def drop_from(self, step: int) -> None:
        """Forgets the steps from this number on, if there are any: they are done again."""
        if step < self._next_step:
            self._close_files()
            self._open(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one line `{"step": step, ...}` and hands it to the operating system at once."""
        self._next_step = step + 1
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.write(step, values)

    def close(self) -> None:
        self._close_files()
        if self._wandb is not None:
            self._wandb.close()

    def _close_files(self) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The logged steps in order; a torn last line is left out. Empty if there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def keep_steps_before(path: Path, steps_done: int) -> None:
    """Rewrites the metrics file atomically without the steps from number `steps_done` on."""
    if not path.exists():
        return
    kept = [row for row in read_metrics(path) if row["step"] < steps_done]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in kept).encode("utf-8"))


def _summary_writer(folder: Path, steps_done: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder / "tensorboard", purge_step=steps_done)
