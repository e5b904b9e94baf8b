"""Videos with one class each: a folder with a subfolder for each class, or an annotation file."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reelscan.index.video_files import list_videos
from reelscan.pretrain.annotations import path_below_root, read_annotations

LABEL_COLUMNS = ("label", "class", "class_name", "category")
_LISTED_AT_MOST = 5


@dataclass(frozen=True, kw_only=True)
class LabelledVideo:
    """A video and its class."""

    video: str
    """Path below the root, with forward slashes."""
    label: int
    """Number of its class."""


@dataclass(frozen=True, kw_only=True)
class LabelledVideos:
    """A labelled set."""

    root: Path
    """What the videos' paths are relative to."""
    classes: tuple[str, ...]
    """Names, by number."""
    videos: tuple[LabelledVideo, ...]


def read_labelled(
    source: Path, *, root: Path | None = None, classes: Sequence[str] | None = None
) -> LabelledVideos:
    """Read a folder (CLASS/.../video.mp4) or a file of videos and classes.

    Files: csv, tsv, json, jsonl or parquet with a column of videos and one of `LABEL_COLUMNS`; or
    the published lists without a header, "PATH LABEL" or "PATH,LABEL" a line. `root`: of the
    videos, by default the file's folder. `classes`: all class names by number; by default those
    that occur, sorted. A class may be given by name or, with `classes`, by number. Raises
    ValueError that tells what does not fit.
    """
    if source.is_dir():
        if root is not None and root != source:
            raise ValueError(
                f"{source} is a folder of classes, so the videos lie there: no --videos"
            )
        root, rows = source, _folder_rows(source)
    elif source.is_file():
        root = root or source.parent
        rows = _file_rows(source, root)
    else:
        raise FileNotFoundError(f"{source}: there is no such folder or file")
    if not rows:
        raise ValueError(f"{source} holds no videos with classes")
    _refuse_two_classes(rows, source)
    names = tuple(classes) if classes is not None else _names_that_occur(rows, source)
    numbers = _numbers(rows, names, source, told=classes is not None)
    return LabelledVideos(
        root=root,
        classes=names,
        videos=tuple(
            LabelledVideo(video=video, label=number)
            for (video, _), number in zip(rows, numbers, strict=True)
        ),
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line, the first being number 0. Raises ValueError."""
    names = tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    if not names:
        raise ValueError(f"{path} holds no class names; write one a line")
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"{path} has {', '.join(doubled[:_LISTED_AT_MOST])} more than once")
    return names


def spoken(name: str) -> str:
    """A class name as one says it: "PlayingGuitar" and "playing_guitar" -> "playing guitar"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.replace("_", " "))
    return " ".join(words.split()).lower() if words != name else name


def _folder_rows(folder: Path) -> list[tuple[str, str]]:
    videos = list_videos(folder).videos
    loose = [video for video in videos if "/" not in video]
    if loose:
        raise ValueError(
            f"{len(loose)} videos lie in {folder} itself, such as {loose[0]}; give each class a "
            "subfolder, or an annotation file"
        )
    return [(video, video.split("/")[0]) for video in videos]


def _file_rows(path: Path, root: Path) -> list[tuple[str, str]]:
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the folder of the videos with --videos")
    listed = _published_list(path, root)
    if listed is not None:
        return listed
    column = _label_column(path)
    found = read_annotations(path, root=root, caption_column=column)
    return [(one.video, label) for one in found for label in dict.fromkeys(one.captions)]


def _label_column(path: Path) -> str | None:
    """The column of classes of a table; None where `read_annotations` is to say what is there."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return "label"
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file, delimiter=delimiter), [])
    named = [column for column in header if column.strip().lower() in LABEL_COLUMNS]
    return named[0] if len(named) == 1 else "label"


def _published_list(path: Path, root: Path) -> list[tuple[str, str]] | None:
    """The rows of a file without a header whose lines end in a number; None if it is none."""
    if path.suffix.lower() not in (".csv", ".txt", ".list"):
        return None
    rows: list[tuple[str, str]] = []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(.+?)[,\s]+(\d+)\s*", line)
        if match is None:
            if not rows and path.suffix.lower() == ".csv":
                return None
            raise ValueError(f"{path} line {number}: {line[:80]!r} is not PATH and class number")
        rows.append((path_below_root(match[1].strip('"'), root), match[2]))
    return rows


def _refuse_two_classes(rows: Sequence[tuple[str, str]], source: Path) -> None:
    first: dict[str, str] = {}
    for video, label in rows:
        if first.setdefault(video, label) != label:
            raise ValueError(
                f"{source}: {video} has the classes {first[video]!r} and {label!r}; "
                "give each video one"
            )
    if len(first) < len(rows):
        raise ValueError(f"{source} names {len(rows) - len(first)} videos more than once")


def _names_that_occur(rows: Sequence[tuple[str, str]], source: Path) -> tuple[str, ...]:
    names = sorted({label for _, label in rows})
    if all(name.isdecimal() for name in names):
        raise ValueError(
            f"{source} gives classes by number; give their names, one a line, with --classes"
        )
    return tuple(names)


def _numbers(
    rows: Sequence[tuple[str, str]], names: tuple[str, ...], source: Path, *, told: bool
) -> list[int]:
    number_of = {name: number for number, name in enumerate(names)}
    if told:
        by_number = {str(number): number for number in range(len(names))}
        number_of = by_number | number_of
    unknown = sorted({label for _, label in rows} - number_of.keys())
    if unknown:
        listed = ", ".join(map(repr, unknown[:_LISTED_AT_MOST]))
        raise ValueError(
            f"{source} has {len(unknown)} classes that are not among the {len(names)} known: "
            f"{listed}; check the class names (--classes)"
        )
    return [number_of[label] for _, label in rows]
