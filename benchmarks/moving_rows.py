"""How fast rows move: into a collection, merged from shards, exported, imported, into Milvus.

    python benchmarks/moving_rows.py --rows 100000 --to FOLDER

Vectors are clustered as real ones are (`clustered_vectors.py`); eight frames a segment, fifty
segments a video. Milvus is the embedded one and left out where it is not installed. Last line JSON.
"""

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from clustered_vectors import ClusteredVectors
from numpy.typing import NDArray

from reelscan.index.collection import Collection
from reelscan.index.copy_rows import CollectionTarget, VideoRows, copy_videos
from reelscan.index.export import export_rows
from reelscan.index.import_rows import find_embeddings, import_embeddings
from reelscan.index.manifest import Manifest, Windowing
from reelscan.index.milvus_collection import MilvusCollection
from reelscan.index.segments import NewSegment
from reelscan.index.shards import merge_shards
from reelscan.index.stored_rows import by_video
from reelscan.index.video_files import VideoFile

WIDTH, SEGMENTS_A_VIDEO, FRAMES = 512, 50, 8
CODES = np.random.default_rng(0).bytes(FRAMES * (WIDTH // 8 + 4))
MANIFEST = Manifest(
    fingerprint="benchmark", embed_dim=WIDTH, videos_root="/films", windowing=Windowing()
)


def videos_of(vectors: NDArray[np.float32]) -> Iterator[VideoRows]:
    for number, start in enumerate(range(0, len(vectors), SEGMENTS_A_VIDEO)):
        segments = [
            NewSegment(
                start_seconds=8.0 * place,
                end_seconds=8.0 * place + 8,
                vector=vector,
                frame_codes=CODES,
            )
            for place, vector in enumerate(vectors[start : start + SEGMENTS_A_VIDEO])
        ]
        file = VideoFile(path=f"films/{number:07d}.mp4", size_bytes=10**6, mtime_ns=number)
        yield file, segments, {}


def timed(what: Callable[[], object]) -> float:
    started = time.monotonic()
    what()
    return time.monotonic() - started


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def measure(root: Path, vectors: NDArray[np.float32]) -> dict[str, float]:
    rows = len(vectors)
    figures: dict[str, float] = {}

    def note(name: str, seconds: float, size: int) -> None:
        figures[f"{name}_rows_a_second"] = round(rows / seconds)
        figures[f"{name}_bytes_a_row"] = round(size / rows)
        print(f"{name:<16}{rows / seconds:>10,.0f} rows/s{size / rows:>10,.0f} bytes a row")

    with Collection.create(root / "shard", manifest=MANIFEST) as shard:
        target = CollectionTarget(shard)
        seconds = timed(lambda: copy_videos(videos_of(vectors), target))
    # The write-ahead log is part of the database once that is closed.
    note("stored", seconds, size_of(root / "shard"))
    with Collection.create(root / "merged", manifest=MANIFEST) as merged:
        seconds = timed(lambda: merge_shards([root / "shard"], merged))
    note("merged", seconds, size_of(root / "merged"))
    with Collection.open(root / "shard", read_only=True) as shard:
        for kind in ("parquet", "npy"):
            path = root / kind
            seconds = timed(
                lambda path=path, kind=kind: export_rows(  # type: ignore[misc]
                    shard.rows(), path, manifest=MANIFEST, format=kind
                )
            )
            note(f"{kind} out", seconds, size_of(path))
            with Collection.create(root / f"from-{kind}", manifest=MANIFEST) as back:
                found = find_embeddings(path)
                seconds = timed(lambda found=found, back=back: import_embeddings(found, back))  # type: ignore[misc]
            note(f"{kind} in", seconds, size_of(root / f"from-{kind}"))
        if importlib.util.find_spec("pymilvus") is None:
            print("milvus           not installed")
            return figures
        address = str(root / "films.db")
        with MilvusCollection.create(address, collection="films", manifest=MANIFEST) as milvus:
            seconds = timed(lambda: copy_videos(by_video(shard.rows()), milvus))
            note("milvus in", seconds, size_of(root / "films.db"))
            queries = vectors[:: rows // 50][:50]
            figures["milvus_query_ms"] = 20 * timed(
                lambda: [milvus.search(query[None], top=10) for query in queries]
            )
            print(f"milvus query    {figures['milvus_query_ms']:>10.1f} ms")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    options.to.mkdir(parents=True)
    vectors = ClusteredVectors(width=WIDTH).rows(0, options.rows)
    print(json.dumps(measure(options.to, vectors)))


if __name__ == "__main__":
    main()
