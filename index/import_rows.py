"""Reading embeddings that `export.py`, clip-retrieval or another program wrote.

Read are parquet files with a `vector` column, and folders of `img_emb_N.npy` beside
`metadata_N.parquet` (in `img_emb/` and `metadata/` or all in one). N rows, E embedding width.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reelscan.index.collection import Collection
from reelscan.index.copy_rows import CollectionTarget, CopyReport, copy_videos
from reelscan.index.export import EMBEDDINGS_FORMAT, EMBEDDINGS_NAME, EMBEDDINGS_VERSION
from reelscan.index.manifest import Manifest, manifest_from_plain
from reelscan.index.segments import NewSegment
from reelscan.index.stored_rows import StoredRows, by_video
from reelscan.index.video_files import VideoFile

_ROWS_AT_ONCE = 16384
_VIDEO_COLUMNS = ("video", "video_path", "image_path", "path", "file", "key", "url")
_TIME_COLUMNS = (("start_seconds", "end_seconds"), ("start", "end"))
_OWN_COLUMNS = ("id", "vector", "metadata", "video_metadata", "size_bytes", "mtime_ns", "sha256",
                "frame_codes")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Embeddings found on disk; nothing is read yet but names and shapes."""

    manifest: Manifest | None
    """Of the collection they came from; None from other programs."""
    tables: tuple[Path, ...]
    arrays: tuple[Path, ...]
    """The vectors of each table; empty if they are in the tables."""
    rows: int
    embed_dim: int

    def stream(self, *, video_column: str | None = None) -> Iterator[StoredRows]:
        """All rows; `video_column` names what tells videos, where it is not plain.

        Raises ValueError for rows that are no embeddings, naming the file.
        """
        for place, table in enumerate(self.tables):
            vectors = _open_array(self.arrays[place]) if self.arrays else None
            yield from _read_table(table, vectors, self.embed_dim, video_column)


def find_embeddings(path: Path) -> Embeddings:
    """What lies at `path`; raises ValueError that tells what should.

    Nothing in the files is run: arrays with pickled objects are refused.
    """
    manifest = _read_description(path / EMBEDDINGS_NAME)
    tables, arrays = _files(path)
    if not tables:
        raise ValueError(
            f"{path} holds no embeddings: give a parquet file with a column `vector`, a folder of "
            "such files, or a folder with img_emb_0.npy and metadata_0.parquet"
        )
    rows = sum(pq.ParquetFile(table).metadata.num_rows for table in tables)
    for table, array in zip(tables, arrays, strict=bool(arrays)):
        found, expected = len(_open_array(array)), pq.ParquetFile(table).metadata.num_rows
        if found != expected:
            raise ValueError(f"{array} has {found} rows and {table.name} {expected}")
    width = _open_array(arrays[0]).shape[1] if arrays else _vector_width(tables[0])
    return Embeddings(manifest=manifest, tables=tables, arrays=arrays, rows=rows, embed_dim=width)


def _files(path: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Tables, and the arrays of vectors that belong to them."""
    if path.is_file():
        return (path,), ()
    arrays = {
        _number(file): file for pattern in ("img_emb_*.npy", "img_emb/img_emb_*.npy")
        for file in path.glob(pattern)
    }  # fmt: skip
    if not arrays:
        return tuple(sorted(path.glob("*.parquet"))), ()
    tables = {
        _number(file): file for pattern in ("metadata_*.parquet", "metadata/metadata_*.parquet")
        for file in path.glob(pattern)
    }  # fmt: skip
    if set(arrays) != set(tables):
        odd = sorted(set(arrays) ^ set(tables))
        raise ValueError(
            f"{path}: img_emb_{odd[0]}.npy or metadata_{odd[0]}.parquet is missing; each needs the "
            "other"
        )
    order = sorted(arrays)
    return tuple(tables[one] for one in order), tuple(arrays[one] for one in order)


def _number(file: Path) -> int:
    digits = re.search(r"_(\d+)$", file.stem)
    if digits is None:
        raise ValueError(f"{file} has no number; it should be as img_emb_0.npy")
    return int(digits[1])


def _read_description(path: Path) -> Manifest | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != EMBEDDINGS_FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        version = int(content["format_version"])
        manifest = manifest_from_plain(content["manifest"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); export again") from error
    if version > EMBEDDINGS_VERSION:
        raise ValueError(f"{path} is of a newer version ({version}): upgrade reelscan to read it")
    return manifest


def _open_array(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is no array of numbers ({error})") from error
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ValueError(
            f"{path} holds {array.dtype} {list(array.shape)}; it should be floats [rows, width]"
        )
    return np.asarray(array)


def _vector_width(table: Path) -> int:
    schema = pq.read_schema(table)
    if "vector" not in schema.names:
        raise ValueError(
            f"{table} has the columns {', '.join(schema.names)}, none of them `vector`"
        )
    kind = schema.field("vector").type
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size)
    first = next(pq.ParquetFile(table).iter_batches(batch_size=1, columns=["vector"]), None)
    if first is None or first.column(0)[0].as_py() is None:
        raise ValueError(f"{table} has no vector in its first row")
    return len(first.column(0)[0].as_py())


def _read_table(
    path: Path, vectors: NDArray[Any] | None, width: int, video_column: str | None
) -> Iterator[StoredRows]:
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    video_column = _video_column(path, names, video_column)
    times = next((pair for pair in _TIME_COLUMNS if set(pair) <= set(names)), None)
    first = 0
    for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
        count = batch.num_rows
        if vectors is None:
            of_batch = _vectors_of(batch.column("vector"), path, width)
        else:
            of_batch = vectors[first : first + count].astype(np.float32)
        if of_batch.shape != (count, width) or not np.isfinite(of_batch).all():
            raise ValueError(
                f"{path}: rows from {first} have vectors {list(of_batch.shape)}, or numbers that "
                f"are not finite; all should be {width} finite numbers"
            )
        rows = batch.drop_columns([name for name in names if name == "vector"]).to_pylist()
        yield _rows(rows, of_batch, first, video_column, times)
        first += count


def _video_column(path: Path, names: Sequence[str], told: str | None) -> str:
    if told is not None:
        if told not in names:
            raise ValueError(f"{path} has no column {told!r}; it has {', '.join(names)}")
        return told
    found = next((name for name in _VIDEO_COLUMNS if name in names), None)
    if found is None:
        raise ValueError(
            f"{path} has the columns {', '.join(names)}, none of which is known to name the video: "
            "name it (--video-column)"
        )
    return found


def _vectors_of(column: Any, path: Path, width: int) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    if len(flat) != len(column) * width:
        raise ValueError(f"{path}: not every vector is {width} wide")
    return flat.reshape(len(column), width)


def _rows(
    rows: Sequence[Mapping[str, Any]],
    vectors: NDArray[np.float32],
    first: int,
    video_column: str,
    times: tuple[str, str] | None,
) -> StoredRows:
    kept = {*_OWN_COLUMNS, video_column, *(times or ())}
    return StoredRows(
        segment_ids=np.array(
            [
                row.get("id") if isinstance(row.get("id"), int) else first + place
                for place, row in enumerate(rows)
            ],
            np.int64,
        ),
        videos=tuple(
            VideoFile(
                path=str(row[video_column]),
                size_bytes=row.get("size_bytes") or 0,
                mtime_ns=row.get("mtime_ns") or 0,
                sha256=row.get("sha256"),
            )
            for row in rows
        ),
        segments=tuple(
            NewSegment(
                start_seconds=float(row[times[0]] or 0) if times else 0.0,
                end_seconds=float(row[times[1]] or 0) if times else 0.0,
                vector=vector,
                metadata={**_json(row.get("metadata")), **_plain_columns(row, kept)},
                frame_codes=row.get("frame_codes"),
            )
            for row, vector in zip(rows, vectors, strict=True)
        ),
        video_metadata=tuple(_json(row.get("video_metadata")) for row in rows),
    )


def _plain_columns(row: Mapping[str, Any], kept: set[str]) -> dict[str, object]:
    """Further columns of other programs, such as captions."""
    return {
        name: value
        for name, value in row.items()
        if name not in kept and isinstance(value, str | int | float | bool)
    }


def _json(text: object) -> dict[str, Any]:
    """A json column of ours; anything else is no metadata."""
    if not isinstance(text, str):
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def import_embeddings(
    embeddings: Embeddings,
    collection: Collection,
    *,
    video_column: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> CopyReport:
    """Store all rows (see `copy_videos`); segments get ids of this collection.

    Raises ValueError for rows that do not fit.
    """
    if embeddings.embed_dim != collection.manifest.embed_dim:
        raise ValueError(
            f"the embeddings are {embeddings.embed_dim} wide, and those of {collection.path} "
            f"{collection.manifest.embed_dim}: they come from another model"
        )
    videos = by_video(embeddings.stream(video_column=video_column))
    return copy_videos(videos, CollectionTarget(collection), on_progress=on_progress)
