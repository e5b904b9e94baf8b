"""The report of a run: one html file with its curves, its figures and its settings."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from reelscan.models.atomic_file import write_atomically
from reelscan.pretrain.held_out import PREFIX
from reelscan.pretrain.loss_plot import running_mean
from reelscan.pretrain.run_log import read_metrics
from reelscan.pretrain.run_settings import flat_settings
from reelscan.pretrain.train_step import LOSS_NAMES

Rows = Sequence[Mapping[str, float]]

CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("losses", LOSS_NAMES),
    (
        "gradient norm",
        (
            "gradient_norm",
            "gradient_norm_vision_encoder",
            "gradient_norm_text_encoder",
            "gradient_norm_rest",
        ),
    ),
    ("clips a second", ("clips_per_second",)),
    ("share of the GPUs' peak (MFU), and of the time waiting", ("mfu", "data_wait_fraction")),
    ("GPU memory, GiB", ("gpu_memory_gib",)),
    ("temperature", ("temperature",)),
    ("learning rate", ("learning_rate",)),
    ("skipped steps", ("skipped_steps",)),
)
STYLE = (
    "body{font:15px sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "img{width:100%}table{border-collapse:collapse}td{padding:.15rem .8rem .15rem 0;"
    "vertical-align:top}td+td{font-family:monospace;word-break:break-all}"
)


def write_report(
    metrics_path: Path,
    html_path: Path,
    *,
    title: str,
    facts: Mapping[str, object],
    settings: Mapping[str, object],
) -> None:
    """Writes the report, replacing an earlier one; curves without numbers are left out."""
    rows = read_metrics(metrics_path)
    held_out = sorted({name for row in rows for name in row if name.startswith(PREFIX)})
    curves = [*CURVES, ("held-out videos", tuple(held_out))]
    pictures = [_picture(rows, title=name, names=names) for name, names in curves]
    last = {name: value for row in rows for name, value in row.items()}
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1>",
        _table(facts),
        *(f'<img src="data:image/png;base64,{each}">' for each in pictures if each),
        "<h2>last measured</h2>",
        _table({name.replace("_", " "): f"{value:.6g}" for name, value in last.items()}),
        "<h2>settings</h2>",
        _table({name: json.dumps(value) for name, value in flat_settings(settings).items()}),
    ]
    write_atomically(html_path, "\n".join(parts).encode("utf-8"))


def _table(values: Mapping[str, object]) -> str:
    cells = (
        f"<tr><td>{html.escape(str(name))}<td>{html.escape(str(value))}"
        for name, value in values.items()
    )
    return f"<table>{''.join(cells)}</table>"


def _picture(rows: Rows, *, title: str, names: Sequence[str]) -> str | None:
    """A png in base64: raw values pale, their running mean on top; None if there is nothing."""
    series = {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}
    shown = {name: points for name, points in series.items() if any(value for _, value in points)}
    if not shown:
        return None
    # The Figure class alone, without pyplot: no window system, no global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="step", title=title)
    for name, points in shown.items():
        steps, values = zip(*points, strict=True)
        label = name.removeprefix(PREFIX).replace("_", " ")
        (line,) = axes.plot(steps, running_mean(values), label=label, marker="." * (len(steps) < 9))
        axes.plot(steps, values, color=line.get_color(), alpha=0.25, linewidth=0.8)
    axes.grid(alpha=0.3)
    if len(shown) > 1:
        axes.legend(fontsize="small")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    return base64.b64encode(png.getvalue()).decode("ascii")
