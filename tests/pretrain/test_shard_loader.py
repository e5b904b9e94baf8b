from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor
from toy_shards import COUNT, SIZES, decode, write_corpus

from reelscan.models.clip_vit import TeacherOutput
from reelscan.pretrain.sample_order import BatchOrder, CorpusOrder, KindOrder
from reelscan.pretrain.shard_list import open_corpus
from reelscan.pretrain.shard_loader import (
    Batch,
    ShardLoader,
    TooManyUnreadableError,
    join_batches,
)
from reelscan.pretrain.shard_reader import CorpusReader, Decode
from reelscan.pretrain.shard_store import Retries, ShardStore
from reelscan.pretrain.skip_log import Skipped

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def open_loader(
    index: Path,
    *,
    batch_size: int = 4,
    processes: int = 1,
    decoding: Decode = decode,
    shuffle_shards: int = 2,
    **options,
) -> ShardLoader:
    corpus = open_corpus(index)
    order = CorpusOrder(
        corpus.name,
        follows=[rows.follows for rows in corpus.rows],
        seed=0,
        shuffle_shards=shuffle_shards,
    )
    return ShardLoader(
        [[CorpusReader(corpus, ShardStore(retries=Retries(times=0)), decode=decoding)]],
        BatchOrder(
            [KindOrder([order], seed=0, kind=0)], global_batch=batch_size * processes, seed=0
        ),
        batch_size=batch_size,
        **options,
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def numbers(batches: Sequence[Batch]) -> list[int]:
    return [n for batch in batches for n in batch.clips_uint8[:, 0, 0, 0, 0].tolist()]


def read(loader: ShardLoader, batches: int, *, start: int = 0) -> list[int]:
    return numbers(list(islice(loader.batches(start), batches)))


def test_batches_hold_clips_with_their_captions_and_ids(corpus: Path) -> None:
    ids: dict[str, int] = {}
    for batch in islice(open_loader(corpus).batches(0), 6):
        assert batch.clips_uint8.shape == (4, 2, 3, 4, 4)
        assert batch.clips_uint8.dtype == torch.uint8
        assert batch.sample_ids.dtype == torch.int64
        found = list(map(str, numbers([batch])))
        assert [caption.split()[0] for caption in batch.captions] == found
        for number, sample_id in zip(found, batch.sample_ids.tolist(), strict=True):
            assert ids.setdefault(number, sample_id) == sample_id
    assert len(set(ids.values())) == len(ids) == COUNT


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_and_draws_do_not_depend_on_workers(corpus: Path, workers: int) -> None:
    alone = list(islice(open_loader(corpus).batches(0), 6))
    batches = list(islice(open_loader(corpus, workers=workers).batches(0), 6))
    assert numbers(batches) == numbers(alone)
    assert [batch.captions for batch in batches] == [batch.captions for batch in alone]
    assert Counter(numbers(batches)) == Counter(dict.fromkeys(range(COUNT), 2))
    assert numbers(batches[:3]) != numbers(batches[3:])


def test_a_run_resumed_with_other_processes_and_workers_sees_each_sample_once(
    corpus: Path,
) -> None:
    """Two processes for one step of six, then three with workers for the rest of two passes."""
    whole = read(open_loader(corpus, batch_size=6), 4)
    assert [sorted(whole[:COUNT]), sorted(whole[COUNT:])] == [list(range(COUNT))] * 2
    seen = []
    for processes, workers, steps in ((2, 0, range(1)), (3, 1, range(1, 4))):
        parts = [
            open_loader(
                corpus, batch_size=6 // processes, processes=processes, rank=rank, workers=workers
            ).batches(steps.start)
            for rank in range(processes)
        ]
        for _ in steps:
            seen += [number for part in parts for number in numbers([next(part)])]
    assert seen == whole


def test_resuming_decodes_nothing_that_was_seen(corpus: Path) -> None:
    decoded = []

    def noted(media: bytes, name: str, generator: torch.Generator) -> Tensor:
        decoded.append(media[0])
        return decode(media, name, generator)

    whole = read(open_loader(corpus), 3)
    assert read(open_loader(corpus, decoding=noted), 1, start=2) == whole[8:] == decoded


def test_a_broken_sample_is_replaced_by_one_that_comes_next(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, media_bytes=3)
    whole = read(open_loader(index), 6)
    bad = whole[5]
    shard, row = open_corpus(index).find(bad)
    with Path(shard.address).open("r+b") as file:
        file.seek(row.media.offset)
        file.write(b"bad")
    for workers in (0, 2):
        skips: list[Skipped] = []
        loader = open_loader(index, workers=workers, on_skip=skips.append)
        seen = read(loader, 6)
        assert seen[5] == whole[6] and bad not in seen
        # All others are where they would have been.
        assert [n for n, m in zip(seen, whole, strict=True) if n != m] == [
            after for before, after in zip(whole, (*whole[1:], -1), strict=True) if before == bad
        ]
        assert loader.skips.counts == {"video": 2}
        assert [skip.source.rpartition("/")[2] for skip in skips] == [f"{bad:09d}.mp4"]


def test_a_lost_shard_is_replaced_and_left_alone_until_the_next_pass(tmp_path: Path) -> None:
    index = write_corpus(tmp_path)
    shard = tmp_path / "toy-000001.tar"
    content = shard.read_bytes()
    shard.unlink()
    loader = open_loader(index, batch_size=COUNT, shuffle_shards=3)
    batches = loader.batches(0)
    seen = numbers([next(batches)])
    assert not set(seen) & {4, 5, 6} and len(seen) == COUNT
    assert [skip.source for skip in loader.skips.listed] == [shard.name]
    shard.write_bytes(content)
    assert sorted(numbers([next(batches)])) == list(range(COUNT))


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_readable_is_an_error(tmp_path: Path, workers: int) -> None:
    loader = open_loader(write_corpus(tmp_path, broken=range(COUNT)), workers=workers)
    with pytest.raises(TooManyUnreadableError, match=r"9 video; the first: toy-.*is broken"):
        read(loader, 1)


def test_too_much_unreadable_stops_the_run(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, broken=[3])
    assert len(read(open_loader(index, max_unreadable_fraction=0.1), 60)) == 240
    loader = open_loader(index, max_unreadable_fraction=0.05)
    with pytest.raises(TooManyUnreadableError, match=r"1\d of the last 200 samples .* is broken"):
        read(loader, 60)


def test_leaving_early_does_not_disturb_the_next(corpus: Path) -> None:
    loader = open_loader(corpus, workers=2)
    whole = read(loader, 3, start=3)
    next(loader.batches(0))
    assert read(loader, 3, start=3) == whole


def test_workers_use_one_thread(corpus: Path) -> None:
    def threads(media: bytes, name: str, generator: torch.Generator) -> Tensor:
        used = [torch.get_num_threads(), cv2.getNumThreads()]
        return torch.tensor(used, dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = open_loader(corpus, decoding=threads, workers=1).batches(0)
        assert all((batch.clips_uint8 == 1).all() for batch in islice(batches, 3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_clips_of_different_sizes_are_an_error(corpus: Path) -> None:
    def growing(media: bytes, name: str, generator: torch.Generator) -> Tensor:
        return torch.zeros(1 + media[0], 3, 4, 4, dtype=torch.uint8)

    with pytest.raises(ValueError, match="must give one number of frames and one size"):
        read(open_loader(corpus, decoding=growing), 1)


def test_groups_stay_together(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, (6, 6), group_size=2)
    order = read(open_loader(index, batch_size=12), 1)
    assert sorted(order) == list(range(12)) != order
    assert all(order[order.index(first) + 1] == first + 1 for first in range(0, 12, 2))
    assert sum(SIZES) == COUNT


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_decoded_in_parts_is_the_same(corpus, workers):
    whole = list(islice(open_loader(corpus, batch_size=4).batches(1), 3))
    loader = open_loader(corpus, batch_size=4, parts=2, workers=workers)
    parts = list(islice(loader.batches(1), 3))
    assert numbers(parts) == numbers(whole)
    for one, other in zip(parts, whole, strict=True):
        assert one.captions == other.captions
        assert torch.equal(one.sample_ids, other.sample_ids)
        assert torch.equal(one.clips_uint8, other.clips_uint8)


def test_joining_puts_back_what_was_taken_apart():
    features = torch.arange(2 * 4 * 5 * 3.0).view(2, 4, 5, 3)
    batch = Batch(
        clips_uint8=torch.randint(256, (4, 2, 3, 4, 4), dtype=torch.uint8),
        captions=["a", "b", "c", "d"],
        sample_ids=torch.arange(4),
        taught=TeacherOutput(features=features, attention=torch.arange(16.0).view(8, 2)),
    )
    joined = join_batches([batch.rows(slice(0, 1)), batch.rows(slice(1, 4))])
    assert joined.captions == batch.captions
    for one, other in (
        (joined.clips_uint8, batch.clips_uint8),
        (joined.sample_ids, batch.sample_ids),
        (joined.taught.features, batch.taught.features),
        (joined.taught.attention, batch.taught.attention),
    ):
        assert torch.equal(one, other)
