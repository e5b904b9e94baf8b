"""A picture of a run: its losses over the steps, drawn from the metrics file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelscan.models.atomic_file import replacing
from reelscan.pretrain.run_log import read_metrics
from reelscan.pretrain.train_step import LOSS_NAMES


def plot_losses(metrics_path: Path, png_path: Path, *, title: str = "") -> None:
    """Draws raw losses pale and their running mean on top; losses that are always 0 are left out.

    Raises ValueError if the metrics file holds no step.
    """
    rows = _rows_with_losses(metrics_path)
    if not rows:
        raise ValueError(f"{metrics_path} holds no logged step, so there is nothing to plot")
    # The Figure class alone, without pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", title=title)
    steps = [row["step"] for row in rows]
    for name in LOSS_NAMES:
        values = [row.get(name, 0.0) for row in rows]
        if any(values):
            (line,) = axes.plot(steps, running_mean(values), label=name.replace("_", " "))
            axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8)
    axes.set_ylim(bottom=0.0)
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(png_path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def has_losses(metrics_path: Path) -> bool:
    """Whether there is anything to plot."""
    return bool(_rows_with_losses(metrics_path))


def _rows_with_losses(metrics_path: Path) -> list[dict[str, float]]:
    """Steps that were skipped have none."""
    return [row for row in read_metrics(metrics_path) if "total" in row]


def running_mean(values: Sequence[float]) -> NDArray[np.float64]:
    """Mean over the last fiftieth of the run at each point (over fewer at its start)."""
    window = max(1, len(values) // 50)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    means: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return means
