"""What benchmarks/encoder.py writes: json, a markdown table, and the plot over frames."""

import json
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_timing import Cost


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement."""

    what: str
    work: str
    kind: str
    milliseconds: float
    clips_per_second: float
    gibibytes: float

    @classmethod
    def of(cls, what: str, work: str, kind: str, cost: Cost, clips: int) -> "Row":
        return cls(
            what=what,
            work=work,
            kind=kind,
            milliseconds=round(cost.milliseconds, 4),
            clips_per_second=round(1000 * clips / cost.milliseconds, 2),
            gibibytes=round(cost.gibibytes, 3),
        )

    def line(self) -> str:
        """As a row of a markdown table."""
        return (
            f"| {self.what} | {self.work} | {self.kind} | {self.milliseconds:.3f} "
            f"| {self.clips_per_second:.1f} | {self.gibibytes:.2f} |"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


HEAD = "| what | work | who | ms | clips/s | GiB above weights |\n|---|---|---|---|---|---|"


def write_report(folder: Path, rows: list[Row], checks: list[str]) -> None:
    """encoder.json, encoder.md, and encoder.png once there is something over frames to plot."""
    folder.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    about = {
        "command": "python benchmarks/encoder.py",
        "commit": commit or "unknown: not a checkout",
        "hardware": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).date().isoformat(),
    }
    content = {**about, "checks": checks, "rows": [row.as_dict() for row in rows]}
    (folder / "encoder.json").write_text(json.dumps(content, indent=1))
    facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
    table = "\n".join([HEAD, *(row.line() for row in rows)])
    said = "\n".join(f"- {check}" for check in checks)
    (folder / "encoder.md").write_text(f"{facts}\n\nChecked first:\n\n{said}\n\n{table}\n")
    crossover = [row for row in rows if row.what == "crossover"]
    if crossover:
        _plot(folder / "encoder.png", crossover)


def _plot(path: Path, rows: list[Row]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6))
    styles = {"ours": "-", "published": ":", "ViT": "--"}
    colours = {"Ti": "tab:green", "S": "tab:orange", "M": "tab:blue", "B": "tab:purple"}
    for kind in dict.fromkeys(row.kind for row in rows):
        chosen = [row for row in rows if row.kind == kind]
        frames = [int(row.work.split()[0]) for row in chosen]
        name, size = kind.split()
        label = f"{'ViT' if name == 'ViT' else 'VideoMamba'}-{size}"
        label += " (published kernels)" if name == "published" else ""
        look = {"linestyle": styles[name], "color": colours[size], "marker": "o", "label": label}
        rates = [row.clips_per_second * count for row, count in zip(chosen, frames, strict=True)]
        left.plot(frames, rates, **look)
        right.plot(frames, [row.gibibytes for row in chosen], **look)
    for axes, title in (
        (left, "frames a second"),
        (right, "GiB above weights, 512 frames a batch"),
    ):
        axes.set(xscale="log", yscale="log", xlabel="frames of a clip", title=title)
        axes.set_xticks(
            [8, 16, 32, 64, 128, 256, 512], ["8", "16", "32", "64", "128", "256", "512"]
        )
        axes.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=5, fontsize=8)
    figure.suptitle("Inference at 224 px in bfloat16 on one GPU")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=130)
