"""Exact search by blocks against NumPy in float64; on the CPU, and on a GPU where there is one."""

import numpy as np
import pytest
import torch
from gpu import require_gpu

from reelscan.index import device_search
from reelscan.index.device_search import place_on_device, search_on_device

N, E, Q = 1000, 24, 7


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    return torch.device("cpu") if request.param == "cpu" else require_gpu()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So that there are several blocks, the last one short, of vectors and of queries."""
    monkeypatch.setattr(device_search, "_ROWS_AT_ONCE", 128)
    monkeypatch.setattr(device_search, "_QUERIES_AT_ONCE", 3)


def data(dtype):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((N, E)).astype(dtype).astype(np.float32)
    return vectors, np.arange(N) * 5 + 2, rng.standard_normal((Q, E)).astype(np.float32)


def blocks(vectors, ids):
    for start in range(0, len(ids), 300):
        yield vectors[start : start + 300], ids[start : start + 300]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("top", [1, 10, 500, 2000])
@pytest.mark.parametrize("share", [None, 0.5, 0.01])
def test_the_best_are_found_in_order(device, dtype, top, share):
    vectors, ids, queries = data(dtype)
    stored = place_on_device(
        blocks(vectors, ids), count=N, embed_dim=E, device=device, dtype=getattr(torch, dtype)
    )
    allowed = None if share is None else np.random.default_rng(1).random(N) < share
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    passing = N if allowed is None else int(allowed.sum())
    if allowed is not None:
        exact[:, ~allowed] = -np.inf
    scores, found = search_on_device(
        stored,
        queries,
        top=top,
        allowed=None if allowed is None else torch.from_numpy(allowed).to(device),
    )
    count = min(top, passing)
    assert scores.shape == found.shape == (Q, min(top, N))
    order = np.argsort(-exact, axis=1)[:, :count]
    np.testing.assert_array_equal(found[:, :count], ids[order])
    np.testing.assert_allclose(scores[:, :count], np.take_along_axis(exact, order, 1), atol=1e-4)
    assert (found[:, count:] == -1).all()


def test_a_wrong_count_and_type_are_told():
    vectors, ids, _ = data("float32")
    with pytest.raises(ValueError, match="more than 500 vectors"):
        place_on_device(blocks(vectors, ids), count=500, embed_dim=E, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="float32 or float16"):
        place_on_device([], count=1, embed_dim=E, device=torch.device("cpu"), dtype=torch.int8)
