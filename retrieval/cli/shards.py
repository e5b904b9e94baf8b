"""`reelscan shards`: writes captioned videos into WebDataset shards, indexes those of others, and
checks them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reelscan.pretrain.annotations import read_annotations
from reelscan.pretrain.shard_index import read_index, verify_shards
from reelscan.pretrain.shard_scan import index_shards
from reelscan.pretrain.shard_writer import ShardReport, write_shards
from reelscan.pretrain.skip_log import SkipLog
from reelscan.pretrain.teach_shards import TeachConfig, teach_shards
from reelscan.retrieval.cli.arguments import as_json, parse_action
from reelscan.retrieval.cli.device import best_device
from reelscan.retrieval.cli.progress import StageProgress

MAX_SHOWN_SKIPS = 20


@dataclass(frozen=True, kw_only=True)
class Write:
    """Writes the videos and images of an annotation file into shards for pretraining.

    Every file is opened and decoded first; what cannot be read is listed in NAME.rejects.jsonl.
    Interrupted, it goes on where it stopped when run again.

    Examples:
      reelscan shards write captions.csv --videos ~/clips --to shards --name clips
      reelscan shards write captions.jsonl --videos . --to shards --samples-per-shard 500
      reelscan shards write captions.parquet --videos . --to small --reencode-short-side 224
    """

    annotations: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ANNOTATIONS")]
    """Videos and captions: csv, tsv, json, jsonl or parquet."""
    to: Path
    """Folder for the shards."""
    videos: Path | None = None
    """Folder that the videos' paths are relative to; None: the annotation file's folder."""
    name: str = "shards"
    """Start of the files' names."""
    video_column: str | None = None
    """Column of the paths; None: found by its name."""
    caption_column: str | None = None
    """Column of the captions; None: found by its name."""
    samples_per_shard: int = 1000
    """Most samples of a shard."""
    bytes_per_shard: int = 500_000_000
    """Most bytes of a shard."""
    reencode_short_side: int | None = None
    """Write videos anew with this shorter side, in pixels, and many keyframes: quicker to read."""
    workers: int = 2
    """Threads that check and re-encode videos."""
    json: bool = False
    """Print the report as json."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Compares every shard with the sizes and sha256 in the index.

    Examples:
      reelscan shards verify shards/clips.index.json
    """

    index: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="INDEX")]
    """Index file (NAME.index.json)."""


@dataclass(frozen=True, kw_only=True)
class Index:
    """Makes the index of WebDataset shards that have none: KEY.json with "captions", a list of
    texts, beside KEY.mp4, .jpg or the like.

    The index, NAME.index.json, is written into the folder of the shards.

    Examples:
      reelscan shards index webvid/*.tar --name webvid
    """

    shards: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SHARD ...")]
    """Tar files of one folder."""
    name: str = "shards"
    """Start of the index's name."""


@dataclass(frozen=True, kw_only=True)
class Teach:
    """Runs a CLIP teacher over a set once and keeps what it sees, for `pretrain --data.taught`.

    Saves the teacher's work in every epoch where frames, crops and flips are not random. A clip of
    8 frames at 224 pixels takes about 1.6 MB for each layer of a ViT-B/16. Interrupted, it goes on
    where it stopped when run again.

    Examples:
      reelscan shards teach shards/clips.index.json --teacher clip-b16.safetensors --to taught
    """

    index: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="INDEX")]
    """Index file (NAME.index.json) of the set, or its address."""
    teacher: Path
    """Weight file of the CLIP vision tower (`reelscan model teacher`)."""
    to: Path
    """Folder for the features."""
    clips: Annotated[TeachConfig, tyro.conf.arg(name="")] = field(default_factory=TeachConfig)
    """Which clips, and how they are kept."""


ACTIONS = {"write": Write, "index": Index, "teach": Teach, "verify": Verify}


def main(arguments: list[str]) -> int:
    """1 if a video or a sample was left out, or a shard is not as it should be."""
    command = parse_action(ACTIONS, "shards", arguments)
    if isinstance(command, Write):
        return write(command)
    if isinstance(command, Teach):
        return teach(command)
    return index(command) if isinstance(command, Index) else verify(command)


def write(command: Write) -> int:
    root = command.videos or command.annotations.parent
    videos = read_annotations(
        command.annotations,
        root=root,
        video_column=command.video_column,
        caption_column=command.caption_column,
    )
    with StageProgress("writing shards", unit="videos") as bar:

        def show(done: int, total: int, rejected: int) -> None:
            bar.update(done, total, note=f"{rejected} rejected" if rejected else "")

        report = write_shards(
            videos,
            command.to,
            root=root,
            name=command.name,
            samples_per_shard=command.samples_per_shard,
            bytes_per_shard=command.bytes_per_shard,
            reencode_short_side=command.reencode_short_side,
            workers=command.workers,
            on_progress=show,
        )
    print(as_json(report) if command.json else report_text(report))
    return 1 if report.rejected else 0


def report_text(report: ShardReport) -> str:
    lines = [
        f"{report.index_path}: {report.written} samples in {report.shards} shards, "
        f"{report.bytes / 1e6:.1f} MB"
    ]
    if report.rejected:
        lines.append(f"{report.rejected} rejected, with reasons in {report.rejects_path}")
    return "\n".join(lines)


def index(command: Index) -> int:
    skips = SkipLog()
    with StageProgress("reading shards", unit="shards") as bar:
        path = index_shards(
            command.shards, name=command.name, on_skip=skips.add, on_progress=bar.update
        )
    found = read_index(path)
    print(f"{path}: {found.sample_count} samples in {len(found.shards)} shards")
    show_skips(skips)
    return 1 if skips.listed else 0


def show_skips(skips: SkipLog) -> None:
    for skipped in skips.listed[:MAX_SHOWN_SKIPS]:
        print(f"left out: {skipped.source} {skipped.detail}")
    if len(skips.listed) > MAX_SHOWN_SKIPS:
        print(f"left out in all: {skips.summary()}")


def teach(command: Teach) -> int:
    best_device(command.clips.device)
    with StageProgress("teaching", unit="clips") as bar:
        report = teach_shards(
            command.index,
            command.to,
            teacher_file=command.teacher,
            config=command.clips,
            on_progress=bar.update,
        )
    print(f"{command.to}: features of {report.samples} samples, {report.bytes / 1e6:.1f} MB")
    show_skips(report.skips)
    return 1 if report.skips.listed else 0


def verify(command: Verify) -> int:
    problems = verify_shards(command.index)
    for problem in problems:
        print(f"{problem.file}: {problem.problem}")
    if not problems:
        print(f"{command.index}: every shard is whole")
    return 1 if problems else 0
