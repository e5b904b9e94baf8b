import sqlite3
from pathlib import Path

import pytest
import torch

from reelscan.retrieval.token_cache import TokenCache


def tokens(seed, *, count=10, width=32):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def cache(tmp_path):
    cache = TokenCache(tmp_path / "tokens.sqlite", limit_bytes=10 * (10 * 32 + 10 * 4))
    yield cache
    cache.close()


def test_tokens_come_back_within_a_step_of_eight_bits(cache):
    cache.put("a", tokens(1))
    found = cache.get_all(["a", "b"])
    assert list(found) == ["a"]
    steps = tokens(1).abs().amax(dim=1, keepdim=True) / 127
    assert ((found["a"] - tokens(1)).abs() <= steps / 2 + 1e-6).all()
    assert found["a"].dtype == torch.float32


def test_what_was_used_longest_ago_makes_room(cache):
    for seed in range(10):
        cache.put(str(seed), tokens(seed))
    assert cache.size_bytes() == cache.limit_bytes
    cache.get_all(["0"])
    cache.put("10", tokens(10))
    assert cache.size_bytes() == cache.limit_bytes
    assert set(cache.get_all([str(seed) for seed in range(11)])) == {
        *("0", "10"), *(str(seed) for seed in range(2, 10))
    }  # fmt: skip
    cache.put("large", tokens(0, count=1000))
    assert cache.get_all(["large"]) == {}


def test_the_file_itself_stays_bounded(tmp_path):
    with_room_for_five = 5 * (400 * 64 + 400 * 4)
    cache = TokenCache(tmp_path / "tokens.sqlite", limit_bytes=with_room_for_five)
    for seed in range(40):
        cache.put(str(seed), tokens(seed, count=400, width=64))
    cache.close()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 1.5 * with_room_for_five + 100_000


def test_it_survives_a_new_process_and_a_damaged_file(tmp_path):
    path = tmp_path / "tokens.sqlite"
    cache = TokenCache(path, limit_bytes=10**6)
    cache.put("a", tokens(1))
    cache.close()
    again = TokenCache(path, limit_bytes=10**6)
    assert set(again.get_all(["a"])) == {"a"}
    again.close()
    path.write_bytes(b"no database" * 1000)
    anew = TokenCache(path, limit_bytes=10**6)
    assert anew.get_all(["a"]) == {}
    anew.put("a", tokens(1))
    assert set(anew.get_all(["a"])) == {"a"}
    anew.close()


def test_a_cache_that_cannot_be_used_now_costs_time_only(tmp_path: Path):
    path = tmp_path / "tokens.sqlite"
    cache = TokenCache(path, limit_bytes=10**6)
    cache._connection.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    cache.put("a", tokens(1))
    other.rollback()
    other.close()
    assert cache.get_all(["a"]) == {}
    cache.put("a", tokens(1))
    assert set(cache.get_all(["a"])) == {"a"}
    cache.close()


def test_no_room_at_all_is_refused(tmp_path):
    with pytest.raises(ValueError, match="limit_bytes is 0"):
        TokenCache(tmp_path / "tokens.sqlite", limit_bytes=0)
