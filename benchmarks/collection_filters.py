"""How well filtered searches find, by the share of segments that pass."""

import time

import numpy as np
from numpy.typing import NDArray

from reelscan.index.collection import Collection
from reelscan.index.exact_search import BestSoFar

SHARES = {"half": 0.5, "tenth": 0.1, "hundredth": 0.01, "thousandth": 0.001}


def tag_videos(collection: Collection, videos: int) -> None:
    """Give random videos, in these shares, a key of that name."""
    rng = np.random.default_rng(5)
    names = sorted(collection.videos())
    for key, share in SHARES.items():
        chosen = rng.permutation(videos)[: max(1, round(share * videos))]
        collection.edit_metadata([names[place] for place in chosen], {key: True})


def measure_filters(
    collection: Collection, queries: NDArray[np.float32]
) -> dict[str, dict[str, float]]:
    """Recall at 10 and times for each share; the first query also counts what passes."""
    results = {}
    for key in SHARES:
        where = f"{key} = true"
        started = time.perf_counter()
        collection.search(queries[:1], where=where)
        first = time.perf_counter() - started
        passing = collection.passing(where)
        best = BestSoFar(queries, top=10)
        for rows in collection.vectors.stream():
            keep = np.isin(rows.segment_ids, passing, assume_unique=True)
            best.see(rows.vectors[keep], rows.segment_ids[keep])
        found, seconds = [], []
        for query in queries:
            started = time.perf_counter()
            hits = collection.search(query[None], top=10, where=where)[0]
            seconds.append(time.perf_counter() - started)
            found.append({hit.segment_id for hit in hits})
        matches = [len(a & set(b.tolist())) for a, b in zip(found, best.segment_ids, strict=True)]
        results[key] = {
            "share": round(len(passing) / len(collection), 5),
            "recall_at_10": round(float(np.mean(matches)) / min(10, len(passing)), 4),
            "p50_ms": round(1e3 * float(np.median(seconds)), 3),
            "p95_ms": round(1e3 * float(np.percentile(seconds, 95)), 3),
            "first_ms": round(1e3 * first, 1),
        }
    return results
