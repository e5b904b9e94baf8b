"""Annotation files: which video has which captions.

A table (csv, tsv, parquet), a list of JSON objects, or JSON lines; one row a caption or one row a
video with a list of captions, as in `[{"video": "a.mp4", "caption": ["a dog", "a dog runs"]}]`.
"""

import ast
import csv
import difflib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

VIDEO_COLUMNS = ("video", "path", "file", "image")
CAPTION_COLUMNS = ("caption", "captions", "text", "sentence")
GROUP_COLUMN = "group"
MAX_LISTED_PROBLEMS = 5


@dataclass(frozen=True, kw_only=True)
class CaptionedVideo:
    """A video (or image) and what is said about it."""

    video: str
    """Path below the root, with forward slashes and without `..`."""
    captions: tuple[str, ...]
    """At least one, none empty, in the order of the file; repeated captions are kept."""
    group: str | None = None
    """Neighbours of one group stay together when shuffled, each other's hard negatives."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    place: str
    """Where a person finds the row: "line 3" or "row 3"."""
    cells: Mapping[str, object]


def read_annotations(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str],
    video_column: str | None = None,
    caption_column: str | None = None,
) -> list[CaptionedVideo]:
    """Reads csv, tsv, json, jsonl or parquet, in the order in which videos first appear.

    Rows of the same video are merged. Without column names the common ones are looked for
    (`VIDEO_COLUMNS`, `CAPTION_COLUMNS`, any case); a column `group` is optional. Videos need not
    exist yet, but their paths must stay below `root`. Raises ValueError that names the rows and
    what is wrong with them.
    """
    path, root = Path(path), Path(root)
    if not root.is_dir():
        raise ValueError(f"root {root} is not a folder: give the folder that holds the videos")
    rows = list(_row_reader(path)(path))
    if not rows:
        raise ValueError(f"{path} holds no rows")
    columns = list(dict.fromkeys(column for row in rows for column in row.cells))
    video_column = _find_column("video", video_column, VIDEO_COLUMNS, columns, path)
    caption_column = _find_column("caption", caption_column, CAPTION_COLUMNS, columns, path)

    merged: dict[str, list[str]] = {}
    groups: dict[str, str] = {}
    problems = []
    for row in rows:
        try:
            video = path_below_root(_text(row.cells.get(video_column), video_column), root)
            captions = _captions(row.cells.get(caption_column), caption_column)
            merged.setdefault(video, []).extend(captions)
            if row.cells.get(GROUP_COLUMN) not in (None, ""):
                groups[video] = _text(row.cells[GROUP_COLUMN], GROUP_COLUMN)
        except ValueError as error:
            problems.append(f"{row.place}: {error}")
    if problems:
        listed = "; ".join(problems[:MAX_LISTED_PROBLEMS])
        more = len(problems) - MAX_LISTED_PROBLEMS
        and_more = f"; and {more} more" if more > 0 else ""
        raise ValueError(f"{path}: {len(problems)} of {len(rows)} rows are bad. {listed}{and_more}")
    return [
        CaptionedVideo(video=video, captions=tuple(found), group=groups.get(video))
        for video, found in merged.items()
    ]


def path_below_root(video: str, root: str | os.PathLike[str]) -> str:
    """`video` relative to `root`, with forward slashes; a ValueError if it leads outside.

    Purely by name: links below `root` are the owner's affair.
    """
    if "://" in video:
        raise ValueError(f"{video!r} is an address, but videos must be files: download it first")
    if any(ord(character) < 32 for character in video):
        raise ValueError(f"{video!r} holds control characters, which no video path may")
    base = Path(os.path.normpath(Path(root).absolute()))
    target = Path(os.path.normpath(base / video))
    if target == base or not target.is_relative_to(base):
        raise ValueError(f"{video!r} is not below the root {base}: use paths relative to it")
    return target.relative_to(base).as_posix()


def _row_reader(path: Path) -> Callable[[Path], Iterator[_Row]]:
    readers: dict[str, Callable[[Path], Iterator[_Row]]] = {
        ".csv": _csv_rows,
        ".tsv": _tsv_rows,
        ".json": _json_rows,
        ".jsonl": _json_line_rows,
        ".parquet": _parquet_rows,
    }
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise ValueError(f"{path} ends in {suffix!r}, but must end in one of {', '.join(readers)}")
    return readers[suffix]


def _csv_rows(path: Path) -> Iterator[_Row]:
    return _table_rows(path, ",")


def _tsv_rows(path: Path) -> Iterator[_Row]:
    return _table_rows(path, "\t")


def _table_rows(path: Path, delimiter: str) -> Iterator[_Row]:
    # Not splitlines(): only the ends of lines that csv knows may end a row.
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise ValueError(f"{path}: a column appears twice in the header {header}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{path} line {reader.line_num}: {len(cells)} cells, but the header has "
                    f"{len(header)}: put quotes around cells that hold the delimiter"
                )
            yield _Row(place=f"line {reader.line_num}", cells=dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num}: {error}") from error


def _json_rows(path: Path) -> Iterator[_Row]:
    items = _parse_json(_read_text(path), str(path))
    if not isinstance(items, list):
        raise ValueError(f"{path} holds {_kind(items)}, but must hold a list of objects")
    for number, item in enumerate(items, start=1):
        yield _object_row(item, f"row {number}", path)


def _json_line_rows(path: Path) -> Iterator[_Row]:
    # Not splitlines(): JSON strings may hold other line separators unescaped.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip():
            yield _object_row(_parse_json(line, f"{path} line {number}"), f"line {number}", path)


def _object_row(item: object, place: str, path: Path) -> _Row:
    if not isinstance(item, dict):
        raise ValueError(f"{path} {place}: {_kind(item)}, but each must be an object")
    return _Row(place=place, cells=item)


def _parquet_rows(path: Path) -> Iterator[_Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            number = 0
            for batch in parquet.ParquetFile(file).iter_batches():
                for cells in batch.to_pylist():
                    number += 1
                    yield _Row(place=f"row {number}", cells=cells)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a readable parquet file: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): convert it") from error


def _parse_json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}") from error


def _find_column(
    kind: str, asked: str | None, common: Sequence[str], columns: Sequence[str], path: Path
) -> str:
    there = f"{path} has the columns {', '.join(map(repr, columns))}"
    if asked is not None:
        if asked in columns:
            return asked
        raise ValueError(f"no column {asked!r}: {there}{_did_you_mean([asked], columns)}")
    found = [column for column in columns if column.strip().lower() in common]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{' and '.join(map(repr, found))} could each be the {kind} column: "
            f"say which with {kind}_column"
        )
    raise ValueError(
        f"no {kind} column ({', '.join(common)}): {there}{_did_you_mean(common, columns)}; "
        f"name it with {kind}_column"
    )


def _did_you_mean(names: Sequence[str], columns: Sequence[str]) -> str:
    close = [match for name in names for match in difflib.get_close_matches(name, columns)]
    unique = list(dict.fromkeys(close))
    return f"; did you mean {' or '.join(map(repr, unique))}?" if unique else ""


def _captions(cell: object, column: str) -> list[str]:
    items = _list_in_text(cell) if isinstance(cell, str) else cell
    if not isinstance(items, list):
        return [_text(items, column).strip()]
    if not items:
        raise ValueError(f"{column} is an empty list, but a video needs a caption")
    return [_text(item, f"{column} {number}").strip() for number, item in enumerate(items, 1)]


def _list_in_text(cell: str) -> object:
    """The list that a table cell spells out, in JSON or as Python prints it; else the cell."""
    text = cell.strip()
    if not (text.startswith(("['", '["')) and text.endswith("]")):
        return cell
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{text[:60]!r} looks like a list but is not JSON") from error


def _text(cell: object, column: str) -> str:
    if cell is None:
        raise ValueError(f"no {column}")
    if not isinstance(cell, str):
        raise ValueError(f"{column} is {_kind(cell)}, but must be text")
    if not cell.strip():
        raise ValueError(f"{column} is empty")
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{column} holds half a character ({error.reason})") from error
    return cell


def _kind(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
