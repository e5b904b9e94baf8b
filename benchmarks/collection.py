"""Speed, recall and memory of a collection beside raw FAISS: `python benchmarks/collection.py`.

Makes a collection of `--rows` generated segments (or goes on with one in `--folder`), then measures
on it. The last line is JSON. Times are those of single queries for 10 hits, with everything a user
gets: times, names, metadata. Raw FAISS is the collection's own index file read into memory,
asked with the same settings; both are asked in turns, each query of one half a run after the
other's, so that neither finds the other's lists in the processor's cache.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
from clustered_vectors import SEGMENTS_A_VIDEO, ClusteredVectors
from collection_filters import measure_filters, tag_videos
from numpy.typing import NDArray

from reelscan.index.collection import Collection
from reelscan.index.exact_search import BestSoFar
from reelscan.index.faiss_selection import search_parameters
from reelscan.index.index_settings import IndexSettings
from reelscan.index.manifest import Manifest, Windowing
from reelscan.index.segments import NewSegment
from reelscan.index.video_files import VideoFile
from reelscan.retrieval.cli.index_actions import bytes_of

ROWS_AT_ONCE = 20_000
ADDED = 10_000
DEPTH = 128


def main() -> None:
    arguments = parse()
    settings = IndexSettings(memory_bytes=bytes_of(arguments.memory), compact_in_background=False)
    source = ClusteredVectors(width=arguments.width)
    if arguments.serve:
        folder = Path(arguments.folder)
        print(json.dumps(serve(folder, np.load(folder.parent / "queries.npy"))))
        return
    queries = source.queries(arguments.queries, rows=arguments.rows)
    faiss.omp_set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(arguments.folder or scratch) / "collection"
        folder.parent.mkdir(parents=True, exist_ok=True)
        np.save(folder.parent / "queries.npy", queries)
        seconds = make(folder, source, arguments, settings)
        result = {
            "rows": arguments.rows,
            "width": arguments.width,
            "memory": arguments.memory,
            **measure(folder, source, queries, arguments),
            **seconds,
        }
    print(json.dumps(result))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--vector-type", choices=("float32", "float16"), default="float32")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3, help="of the timings; the best counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--filters", action="store_true", help="also recall behind --where")
    parser.add_argument("--folder", help="where the collection is kept; default: thrown away")
    parser.add_argument("--scratch", help="folder for one that is thrown away")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def make(
    folder: Path, source: ClusteredVectors, arguments: argparse.Namespace, settings: IndexSettings
) -> dict[str, float]:
    """Fill the collection as far as it is not, and index it; how long that took."""
    if not (folder / "manifest.json").exists():
        manifest = Manifest(
            fingerprint="generated",
            embed_dim=arguments.width,
            videos_root="/generated",
            windowing=Windowing(),
            vector_type=arguments.vector_type,
        )
        Collection.create(folder, manifest=manifest).close()
    seconds: dict[str, float] = {}
    with Collection.open(folder, settings=settings) as collection:
        started = time.monotonic()
        first = len(collection)
        for start in range(first, arguments.rows, ROWS_AT_ONCE):
            stop = min(start + ROWS_AT_ONCE, arguments.rows)
            collection.add_videos(videos(source.rows(start, stop), start, "v"))
            tell(f"{stop} rows", started)
        seconds["fill_seconds"] = time.monotonic() - started
        if first < arguments.rows:
            tag_videos(collection, arguments.rows // SEGMENTS_A_VIDEO)
            tell("tagged", started)
        stats = collection.stats()
        assert stats.segments == arguments.rows, f"{stats.segments} segments are there"
        if stats.index is None or stats.index.vectors != arguments.rows or stats.deleted_segments:
            started = time.monotonic()
            stamp = collection.compact(
                on_progress=lambda what, done, total: tell(f"{what} {done}/{total}", started)
            )
            seconds["build_seconds"] = time.monotonic() - started
            seconds["build_peak_gib"] = peak_gib()
            tell(str(stamp), started)
    return {name: round(value, 2) for name, value in seconds.items()}


def videos(
    vectors: NDArray[np.float32], first_row: int, prefix: str
) -> list[tuple[VideoFile, list[NewSegment]]]:
    """Segments of 8 seconds, SEGMENTS_A_VIDEO to a video."""
    found = []
    for start in range(0, len(vectors), SEGMENTS_A_VIDEO):
        name = f"{prefix}{(first_row + start) // SEGMENTS_A_VIDEO:07d}.mp4"
        segments = [
            NewSegment(start_seconds=8.0 * place, end_seconds=8.0 * place + 8.0, vector=vector)
            for place, vector in enumerate(vectors[start : start + SEGMENTS_A_VIDEO])
        ]
        found.append((VideoFile(path=name, size_bytes=1, mtime_ns=1), segments))
    return found


def measure(
    folder: Path,
    source: ClusteredVectors,
    queries: NDArray[np.float32],
    arguments: argparse.Namespace,
) -> dict[str, object]:
    started = time.monotonic()
    cold = served(folder, cold=True)
    warm = min(
        (served(folder, cold=False) for _ in range(arguments.repeats)),
        key=lambda one: float(one["open_seconds"]),
    )
    tell("opened", started)
    with Collection.open(folder, settings=IndexSettings(compact_in_background=False)) as collection:
        truth = exact_answers(collection, queries)
        tell("exact answers", started)
        result: dict[str, object] = {**compare(folder, collection, queries, truth, arguments)}
        tell(f"compared: {json.dumps(result)}", started)
        if arguments.filters:
            result["filters"] = measure_filters(collection, queries)
            tell(f"filtered: {json.dumps(result['filters'])}", started)
        result["add_10k_seconds"] = add_seconds(collection, source, arguments.rows)
    result["open_seconds"] = warm["open_seconds"]
    result["open_cold_seconds"] = cold["open_seconds"]
    result["resident_gib"] = warm["resident_gib"]
    result["disk_gib"] = round(sum(one.stat().st_size for one in folder.iterdir()) / 2**30, 2)
    result |= surroundings()
    return result


def compare(
    folder: Path,
    collection: Collection,
    queries: NDArray[np.float32],
    truth: NDArray[np.int64],
    arguments: argparse.Namespace,
) -> dict[str, object]:
    """Times and recall of the collection and of its index file as raw FAISS."""
    stamp = collection.stats().index
    assert stamp is not None, "it was compacted"
    raw = faiss.read_index(str(folder / stamp.file))
    parameters = search_parameters(lists=stamp.lists_looked_into)
    if stamp.lists:
        raw.parallel_mode = 1
    ours: dict[int, list[float]] = {10: [], DEPTH: []}
    theirs: dict[int, list[float]] = {10: [], DEPTH: []}
    recall = {}
    for depth in (10, DEPTH):
        runs = []
        for _ in range(arguments.repeats):
            found, mine, other = [], [], []
            for place, query in enumerate(queries):
                started = time.perf_counter()
                hits = collection.search(query[None], top=depth)[0]
                mine.append(time.perf_counter() - started)
                found.append([hit.segment_id for hit in hits])
                distant = queries[(place + len(queries) // 2) % len(queries)]
                started = time.perf_counter()
                raw.search(distant[None], depth, params=parameters)
                other.append(time.perf_counter() - started)
            runs.append((mine, other))
        ours[depth], theirs[depth] = min(runs, key=lambda run: float(np.median(run[0])))
        recall[depth] = recall_of(found, truth[:, :depth])
    return {
        "index": stamp.kind,
        "lists": stamp.lists,
        "lists_looked_into": stamp.lists_looked_into,
        "candidates": stamp.candidates,
        "p50_ms": milliseconds(ours[10], 50),
        "p95_ms": milliseconds(ours[10], 95),
        "p50_ms_top128": milliseconds(ours[DEPTH], 50),
        "faiss_p50_ms": milliseconds(theirs[10], 50),
        "faiss_p95_ms": milliseconds(theirs[10], 95),
        "faiss_p50_ms_top128": milliseconds(theirs[DEPTH], 50),
        "over_faiss": round(float(np.median(ours[10]) / np.median(theirs[10])), 3),
        "recall_at_10": recall[10],
        "recall_at_128": recall[DEPTH],
    }


def exact_answers(
    collection: Collection,
    queries: NDArray[np.float32],
) -> NDArray[np.int64]:
    best = BestSoFar(queries, top=DEPTH)
    for rows in collection.vectors.stream():
        best.see(rows.vectors, rows.segment_ids)
    return best.segment_ids


def recall_of(found: list[list[int]], truth: NDArray[np.int64]) -> float:
    hits = [len(set(one) & set(true.tolist())) for one, true in zip(found, truth, strict=True)]
    return round(float(np.mean(hits) / truth.shape[1]), 4)


def add_seconds(collection: Collection, source: ClusteredVectors, rows: int) -> float:
    """From handing 10,000 vectors over until the last of them is found; they are removed again."""
    vectors = source.rows(rows, rows + ADDED)
    more = videos(vectors, rows, "added")
    collection.search(vectors[:1])
    started = time.perf_counter()
    collection.add_videos(more)
    found = collection.search(vectors[-1:], top=1)[0][0]
    seconds = time.perf_counter() - started
    assert found.video == more[-1][0].path, f"{found} was found instead"
    collection.forget_videos([file.path for file, _ in more])
    return round(seconds, 3)


def served(folder: Path, *, cold: bool) -> dict[str, float]:
    """Opens and asks in a process of its own, the files dropped from the page cache if `cold`."""
    if cold:
        for path in folder.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    words = [sys.executable, __file__, "--serve", "--folder", str(folder)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def serve(folder: Path, queries: NDArray[np.float32]) -> dict[str, float]:
    """Seconds from opening to the first answer, and memory after all queries, mapped pages too."""
    # Forget the peak that came over from the process that started this one.
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    with Collection.open(folder, read_only=True) as collection:
        collection.search(queries[:1])
        seconds = time.perf_counter() - started
        for query in queries:
            collection.search(query[None], top=DEPTH)
        return {"open_seconds": round(seconds, 3), "resident_gib": peak_gib()}


def peak_gib() -> float:
    """Largest resident set so far, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kib / 2**20, 3)


def milliseconds(seconds: list[float], percentile: float) -> float:
    return round(1e3 * float(np.percentile(seconds, percentile)), 3)


def surroundings() -> dict[str, object]:
    """What the figures depend on."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    models = [
        line.split(": ")[1]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "faiss": faiss.__version__,
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{len(models)} x {models[0]}, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 2),
    }


def tell(what: str, started: float) -> None:
    print(f"{time.monotonic() - started:8.1f} s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
