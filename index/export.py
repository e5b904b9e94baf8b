"""Writing a collection's embeddings for other programs: parquet, or npy as clip-retrieval has it.

    FOLDER/embeddings.json                    what made them: the collection's manifest
    FOLDER/part-00000.parquet                 format parquet: rows with their vectors
    FOLDER/img_emb/img_emb_00000.npy          format npy: vectors, float32 [rows, E]
    FOLDER/metadata/metadata_00000.parquet    format npy: the same rows without them

Columns: id, video, start_seconds, end_seconds, metadata and video_metadata (json), size_bytes,
mtime_ns and sha256 of the video's file, frame_codes, vector. E embedding width.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reelscan.index.manifest import Manifest
from reelscan.index.stored_rows import StoredRows
from reelscan.models.atomic_directory import atomic_directory

EMBEDDINGS_NAME = "embeddings.json"
EMBEDDINGS_FORMAT = "reelscan-embeddings"
EMBEDDINGS_VERSION = 1
ExportFormat = Literal["parquet", "npy"]
COLUMNS = {
    "id": pa.int64(),
    "video": pa.string(),
    "start_seconds": pa.float64(),
    "end_seconds": pa.float64(),
    "metadata": pa.string(),
    "video_metadata": pa.string(),
    "size_bytes": pa.int64(),
    "mtime_ns": pa.int64(),
    "sha256": pa.string(),
    "frame_codes": pa.binary(),
}


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written."""

    rows: int
    files: int
    """Parts."""


def export_rows(
    blocks: Iterator[StoredRows],
    folder: Path,
    *,
    manifest: Manifest,
    format: ExportFormat = "parquet",
    on_progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Write all rows into `folder`, which appears whole or not at all; a part for each block.

    `on_progress` is told how many rows are written. Raises FileExistsError if `folder` is there.
    """
    if format not in get_args(ExportFormat):
        raise ValueError(f"format is {format!r}; choose one of {', '.join(get_args(ExportFormat))}")
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new path for the export")
    rows = parts = 0
    with atomic_directory(folder) as unfinished:
        for part, block in enumerate(blocks):
            if format == "parquet":
                _write_table(unfinished / f"part-{part:05d}.parquet", block, with_vectors=True)
            else:
                _write_arrays(unfinished, part, block)
            rows, parts = rows + len(block.segment_ids), part + 1
            if on_progress is not None:
                on_progress(rows)
        described = {
            "format": EMBEDDINGS_FORMAT,
            "format_version": EMBEDDINGS_VERSION,
            "rows": rows,
            "manifest": {**asdict(manifest), "windowing": manifest.windowing.as_plain()},
        }
        (unfinished / EMBEDDINGS_NAME).write_text(json.dumps(described, indent=2) + "\n")
    return ExportReport(rows=rows, files=parts)


def _write_arrays(folder: Path, part: int, block: StoredRows) -> None:
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(exist_ok=True)
    np.save(folder / "img_emb" / f"img_emb_{part:05d}.npy", block.vectors, allow_pickle=False)
    _write_table(folder / "metadata" / f"metadata_{part:05d}.parquet", block, with_vectors=False)


def _write_table(path: Path, block: StoredRows, *, with_vectors: bool) -> None:
    values: dict[str, list[Any]] = {
        "id": block.segment_ids.tolist(),
        "video": [file.path for file in block.videos],
        "start_seconds": [segment.start_seconds for segment in block.segments],
        "end_seconds": [segment.end_seconds for segment in block.segments],
        "metadata": [json.dumps(dict(segment.metadata)) for segment in block.segments],
        "video_metadata": [json.dumps(recorded) for recorded in block.video_metadata],
        "size_bytes": [file.size_bytes for file in block.videos],
        "mtime_ns": [file.mtime_ns for file in block.videos],
        "sha256": [file.sha256 for file in block.videos],
        "frame_codes": [segment.frame_codes for segment in block.segments],
    }
    columns = {name: pa.array(values[name], type=kind) for name, kind in COLUMNS.items()}
    if with_vectors:
        vectors = block.vectors
        flat = pa.array(vectors.reshape(-1), type=pa.float32())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    pq.write_table(pa.table(columns), path, compression="zstd")
