"""Load on the service, over the loopback device: `python benchmarks/serve.py --rows 1000000`.

Serves a collection of generated segments (made, or gone on with, in `--folder`) from a process of
its own and asks it from `--clients` connections that stay open. The sentences are known to the
service, as those of people's repeated searches are: what is measured is everything but the model.
`--write` adds videos meanwhile. The last line is JSON.
"""

import argparse
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from clustered_vectors import ClusteredVectors
from collection import make, videos
from torch import Tensor

from reelscan.index.collection import Collection
from reelscan.index.index_settings import IndexSettings
from reelscan.models.preprocessing import Preprocessing
from reelscan.retrieval.cli.index_actions import bytes_of

WARM_UP_SECONDS = 3.0
ADDED_AT_ONCE = 200


class GeneratedEncoder:
    """Sentences are numbers of generated queries."""

    fingerprint = "generated"
    preprocessing = Preprocessing()

    def __init__(self, queries: Path) -> None:
        self._queries = torch.from_numpy(np.load(queries))
        self.embed_dim = self._queries.shape[1]

    def encode_text(self, texts: list[str]) -> Tensor:
        """The vectors of these numbers."""
        numbers = [int(text) if text.isdecimal() else 0 for text in texts]
        return self._queries[torch.tensor(numbers) % len(self._queries)]

    def encode_video(self, frames_uint8: Tensor) -> Tensor:
        """Not asked for."""
        raise ValueError("this encoder has no videos")


def main() -> None:
    arguments = parse()
    if arguments.serve:
        serve(Path(arguments.folder), arguments)
        return
    source = ClusteredVectors(width=arguments.width)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.folder or scratch) / "collection"
        folder.parent.mkdir(parents=True, exist_ok=True)
        arguments.vector_type = "float32"
        settings = IndexSettings(
            memory_bytes=bytes_of(arguments.memory), compact_in_background=False
        )
        make(folder, source, arguments, settings)
        queries = Path(scratch) / "queries.npy"
        np.save(queries, source.queries(arguments.queries, rows=arguments.rows))
        print(json.dumps(measure(folder, queries, source, arguments)))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--memory", default="4GiB")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--searching", type=int, default=2, help="searches at work at once")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--write", action="store_true", help="add videos while it is asked")
    parser.add_argument("--folder", help="where the collection is kept; default: thrown away")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


def serve(folder: Path, arguments: argparse.Namespace) -> None:
    """The service's process: says its port on stdout, and ends with its input."""
    from reelscan.retrieval.serve.app import create_app
    from reelscan.retrieval.serve.server import listen, make_server
    from reelscan.retrieval.serve.service import SearchService
    from reelscan.retrieval.serve.settings import ServeSettings

    settings = ServeSettings(port=0, searching=arguments.searching)
    with Collection.open(folder, read_only=True) as collection:
        service = SearchService(collection, GeneratedEncoder(Path(arguments.serve)))
        service.warm_up()
        listening = listen(settings)
        listening.listen()
        server = make_server(create_app(service, settings=settings), settings)

        def end() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=end, daemon=True).start()
        print(listening.getsockname()[1], flush=True)
        server.run(sockets=[listening])


def measure(
    folder: Path, queries: Path, source: ClusteredVectors, arguments: argparse.Namespace
) -> dict[str, object]:
    command = [sys.executable, __file__, "--serve", str(queries), "--folder", str(folder)]
    command += ["--searching", str(arguments.searching)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None, "both are pipes"
    port = int(process.stdout.readline())
    try:
        ask(port, arguments, seconds=WARM_UP_SECONDS)
        before = resident_mib(process.pid)
        stop = threading.Event()
        added: list[int] = []
        writer = threading.Thread(target=write, args=(folder, source, stop, added))
        if arguments.write:
            writer.start()
        outcome = ask(port, arguments, seconds=arguments.seconds)
        stop.set()
        if arguments.write:
            writer.join()
        after = resident_mib(process.pid)
    finally:
        process.stdin.close()
        process.wait(timeout=60)
    return {
        **outcome,
        "rows": arguments.rows,
        "clients": arguments.clients,
        "seconds": arguments.seconds,
        "segments_added_meanwhile": sum(added),
        "resident_mib_before": before,
        "resident_mib_after": after,
        **surroundings(),
    }


def ask(port: int, arguments: argparse.Namespace, *, seconds: float) -> dict[str, object]:
    """What so many clients find in so many seconds, each asking again as soon as it is answered."""
    times: list[float] = []
    errors: list[str] = []
    deadline = time.monotonic() + seconds

    def one_client(number: int) -> None:
        chosen = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < deadline:
            body = {"text": str(chosen.integers(arguments.queries)), "top": arguments.top}
            started = time.perf_counter()
            try:
                connection.request(
                    "POST", "/search", json.dumps(body), {"content-type": "application/json"}
                )
                answer = connection.getresponse()
                found = answer.read()
                if answer.status != 200 or b'"moments":[{' not in found:
                    errors.append(f"{answer.status}: {found[:200]!r}")
            except OSError as error:
                errors.append(repr(error))
                connection.close()
            times.append(time.perf_counter() - started)

    started = time.monotonic()
    clients = [threading.Thread(target=one_client, args=(n,)) for n in range(arguments.clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if errors:
        print(f"first error: {errors[0]}", file=sys.stderr)
    return {
        "queries_per_second": round(len(times) / (time.monotonic() - started), 1),
        "p50_ms": round(1000 * float(np.percentile(times, 50)), 1),
        "p99_ms": round(1000 * float(np.percentile(times, 99)), 1),
        "errors": len(errors),
    }


def write(folder: Path, source: ClusteredVectors, stop: threading.Event, added: list[int]) -> None:
    """Add videos until told to stop, then take them away again."""
    settings = IndexSettings(compact_in_background=False)
    names: list[str] = []
    with Collection.open(folder, settings=settings) as collection:
        while not stop.wait(1.0):
            rows = source.rows(10**7, 10**7 + ADDED_AT_ONCE)
            new = videos(rows, ADDED_AT_ONCE * len(added), "added-")
            collection.add_videos(new)
            names += [file.path for file, _ in new]
            added.append(ADDED_AT_ONCE)
        collection.forget_videos(names)


def resident_mib(process: int) -> int:
    """Memory that a process holds."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0


def surroundings() -> dict[str, object]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    ).stdout.strip()  # fmt: skip
    return {
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[2],
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main()
