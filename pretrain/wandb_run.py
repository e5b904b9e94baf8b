"""A run at Weights & Biases, if that is installed; resumed under the same id."""

from collections.abc import Mapping
from pathlib import Path

from reelscan.models.atomic_file import write_atomically

ID_FILE = "wandb-id"


class WandbRun:
    """Sends metrics to a project. Raises ImportError, with the remedy, without the library."""

    def __init__(self, project: str, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                f"run.wandb is {project!r}, but wandb is not installed: pip install wandb, or "
                "leave run.wandb out (metrics.jsonl and TensorBoard have the same numbers)"
            ) from error
        path = folder / ID_FILE
        if not path.exists():
            write_atomically(path, wandb.util.generate_id().encode())
        self._run = wandb.init(
            project=project,
            name=folder.resolve().name,
            id=path.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(folder),
        )
        # A step of its own: after a resume or a roll-back some steps are done again.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()
