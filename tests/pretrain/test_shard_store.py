"""Remote shards, their copies on disk, and what happens when they fail."""

import multiprocessing
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from loopback_server import LoopbackServer, serving
from toy_shards import COUNT, SIZES, write_corpus

from reelscan.pretrain.shard_cache import ShardCache
from reelscan.pretrain.shard_list import Corpus, open_corpus
from reelscan.pretrain.shard_store import Retries, ShardLostError, ShardStore

MEDIA_BYTES = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_corpus(folder, media_bytes=MEDIA_BYTES)
    return folder


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[LoopbackServer]:
    shutil.copytree(folder, tmp_path / "served")
    with serving(tmp_path / "served") as found:
        yield found


@pytest.fixture
def corpus(server: LoopbackServer) -> Corpus:
    return open_corpus(f"{server.address}/toy.index.json", retries=Retries(times=0))


def read(store: ShardStore, corpus: Corpus, number: int, *, pass_number: int = 0) -> int:
    """The brightness of a sample, after a look at its length."""
    media, description = store.read(*corpus.find(number), pass_number=pass_number)
    assert len(media) == MEDIA_BYTES and description.startswith(b'{"captions"')
    return media[0]


def cache_of(folder: Path, corpus: Corpus, *, shards: int) -> ShardCache:
    """With room for so many of the largest shards."""
    return ShardCache(folder, max_bytes=shards * corpus.window_bytes(1))


def cached(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != "locks")


def test_samples_are_fetched_alone_without_a_cache(corpus: Corpus, server: LoopbackServer) -> None:
    store = ShardStore()
    assert [read(store, corpus, number) for number in range(COUNT)] == list(range(COUNT))
    assert [server.requests[shard.name] for shard in corpus.shards] == list(SIZES)


def test_shards_are_fetched_once_into_the_cache(
    corpus: Corpus, server: LoopbackServer, tmp_path: Path
) -> None:
    for _ in range(2):
        store = ShardStore(cache=cache_of(tmp_path / "cache", corpus, shards=3))
        assert [read(store, corpus, number) for number in range(COUNT)] == list(range(COUNT))
    assert [server.requests[shard.name] for shard in corpus.shards] == [1, 1, 1]
    copies = {path.read_bytes() for path in cached(tmp_path / "cache")}
    assert copies == {(server.folder / shard.name).read_bytes() for shard in corpus.shards}


def test_what_was_not_read_for_longest_goes_first(
    corpus: Corpus, server: LoopbackServer, tmp_path: Path
) -> None:
    store = ShardStore(cache=cache_of(tmp_path / "cache", corpus, shards=2))
    limit = 2 * corpus.window_bytes(1)
    for number in (0, 4, 1, 7, 2, 5):  # shards 0 1 0 2 0 1
        assert read(store, corpus, number) == number
        assert sum(path.stat().st_size for path in cached(tmp_path / "cache")) <= limit
    assert [server.requests[shard.name] for shard in corpus.shards] == [1, 2, 1]


def test_a_shard_that_fails_is_tried_again_after_growing_pauses(
    corpus: Corpus, server: LoopbackServer, tmp_path: Path
) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        server.is_down = len(pauses) < 3

    store = ShardStore(
        cache=cache_of(tmp_path / "cache", corpus, shards=3),
        retries=Retries(times=3, first_pause_seconds=0.5),
        pause=pause,
    )
    server.is_down = True
    assert read(store, corpus, 0) == 0
    assert pauses == [0.5, 1.0, 2.0]


def test_a_lost_shard_is_left_alone_until_the_next_pass(
    corpus: Corpus, server: LoopbackServer
) -> None:
    pauses: list[float] = []
    store = ShardStore(retries=Retries(times=2), pause=pauses.append)
    path = server.folder / "toy-000000.tar"
    path.rename(path.with_suffix(".away"))
    for number in (0, 1, 2):
        with pytest.raises(ShardLostError, match="cannot be read"):
            read(store, corpus, number)
    assert len(pauses) == 2 and server.requests[path.name] == 3
    assert read(store, corpus, 4) == 4
    path.with_suffix(".away").rename(path)
    with pytest.raises(ShardLostError):
        read(store, corpus, 3)
    assert read(store, corpus, 3, pass_number=1) == 3


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_what_is_not_as_its_index_says_never_gets_into_the_cache(
    corpus: Corpus, server: LoopbackServer, tmp_path: Path, damage: str
) -> None:
    path = server.folder / "toy-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-100] if damage == "cut" else data[:-1] + b"x")
    store = ShardStore(
        cache=cache_of(tmp_path / "cache", corpus, shards=3), retries=Retries(times=0)
    )
    with pytest.raises(ShardLostError, match=r"but its index says|other content"):
        read(store, corpus, 0)
    assert cached(tmp_path / "cache") == []


def test_a_partial_file_of_a_killed_process_makes_room(corpus: Corpus, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("left", "behind"):
        (cache / f"{name}.partial").write_bytes(bytes(corpus.window_bytes(1)))
    store = ShardStore(cache=cache_of(cache, corpus, shards=1), retries=Retries(times=0))
    assert read(store, corpus, 0) == 0
    assert [path.suffix for path in cached(cache)] == [".tar"]


def test_no_room_is_told(corpus: Corpus, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", max_bytes=1000)
    store = ShardStore(cache=cache, retries=Retries(times=0))
    with pytest.raises(ShardLostError, match=r"raise data\.shard_cache_bytes"):
        read(store, corpus, 0)
    with pytest.raises(ValueError, match="at least 1"):
        ShardCache(tmp_path, max_bytes=0)


def test_a_wicked_index_cannot_name_files_of_the_cache(corpus: Corpus, tmp_path: Path) -> None:
    shard = replace(corpus.shards[0], sha256="../../wicked")
    store = ShardStore(
        cache=cache_of(tmp_path / "a" / "cache", corpus, shards=3), retries=Retries(times=0)
    )
    with pytest.raises(ShardLostError, match="other content"):
        store.read(shard, corpus.find(0)[1], pass_number=0)
    assert not list(tmp_path.rglob("*wicked*"))


def _read_all(address: str, folder: Path, max_bytes: int, first: int) -> None:
    corpus = open_corpus(address)
    store = ShardStore(cache=ShardCache(folder, max_bytes=max_bytes))
    for step in range(3 * COUNT):
        number = (first + step) % COUNT
        assert read(store, corpus, number) == number


def test_processes_share_a_cache_smaller_than_the_set(
    corpus: Corpus, server: LoopbackServer, tmp_path: Path
) -> None:
    limit = 2 * corpus.window_bytes(1)
    address = f"{server.address}/toy.index.json"
    context = multiprocessing.get_context("fork")
    readers = [
        context.Process(target=_read_all, args=(address, tmp_path / "cache", limit, first))
        for first in (0, 4, 8)
    ]
    for reader in readers:
        reader.start()
    while any(reader.is_alive() for reader in readers):
        if (tmp_path / "cache").exists():
            assert _size(tmp_path / "cache") <= limit
        readers[0].join(0.01)
    assert [reader.exitcode for reader in readers] == [0, 0, 0]
    assert all(path.suffix == ".tar" for path in cached(tmp_path / "cache"))


def _size(folder: Path) -> int:
    total = 0
    for path in cached(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
