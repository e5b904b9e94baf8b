"""Exact search on a GPU by matrix product and top-k, measured.

    python benchmarks/collection_gpu.py --rows 1000000 10000000

Needs PyTorch and NumPy alone. Fills the GPU with generated vectors of the structure of real ones,
checks the answers against float64 on the CPU, and times single queries and batches with everything
from queries in host memory to ids in host memory. Prints a table; the last line is JSON.
"""

import argparse
import json
import time
from collections.abc import Iterator

import numpy as np
import torch
from clustered_vectors import ClusteredVectors
from numpy.typing import NDArray

from reelscan.index.device_search import DeviceVectors, place_on_device, search_on_device

BLOCK = 10_000
REPEATED_FROM = 1_000_000
"""Rows that are generated; more are these again, turned round: the time depends on their number."""
BATCHES = (1, 16, 256, 4096)
TOPS = (10, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    source = ClusteredVectors(width=arguments.width)
    generated = source.rows(0, min(max(arguments.rows), REPEATED_FROM))
    queries = source.queries(max(BATCHES), rows=len(generated))
    results = []
    for rows in arguments.rows:
        for dtype in (torch.float32, torch.float16):
            stored = place_on_device(
                blocks(generated, rows),
                count=rows,
                embed_dim=arguments.width,
                device=device,
                dtype=dtype,
            )
            recall = agreement(stored, queries[:16])
            for batch in BATCHES:
                for top in TOPS:
                    milliseconds = timed(stored, queries[:batch], top, arguments.repeats)
                    results.append(
                        {
                            "rows": rows,
                            "dtype": str(dtype).removeprefix("torch."),
                            "batch": batch,
                            "top": top,
                            "ms": round(milliseconds, 3),
                            "queries_a_second": round(1e3 * batch / milliseconds),
                            "gib": round(stored.vectors.nbytes / 2**30, 2),
                            "agrees_with_float64": recall,
                        }
                    )
                    print("  ".join(f"{key} {value}" for key, value in results[-1].items()))
            del stored
    print(json.dumps({"device": name, "torch": torch.__version__, "results": results}))


def blocks(
    generated: NDArray[np.float32], rows: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    for start in range(0, rows, BLOCK):
        place = start % len(generated)
        block = generated[place : place + BLOCK][: rows - start]
        turned = np.roll(block, start // len(generated), axis=1)
        yield turned, np.arange(start, start + len(turned))


def agreement(stored: DeviceVectors, queries: NDArray[np.float32]) -> float:
    """Share of the ten best that are those in float64."""
    scores = np.concatenate(
        [queries.astype(np.float64) @ part.cpu().double().numpy().T
         for part in stored.vectors.split(1 << 20)],
        axis=1,
    )  # fmt: skip
    best = np.argpartition(-scores, 10, axis=1)[:, :10]
    _, found = search_on_device(stored, queries, top=10)
    same = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(best, found, strict=True)]
    return round(float(np.mean(same)) / 10, 4)


def timed(stored: DeviceVectors, queries: NDArray[np.float32], top: int, repeats: int) -> float:
    """Median milliseconds; the answer lies in host memory, so the GPU is done by then."""
    for _ in range(3):
        search_on_device(stored, queries, top=top)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        search_on_device(stored, queries, top=top)
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


if __name__ == "__main__":
    main()
