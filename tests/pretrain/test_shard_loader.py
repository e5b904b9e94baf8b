from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor

from reelscan.pretrain.shard_index import ShardIndex, describe_shard, write_index
from reelscan.pretrain.shard_loader import Batch, ShardLoader, make_loader
from reelscan.pretrain.shard_reader import ShardDataset
from reelscan.pretrain.shard_sample import Description, description_bytes
from reelscan.pretrain.shard_tar import ShardTar
from reelscan.video.errors import VideoError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")

SIZES = (4, 3, 5)
COUNT = sum(SIZES)


def decode(media: bytes, name: str, generator: torch.Generator) -> Tensor:
    """Stands for a real decoder: the first byte is the brightness."""
    if media == b"bad":
        raise VideoError(name, "is broken")
    return torch.full((2, 3, 4, 4), media[0], dtype=torch.uint8)


def write_corpus(folder: Path, sizes: Sequence[int] = SIZES, *, broken: Sequence[int] = ()) -> Path:
    """Sample n has brightness n and the caption "n"; `broken` ones cannot be decoded."""
    shards, number = [], 0
    for shard, size in enumerate(sizes):
        tar = ShardTar(folder / f"toy-{shard:06d}.tar")
        for _ in range(size):
            media = b"bad" if number in broken else bytes([number])
            description = description_bytes(Description(captions=(str(number),)))
            tar.add(f"{number:09d}", {"json": description, "mp4": media})
            number += 1
        tar.finish()
        shards.append(describe_shard(tar.path))
    path = folder / "toy.index.json"
    index = ShardIndex(name="toy", inputs_sha256="0", rejected=0, shards=tuple(shards))
    write_index(index, path)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def numbers(batches: Sequence[Batch]) -> list[list[int]]:
    return [batch.clips_uint8[:, 0, 0, 0, 0].tolist() for batch in batches]


def epoch(loader: ShardLoader, number: int) -> list[list[int]]:
    loader.set_epoch(number)
    return numbers(list(loader))


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


def test_batches_hold_clips_with_their_captions_and_ids(corpus: Path) -> None:
    dataset = ShardDataset(corpus, decode=decode)
    ids = {int(sample.caption): sample.sample_id for sample in dataset}
    for batch in make_loader(dataset, batch_size=4):
        assert batch.clips_uint8.shape == (4, 2, 3, 4, 4)
        assert batch.clips_uint8.dtype == torch.uint8
        assert batch.sample_ids.dtype == torch.int64
        (found,) = numbers([batch])
        assert batch.captions == [str(number) for number in found]
        assert batch.sample_ids.tolist() == [ids[number] for number in found]


@pytest.mark.parametrize("workers", [0, 1, 3, 5])
def test_epochs_have_a_known_length_with_any_number_of_workers(corpus: Path, workers: int) -> None:
    loader = make_loader(ShardDataset(corpus, decode=decode), batch_size=2, workers=workers)
    assert len(loader) == COUNT // 2
    for number in range(2):
        batches = epoch(loader, number)
        assert [len(batch) for batch in batches] == [2] * len(loader)
    if workers <= 1:
        assert sorted(flat(batches)) == list(range(COUNT))


@pytest.mark.parametrize("workers", [0, 2, 5])
def test_without_drop_last_each_sample_comes_once(corpus: Path, workers: int) -> None:
    dataset = ShardDataset(corpus, decode=decode)
    loader = make_loader(dataset, batch_size=5, workers=workers, drop_last=False)
    assert sorted(flat(epoch(loader, 0))) == list(range(COUNT))
    with pytest.raises(TypeError, match="not known"):
        len(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_repeat_exactly(corpus: Path, workers: int) -> None:
    loader = make_loader(ShardDataset(corpus, decode=decode), batch_size=3, workers=workers)
    order = [epoch(loader, number) for number in range(3)]
    assert order[0] != order[1] != order[2]
    # A new loader that starts in the middle, and the old one going back.
    resumed = make_loader(ShardDataset(corpus, decode=decode), batch_size=3, workers=workers)
    assert epoch(resumed, 2) == order[2]
    assert epoch(loader, 0) == order[0]


def test_leaving_an_epoch_early_does_not_disturb_the_next(corpus: Path) -> None:
    loader = make_loader(ShardDataset(corpus, decode=decode), batch_size=2, workers=2)
    whole = epoch(loader, 1)
    loader.set_epoch(0)
    next(iter(loader))
    assert epoch(loader, 1) == whole


def test_all_processes_get_the_same_number_of_batches(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, (9, 1, 1, 6))
    seen: Counter[int] = Counter()
    for rank in range(2):
        dataset = ShardDataset(index, decode=decode, rank=rank, world_size=2)
        loader = make_loader(dataset, batch_size=2)
        for number in range(4):
            batches = epoch(loader, number)
            assert len(batches) == len(loader) == 17 // 4
            seen.update(flat(batches))
    assert set(seen) == set(range(17))


def test_skips_of_workers_arrive(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, broken=[0, 6])
    for workers in (0, 2):
        dataset = ShardDataset(index, decode=decode)
        loader = make_loader(dataset, batch_size=1, workers=workers, drop_last=False)
        assert len(list(loader)) == COUNT - 2
        assert loader.skips.counts == {"video": 2}
        assert {skip.source for skip in loader.skips.listed} == {
            "toy-000000.tar/000000000.mp4",
            "toy-000001.tar/000000006.mp4",
        }


def test_broken_samples_do_not_shorten_an_epoch(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, broken=range(8))
    loader = make_loader(ShardDataset(index, decode=decode), batch_size=2)
    batches = epoch(loader, 0)
    assert len(batches) == len(loader) == COUNT // 2
    assert set(flat(batches)) == set(range(8, COUNT))


def test_a_worker_whose_shard_is_lost_reads_others(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, (4, 4))
    shard = tmp_path / "toy-000001.tar"
    shard.write_bytes(b"garbage" * 1000)
    loader = make_loader(ShardDataset(index, decode=decode), batch_size=2, workers=2)
    batches = epoch(loader, 0)
    assert len(batches) == 4
    assert set(flat(batches)) == {0, 1, 2, 3}
    assert loader.skips.counts["shard"] > 0


@pytest.mark.parametrize(("drop_last", "workers"), [(True, 0), (False, 0), (False, 2)])
def test_nothing_readable_is_an_error(tmp_path: Path, drop_last: bool, workers: int) -> None:
    index = write_corpus(tmp_path, broken=range(COUNT))
    dataset = ShardDataset(index, decode=decode)
    loader = make_loader(dataset, batch_size=2, drop_last=drop_last, workers=workers)
    with pytest.raises(ValueError, match=r"(12|24) video; the first: toy-.*is broken"):
        list(loader)


def test_bare_shards_make_one_pass(corpus: Path) -> None:
    shards = sorted(corpus.parent.glob("*.tar"))
    loader = make_loader(ShardDataset(shards, corpus="c", decode=decode), batch_size=5)
    batches = epoch(loader, 0)
    assert [len(batch) for batch in batches] == [5, 5]
    assert len(set(flat(batches))) == 10


def test_workers_use_one_thread(corpus: Path) -> None:
    def threads(media: bytes, name: str, generator: torch.Generator) -> Tensor:
        used = [torch.get_num_threads(), cv2.getNumThreads()]
        return torch.tensor(used, dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 1, 1)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        loader = make_loader(ShardDataset(corpus, decode=threads), batch_size=2, workers=1)
        assert all((batch.clips_uint8 == 1).all() for batch in loader)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_cache_lives_on_in_workers(corpus: Path, tmp_path: Path) -> None:
    def noted(media: bytes, name: str, generator: torch.Generator) -> Tensor:
        with (tmp_path / "decoded").open("a") as file:
            file.write(f"{media[0]}\n")
        return decode(media, name, generator)

    dataset = ShardDataset(corpus, decode=noted, cache_bytes=10**6)
    loader = make_loader(dataset, batch_size=1, workers=2, drop_last=False)
    for number in range(3):
        assert sorted(flat(epoch(loader, number))) == list(range(COUNT))
    assert sorted(map(int, (tmp_path / "decoded").read_text().split())) == list(range(COUNT))


def test_clips_of_different_sizes_are_an_error(corpus: Path) -> None:
    def growing(media: bytes, name: str, generator: torch.Generator) -> Tensor:
        return torch.zeros(1 + media[0], 3, 4, 4, dtype=torch.uint8)

    loader = make_loader(ShardDataset(corpus, decode=growing), batch_size=3)
    with pytest.raises(ValueError, match="must give one number of frames and one size"):
        list(loader)


def test_corpora_too_small_for_the_processes(corpus: Path) -> None:
    dataset = ShardDataset(corpus, decode=decode, rank=3, world_size=4)
    with pytest.raises(ValueError, match="3 shards for 4 processes"):
        make_loader(dataset, batch_size=1)
    dataset = ShardDataset(corpus, decode=decode, rank=0, world_size=2)
    with pytest.raises(ValueError, match="fewer than 7 samples for each of 2 processes"):
        make_loader(dataset, batch_size=7)
    shards = sorted(corpus.parent.glob("*.tar"))
    dataset = ShardDataset(shards, corpus="c", decode=decode, rank=0, world_size=2)
    with pytest.raises(ValueError, match="different numbers of batches"):
        make_loader(dataset, batch_size=2)


@pytest.mark.parametrize(("batch_size", "workers"), [(0, 0), (1, -1)])
def test_wrong_numbers(corpus: Path, batch_size: int, workers: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        make_loader(ShardDataset(corpus, decode=decode), batch_size=batch_size, workers=workers)
