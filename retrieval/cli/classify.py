"""`reelscan classify`: how well a model tells classes of videos."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reelscan import __version__
from reelscan.models.atomic_file import write_atomically
from reelscan.retrieval.classify import ClassifyReport, ClassifySettings, classify
from reelscan.retrieval.cli.arguments import as_json, parse_arguments
from reelscan.retrieval.cli.device import best_device
from reelscan.retrieval.cli.evaluation_progress import EvaluationBars
from reelscan.retrieval.cli.progress import notice
from reelscan.retrieval.feature_cache import default_cache
from reelscan.retrieval.labelled_videos import LabelledVideos, read_classes, read_labelled
from reelscan.retrieval.model_choice import choose_any_encoder, choose_model


@dataclass(frozen=True, kw_only=True)
class Command:
    """Measures how well a frozen model tells classes of videos.

    Takes a folder with a subfolder for each class, an annotation file with a column of videos and
    one of classes (label), or a published list of "PATH NUMBER" lines. By class names alone
    (zero-shot); with --train also by nearest neighbours and a linear probe on its examples. Writes
    report.json and predictions.csv. Stopped with Ctrl-C, it goes on when run again.

    Examples:
      reelscan classify my-videos --model my-model
      reelscan classify k400_val.csv --videos K400/val --classes k400_names.txt
      reelscan classify test --train train --model my-model
      reelscan classify test.csv --videos clips --prompts "a video of {}" "{} at the zoo"
    """

    what: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER|ANNOTATIONS")]
    """The videos that are measured, with their classes."""
    train: Path | None = None
    """Labelled examples, a folder or a file of the same kinds."""
    model: str | None = None
    """Model directory, published weight file, hub:OWNER/NAME/FILE, demo, or
    open_clip:MODEL:WEIGHTS; None: the published 25M video-text model."""
    videos: Path | None = None
    """Folder that the videos' paths in annotation files are relative to; None: the file's own."""
    classes: Path | None = None
    """File of all class names, one a line, the first being number 0; None: those that occur."""
    how: ClassifySettings = field(default_factory=ClassifySettings)
    to: Path | None = None
    """Folder for the report; None: classifications/NAME."""
    cache: Path | None = None
    """Folder for features; None: $REELSCAN_CACHE or ~/.cache/reelscan/features."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print json."""


def main(arguments: list[str]) -> int:
    """Measures, prints and saves."""
    command = parse_arguments(Command, "classify", arguments)
    # Read now, so that a wrong file is told before a model is fetched.
    measured, train = labelled_sets(command)
    device = best_device(command.device)
    name = command.model
    encoder = choose_any_encoder(
        choose_model(None, on_notice=notice) if name is None else name,
        device=device,
        on_notice=notice,
    )
    with EvaluationBars() as bars:
        report = classify(
            encoder,
            measured,
            train=train,
            cache_folder=command.cache or default_cache(),
            settings=command.how,
            on_progress=bars.show,
        )
    folder = command.to or Path("classifications") / command.what.resolve().stem
    folder.mkdir(parents=True, exist_ok=True)
    told = {"reelscan": __version__, "model": encoder.fingerprint, **summary(report)}
    write_atomically(folder / "report.json", as_json(told).encode())
    write_atomically(folder / "predictions.csv", predictions(report).encode())
    print(as_json(told) if command.json else report_text(report))
    if not command.json:
        print(f"\nwritten to {folder}: report.json, predictions.csv")
    return 0


def labelled_sets(command: Command) -> tuple[LabelledVideos, LabelledVideos | None]:
    """Both sets, with the same classes."""
    sources = [command.what, *([command.train] if command.train is not None else [])]
    classes = None if command.classes is None else read_classes(command.classes)

    def read(source: Path) -> LabelledVideos:
        root = None if source.is_dir() else command.videos
        return read_labelled(source, root=root, classes=classes)

    if all(source.is_dir() for source in sources) and command.videos is not None:
        raise ValueError("--videos is for annotation files; a folder of classes holds its videos")
    if classes is None:
        classes = tuple(sorted({name for source in sources for name in read(source).classes}))
    if len(classes) < 2:
        raise ValueError(f"there is one class alone, {classes[0]!r}; nothing is to be told apart")
    measured, *rest = (read(source) for source in sources)
    return measured, rest[0] if rest else None


def summary(report: ClassifyReport) -> dict[str, object]:
    return {
        "videos": len(report.videos),
        "classes": len(report.classes),
        "examples": report.examples,
        "chance_top_1": report.chance,
        "results": {one.way: one.metrics for one in report.ways},
        "linear_probe_penalty": report.penalty,
        "left_out": report.left_out,
    }


def report_text(report: ClassifyReport) -> str:
    examples = f", {report.examples:,} labelled examples" if report.examples else ""
    lines = [
        f"{len(report.videos):,} videos of {len(report.classes)} classes{examples}",
        "",
        f"{'':<16}{'top 1':>8}{'top 5':>8}{'mean of classes':>18}",
    ]
    for one in report.ways:
        metrics = one.metrics
        lines.append(
            f"{one.way:<16}{metrics.top_1:>8.1f}{metrics.top_5:>8.1f}{metrics.mean_class:>18.1f}"
        )
    lines.append(f"{'chance':<16}{report.chance:>8.1f}")
    if report.left_out:
        lines += ["", f"{len(report.left_out)} videos were left out:"]
        lines += [f"  {one.video}: {one.reason}" for one in report.left_out]
    return "\n".join(lines)


def predictions(report: ClassifyReport) -> str:
    """A table: each video's class and what each way says."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["video", "class", *(one.way for one in report.ways)])
    guesses = [one.scores.argmax(axis=1) for one in report.ways]
    for row, (video, label) in enumerate(zip(report.videos, report.labels, strict=True)):
        names = (report.classes[int(guess[row])] for guess in guesses)
        table.writerow([video, report.classes[int(label)], *names])
    return text.getvalue()
