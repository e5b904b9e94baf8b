import io
import os
import tarfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reelscan.pretrain.shard_index import ShardIndex, describe_shard, write_index
from reelscan.pretrain.shard_reader import ClipDecoder, Sample, ShardDataset
from reelscan.pretrain.shard_sample import Description, description_bytes
from reelscan.pretrain.shard_tar import ShardTar
from reelscan.video.encode import write_video
from reelscan.video.errors import VideoError

SIZES = (4, 3, 5)
COUNT = sum(SIZES)
GOOD_JSON = b'{"captions": ["x"]}'


def decode(media: bytes, name: str, generator: torch.Generator) -> Tensor:
    """Stands for a real decoder: the first byte is the brightness."""
    if media == b"bad":
        raise VideoError(name, "is broken")
    return torch.full((2, 3, 4, 4), media[0], dtype=torch.uint8)


def write_corpus(
    folder: Path,
    sizes: Sequence[int] = SIZES,
    *,
    broken: Sequence[int] = (),
    group_size: int = 0,
) -> Path:
    """Sample n has brightness n and the caption "caption n"; `broken` ones cannot be decoded."""
    folder.mkdir(exist_ok=True)
    shards, number = [], 0
    for shard, size in enumerate(sizes):
        tar = ShardTar(folder / f"toy-{shard:06d}.tar")
        for _ in range(size):
            media = b"bad" if number in broken else bytes([number])
            group = f"group {number // group_size}" if group_size else None
            description = Description(captions=(f"caption {number}",), group=group)
            members = {"json": description_bytes(description), "mp4": media}
            tar.add(f"{number:09d}", members)
            number += 1
        tar.finish()
        shards.append(describe_shard(tar.path))
    path = folder / "toy.index.json"
    index = ShardIndex(name="toy", inputs_sha256="0", rejected=0, shards=tuple(shards))
    write_index(index, path)
    return path


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def numbers(samples: Sequence[Sample]) -> list[int]:
    return [int(sample.clip_uint8[0, 0, 0, 0]) for sample in samples]


def read(dataset: ShardDataset, epoch: int = 0) -> list[int]:
    dataset.set_epoch(epoch)
    return numbers(list(dataset))


def read_files(*paths: Path | str, allow_pipe: bool = False) -> tuple[list[Sample], ShardDataset]:
    dataset = ShardDataset(
        paths, corpus="files", decode=decode, shuffle=False, allow_pipe=allow_pipe
    )
    return list(dataset), dataset


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_an_epoch_has_every_sample_once_with_its_caption(corpus: Path) -> None:
    samples = list(ShardDataset(corpus, decode=decode))
    assert sorted(numbers(samples)) == list(range(COUNT))
    for sample, number in zip(samples, numbers(samples), strict=True):
        assert sample.captions == (f"caption {number}",)
        assert sample.caption in sample.captions
        assert sample.source.endswith(f"/{number:09d}.mp4")


def test_order_follows_from_seed_and_epoch(corpus: Path) -> None:
    dataset = ShardDataset(corpus, decode=decode, seed=1)
    first, second = read(dataset, 0), read(dataset, 1)
    assert first != second
    assert read(dataset, 0) == first
    assert read(ShardDataset(corpus, decode=decode, seed=1), 1) == second
    assert read(ShardDataset(corpus, decode=decode, seed=2), 0) != first


def test_without_shuffle_the_order_is_that_of_the_shards(corpus: Path) -> None:
    dataset = ShardDataset(corpus, decode=decode, shuffle=False)
    assert read(dataset, 0) == read(dataset, 1) == list(range(COUNT))


def test_the_buffer_mixes_shards(corpus: Path) -> None:
    ends = [sum(SIZES[: shard + 1]) for shard in range(len(SIZES))]
    starts = []
    for epoch in range(20):
        order = read(ShardDataset(corpus, decode=decode), epoch)
        starts.append({next(s for s, end in enumerate(ends) if n < end) for n in order[:4]})
    assert any(len(shards) > 1 for shards in starts)


def test_groups_stay_together_though_a_member_is_broken(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "pairs", (6, 6), broken=[3], group_size=2)
    orders = [read(ShardDataset(corpus, decode=decode, seed=seed)) for seed in range(5)]
    for order in orders:
        assert sorted(order) == [n for n in range(12) if n != 3]
        for first in (0, 4, 6, 8, 10):
            assert order.index(first + 1) == order.index(first) + 1
    assert len({tuple(order) for order in orders}) > 1


def test_a_buffer_of_one_sample_keeps_shards_together(corpus: Path) -> None:
    order = read(ShardDataset(corpus, decode=decode, shuffle_samples=1))
    assert order != sorted(order)
    steps = [later - earlier for earlier, later in pairwise(order)]
    assert sum(step != 1 for step in steps) == len(SIZES) - 1
    assert order == read(ShardDataset(corpus, decode=decode, shuffle_bytes=1))


@pytest.mark.parametrize("cache_bytes", [0, 10**6])
@pytest.mark.parametrize(("world_size", "workers"), [(1, 3), (2, 2), (3, 1), (2, 4)])
def test_processes_and_workers_share_without_overlap(
    corpus: Path, world_size: int, workers: int, cache_bytes: int
) -> None:
    found: list[int] = []
    for rank in range(world_size):
        dataset = ShardDataset(
            corpus, decode=decode, rank=rank, world_size=world_size, cache_bytes=cache_bytes
        )
        for worker in range(workers):
            found += numbers(list(dataset.samples(epoch=3, worker=worker, workers=workers)))
    assert sorted(found) == list(range(COUNT))


def test_sample_ids(corpus: Path, tmp_path: Path) -> None:
    def ids(dataset: ShardDataset, epoch: int) -> dict[str, int]:
        dataset.set_epoch(epoch)
        return {sample.source: sample.sample_id for sample in dataset}

    here = ids(ShardDataset(corpus, decode=decode), 0)
    assert here == ids(ShardDataset(corpus, decode=decode), 1)
    assert len(set(here.values())) == COUNT
    assert all(0 <= number < 2**63 for number in here.values())
    # The same name and keys, other content: another corpus.
    other = ids(ShardDataset(write_corpus(tmp_path, (4, 3, 6)), decode=decode), 0)
    named = ids(ShardDataset(corpus, decode=decode, corpus="named"), 0)
    assert not {*here.values()} & {*other.values()}
    assert not {*here.values()} & {*named.values()}


def test_augmentation_and_captions_depend_on_the_epoch_but_not_on_workers(tmp_path: Path) -> None:
    captions = [f"caption {number}" for number in range(50)]
    description = description_bytes(Description(captions=tuple(captions)))
    paths = [
        write_tar(
            tmp_path / f"{shard}.tar", [(f"{shard}.json", description), (f"{shard}.mp4", b"0")]
        )
        for shard in range(4)
    ]

    def augment(clip: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randint(256, clip.shape, generator=generator, dtype=torch.uint8)

    dataset = ShardDataset(paths, corpus="c", decode=decode, augment=augment)

    def drawn(epoch: int, workers: int) -> dict[str, tuple[str, bytes]]:
        return {
            sample.source: (sample.caption, sample.clip_uint8.numpy().tobytes())
            for worker in range(workers)
            for sample in dataset.samples(epoch=epoch, worker=worker, workers=workers)
        }

    assert drawn(0, 1) == drawn(0, 3)
    assert len(set(drawn(0, 1).values())) == 4
    assert drawn(0, 1) != drawn(1, 1)


def test_default_decoding_reads_real_clips(tmp_path: Path) -> None:
    frames = torch.full((6, 3, 32, 48), 200, dtype=torch.uint8)
    write_video(tmp_path / "v.mp4", frames, fps=6)
    members = [("1.json", GOOD_JSON), ("1.mp4", (tmp_path / "v.mp4").read_bytes())]
    path = write_tar(tmp_path / "a.tar", members)
    (sample,) = ShardDataset([path], corpus="c", decode=ClipDecoder(frames=4, frame_size=24))
    assert sample.clip_uint8.shape == (4, 3, 24, 24)
    assert abs(sample.clip_uint8.float().mean() - 200) < 4
    (sample,) = ShardDataset([path], corpus="c")
    assert sample.clip_uint8.shape == (8, 3, 224, 224)


# Damage and malice


def test_playlists_are_not_opened_as_videos(tmp_path: Path) -> None:
    frames = torch.zeros(6, 3, 32, 48, dtype=torch.uint8)
    write_video(tmp_path / "v.mp4", frames, fps=6)
    playlist = f"ffconcat version 1.0\nfile '{tmp_path}/v.mp4'\n".encode()
    path = write_tar(tmp_path / "a.tar", [("1.json", GOOD_JSON), ("1.mp4", playlist)])
    dataset = ShardDataset([path], corpus="c")
    assert list(dataset) == []
    assert dataset.skips.counts == {"video": 1}


def test_what_cannot_be_decoded_is_counted_and_listed(tmp_path: Path) -> None:
    dataset = ShardDataset(write_corpus(tmp_path, broken=[2, 9]), decode=decode, shuffle=False)
    assert read(dataset) == [n for n in range(COUNT) if n not in (2, 9)]
    assert dataset.skips.counts == {"video": 2}
    assert [skip.source for skip in dataset.skips.listed] == [
        "toy-000000.tar/000000002.mp4",
        "toy-000002.tar/000000009.mp4",
    ]
    assert dataset.skips.listed[0].detail == "is broken"


def test_errors_that_are_not_the_videos_fault_are_raised(corpus: Path) -> None:
    def faulty(media: bytes, name: str, generator: torch.Generator) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(ShardDataset(corpus, decode=faulty))


@pytest.mark.parametrize("clip", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_decoders_must_give_uint8_frames(corpus: Path, clip: Tensor) -> None:
    with pytest.raises(ValueError, match=r"decode gave .* but must give uint8 \[T, 3, S, S\]"):
        list(ShardDataset(corpus, decode=lambda media, name, generator: clip))


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_members_is_neither_run_nor_read(tmp_path: Path) -> None:
    import pickle  # noqa: TID251 - to attack with

    attack = pickle.dumps(Payload(tmp_path / "owned"))
    endings = ("pyd", "pickle", "pth", "pt", "npy", "mp4.pickle", "json.pyd", "mp", "cbor", "ten")
    members = [(f"1.{ending}", attack) for ending in endings]
    members += [("1.json", GOOD_JSON), ("1.mp4", b"\x07"), ("1.py", b"raise SystemExit")]
    members += [("2.pickle", attack), ("2.json", attack), ("2.mp4", b"\x08")]
    samples, dataset = read_files(write_tar(tmp_path / "a.tar", members))
    assert numbers(samples) == [7]
    assert dataset.skips.counts == {"json": 1}
    assert not (tmp_path / "owned").exists()
    import webdataset

    assert webdataset.utils.enforce_security


def test_member_names_are_never_paths(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    names = ("../../x", "/tmp/../abs", "C:\\x", "new\nline", "caf\u00e9")
    members = [
        (f"{name}.{end}", data)
        for name in names
        for end, data in (("json", GOOD_JSON), ("mp4", b"\x01"))
    ]
    before = sorted(tmp_path.rglob("*"))
    samples, _ = read_files(write_tar(folder / "a.tar", members))
    assert len({sample.sample_id for sample in samples}) == len(samples) == len(names)
    assert all(sample.source.isprintable() for sample in samples)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, folder / "a.tar"])


def test_links_and_devices_in_a_shard_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x09")
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("1.json")
        entry.size = len(GOOD_JSON)
        tar.addfile(entry, io.BytesIO(GOOD_JSON))
        link = tarfile.TarInfo("1.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    samples, dataset = read_files(path)
    assert samples == []
    assert dataset.skips.counts == {"members": 1}


def test_any_cut_drops_only_incomplete_samples(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, (3,))
    shard = tmp_path / "toy-000000.tar"
    whole = shard.read_bytes()
    ends = [place.media.offset + place.media.size for place in describe_shard(shard).samples]
    for cut in range(0, len(whole), 100):
        shard.write_bytes(whole[:cut])
        dataset = ShardDataset(index, decode=decode, shuffle=False)
        complete = sum(cut >= end for end in ends)
        assert read(dataset) == list(range(complete))
        assert dataset.skips.listed or complete == 3


def test_a_cut_shard_does_not_spoil_the_next(tmp_path: Path) -> None:
    members = [("1.json", b'{"captions": ["wrong"]}'), ("1.mp4", b"\x01" * 2000)]
    cut = write_tar(tmp_path / "a.tar", members)
    cut.write_bytes(cut.read_bytes()[:2000])
    good = write_tar(tmp_path / "b.tar", [("1.mp4", b"\x02"), ("1.json", GOOD_JSON)])
    samples, dataset = read_files(cut, good)
    assert [(sample.caption, *numbers([sample])) for sample in samples] == [("x", 2)]
    assert dataset.skips.counts["members"] == 1


def test_a_flipped_header_is_noticed_with_an_index(tmp_path: Path) -> None:
    index = write_corpus(tmp_path, (3,))
    shard = tmp_path / "toy-000000.tar"
    data = bytearray(shard.read_bytes())
    second = describe_shard(shard).samples[1].description.offset - 512
    data[second] ^= 1
    shard.write_bytes(data)
    dataset = ShardDataset(index, decode=decode)
    assert read(dataset) == [0]
    assert [skip.detail for skip in dataset.skips.listed] == [
        "gave 1 samples, but its index says 3"
    ]


@pytest.mark.parametrize(
    "content",
    [b"garbage" * 1000, b"\x00" * 700, b"", b"\x1f\x8b\x08" + b"x" * 2000, b"BZh9" + b"x" * 2000],
)
def test_garbage_is_passed_over(tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(content)
    good = write_tar(tmp_path / "good.tar", [("1.json", GOOD_JSON), ("1.mp4", b"\x05")])
    samples, dataset = read_files(bad, good)
    assert numbers(samples) == [5]
    if content.strip(b"\x00"):
        assert dataset.skips.counts == {"shard": 1}


def test_compressed_shards_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo("1.mp4")
        entry.size = 10
        tar.addfile(entry, io.BytesIO(bytes(10)))
    samples, dataset = read_files(path)
    assert samples == []
    assert "compressed" in dataset.skips.listed[0].detail


def test_an_empty_shard_is_no_error(tmp_path: Path) -> None:
    samples, dataset = read_files(write_tar(tmp_path / "a.tar", []))
    assert samples == [] and dataset.skips.listed == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"3",
        b'"captions"',
        b"{}",
        b'{"captions": "x"}',
        b'{"captions": []}',
        b'{"captions": [" "]}',
        b'{"captions": [1]}',
        b'{"captions": ["\\ud800"]}',
        b'{"captions": ["x"], "video": 3}',
        b'{"captions": ["x"]',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_wrong_json_is_counted(tmp_path: Path, content: bytes) -> None:
    members = [("1.json", content), ("1.mp4", b"\x01"), ("2.json", GOOD_JSON), ("2.mp4", b"\x02")]
    samples, dataset = read_files(write_tar(tmp_path / "a.tar", members))
    assert numbers(samples) == [2]
    assert dataset.skips.counts == {"json": 1}
    assert dataset.skips.listed[0].source == "a.tar/1.json"


@pytest.mark.parametrize("endings", [["json"], ["mp4"], ["json", "mp4", "jpg"], ["json", "txt"]])
def test_samples_need_a_json_and_one_video_or_image(tmp_path: Path, endings: list[str]) -> None:
    members = [(f"1.{ending}", GOOD_JSON) for ending in endings]
    members += [("2.json", GOOD_JSON), ("2.jpg", b"\x02")]
    samples, dataset = read_files(write_tar(tmp_path / "a.tar", members))
    assert numbers(samples) == [2]
    assert dataset.skips.counts == {"members": 1}


def test_a_member_that_is_there_twice(tmp_path: Path) -> None:
    members = [("1.json", GOOD_JSON), ("1.mp4", b"\x01"), ("1.mp4", b"\x02")]
    members += [("2.json", GOOD_JSON), ("2.mp4", b"\x03")]
    samples, dataset = read_files(write_tar(tmp_path / "a.tar", members))
    assert numbers(samples) == [1, 3]
    assert "duplicate" in dataset.skips.listed[0].detail


# Names of shards


@pytest.mark.parametrize(
    "name",
    ["a#b?c.tar", "{000..002}.tar", "a::b.tar", "-", "http:x.tar", "*.tar", "%41.tar", "pipe.tar"],
)
def test_signs_in_names_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_tar(tmp_path / name, [("1.json", GOOD_JSON), ("1.mp4", b"\x05")])
    monkeypatch.chdir(tmp_path)
    for given in (name, str(tmp_path / name), tmp_path / name):
        assert numbers(read_files(given)[0]) == [5]


def test_file_addresses(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a b#.tar", [("1.json", GOOD_JSON), ("1.mp4", b"\x05")])
    assert numbers(read_files(path.as_uri())[0]) == [5]


@pytest.mark.parametrize(
    "address", ["http://x/a.tar", "s3://x/a.tar", "hf://x/a.tar", "file://elsewhere/a.tar"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="not a local file: fetch the shard first"):
        read_files(address)


def test_commands_run_only_if_allowed(tmp_path: Path) -> None:
    members = [("1.json", GOOD_JSON), ("1.mp4", b"\x05" * 100_000)]
    path = write_tar(tmp_path / "a b.tar", members)
    with pytest.raises(ValueError, match="would run a command"):
        read_files(f"pipe:touch {tmp_path}/owned")
    assert not (tmp_path / "owned").exists()
    assert numbers(read_files(f"pipe:cat '{path}'", allow_pipe=True)[0]) == [5]
    # No shell: what would be a second command is an argument.
    with pytest.raises(OSError, match="ended with status"):
        read_files(f"pipe:cat {tmp_path}/none ; touch {tmp_path}/owned", allow_pipe=True)
    assert not (tmp_path / "owned").exists()


def test_missing_shards_and_wrong_arguments(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_files(tmp_path / "none.tar")
    with pytest.raises(ValueError, match="no shards"):
        read_files()
    with pytest.raises(ValueError, match="give an index, or the shards as a list"):
        ShardDataset(corpus.with_name("toy-000000.tar"), decode=decode)
    with pytest.raises(ValueError, match="need a name: give corpus"):
        ShardDataset([corpus.with_name("toy-000000.tar")], decode=decode)
    (tmp_path / "toy-000000.tar").touch()
    with pytest.raises(ValueError, match=r"2 shards are called toy-000000.tar"):
        read_files(corpus.with_name("toy-000000.tar"), tmp_path / "toy-000000.tar")
    with pytest.raises(ValueError, match="rank is 2, but must be 0 to 1"):
        ShardDataset(corpus, rank=2, world_size=2)
    with pytest.raises(ValueError, match="both rank and world_size"):
        ShardDataset(corpus, rank=0)
    with pytest.raises(ValueError, match="shuffle=False"):
        ShardDataset(corpus, shuffle_samples=0)


# The cache


class CountingDecoder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, media: bytes, name: str, generator: torch.Generator) -> Tensor:
        self.calls += 1
        noise = torch.randint(2, (2, 3, 4, 4), generator=generator, dtype=torch.uint8)
        return decode(media, name, generator) * 2 + noise


def clips(dataset: ShardDataset, epoch: int) -> dict[str, bytes]:
    dataset.set_epoch(epoch)
    return {sample.source: sample.clip_uint8.numpy().tobytes() for sample in dataset}


def test_the_cache_decodes_once(corpus: Path) -> None:
    decoder = CountingDecoder()
    dataset = ShardDataset(corpus, decode=decoder, cache_bytes=10**6)
    first = clips(dataset, 0)
    assert clips(dataset, 1) == first
    assert decoder.calls == COUNT
    # A run that starts later sees the same clips.
    assert clips(ShardDataset(corpus, decode=CountingDecoder(), cache_bytes=10**6), 5) == first
    plain = ShardDataset(corpus, decode=CountingDecoder())
    assert clips(plain, 0) != clips(plain, 1)


def test_the_cache_is_not_fooled_by_keys_that_come_again(tmp_path: Path) -> None:
    members = []
    for key, media in (("1", b"\x01"), ("2", b"\x02"), ("1", b"\x03")):
        members += [(f"{key}.json", GOOD_JSON), (f"{key}.mp4", media)]
    path = write_tar(tmp_path / "a.tar", members)
    dataset = ShardDataset([path], corpus="c", decode=decode, cache_bytes=10**6, shuffle=False)
    assert read(dataset, 0) == read(dataset, 1) == [1, 2, 3]


def test_the_cache_keeps_to_its_limit(corpus: Path) -> None:
    decoder = CountingDecoder()
    clip_bytes = 2 * 3 * 4 * 4
    dataset = ShardDataset(corpus, decode=decoder, cache_bytes=5 * clip_bytes + 1)
    for epoch in range(3):
        clips(dataset, epoch)
    assert decoder.calls == COUNT + 2 * (COUNT - 5)


def test_augmentation_cannot_spoil_the_cache(corpus: Path) -> None:
    def invert_in_place(clip: Tensor, generator: torch.Generator) -> Tensor:
        return clip.bitwise_not_()

    dataset = ShardDataset(corpus, decode=decode, augment=invert_in_place, cache_bytes=10**6)
    assert clips(dataset, 0) == clips(dataset, 1) == clips(dataset, 2)


def test_workers_keep_their_shards_with_a_cache(corpus: Path) -> None:
    dataset = ShardDataset(corpus, decode=decode, cache_bytes=10**6)
    for worker in range(2):
        first, *others = (
            {shard.name for shard in dataset.shards_of(epoch, worker=worker, workers=2)}
            for epoch in range(5)
        )
        assert all(other == first for other in others)
