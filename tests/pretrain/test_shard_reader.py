from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_shards import COUNT, GOOD_JSON, decode, write_corpus, write_tar

from reelscan.pretrain.clip_cache import ClipCache
from reelscan.pretrain.shard_list import open_corpus
from reelscan.pretrain.shard_reader import ClipDecoder, CorpusReader, Sample
from reelscan.pretrain.shard_scan import index_shards
from reelscan.pretrain.shard_store import Retries, ShardStore
from reelscan.pretrain.skip_log import SkipLog
from reelscan.video.encode import write_video

STORE = ShardStore(retries=Retries(times=0))


def reader(index: Path, **options) -> CorpusReader:
    return CorpusReader(open_corpus(index), STORE, **{"decode": decode, **options})


def read(
    found: CorpusReader, number: int, *, pass_number: int = 0, instead_of: int | None = None
) -> Sample:
    sample = found.read(number, pass_number=pass_number, skips=SkipLog(), instead_of=instead_of)
    assert sample is not None
    return sample


def skips_of(found: CorpusReader, number: int) -> SkipLog:
    skips = SkipLog()
    assert found.read(number, pass_number=0, skips=skips) is None
    return skips


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_samples_come_by_their_number_with_their_captions(corpus: Path) -> None:
    found = reader(corpus)
    assert found.corpus.sample_count == COUNT
    for number in (11, 0, 4, 3, 6):
        sample = read(found, number)
        assert bool((sample.clip_uint8 == number).all())
        assert sample.captions == (str(number), f"{number} again")
        assert sample.source.endswith(f"/{number:09d}.mp4")
    assert len({read(found, number).sample_id for number in range(COUNT)}) == COUNT


def noise(clip: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(256, clip.shape, generator=generator, dtype=torch.uint8)


def test_random_choices_follow_from_seed_pass_and_sample(corpus: Path) -> None:
    def drawn(seed: int, pass_number: int, instead_of: int | None = None) -> list[object]:
        found = reader(corpus, augment=noise, seed=seed)
        samples = [
            read(found, number, pass_number=pass_number, instead_of=instead_of)
            for number in range(COUNT)
        ]
        return [(sample.caption, sample.clip_uint8.numpy().tobytes()) for sample in samples]

    assert drawn(0, 0) == drawn(0, 0)
    assert len(set(drawn(0, 0))) == COUNT
    assert drawn(0, 0) != drawn(0, 1) != drawn(1, 1)
    assert drawn(0, 0) != drawn(0, 0, instead_of=99)
    captions = {str(caption)[-5:] == "again" for caption, _ in drawn(0, 0)}  # type: ignore[misc]
    assert captions == {True, False}


def test_default_decoding_reads_real_clips(tmp_path: Path) -> None:
    frames = torch.full((6, 3, 32, 48), 200, dtype=torch.uint8)
    write_video(tmp_path / "v.mp4", frames, fps=6)
    members = [("1.json", GOOD_JSON), ("1.mp4", (tmp_path / "v.mp4").read_bytes())]
    index = index_shards([write_tar(tmp_path / "a.tar", members)], name="c", on_skip=print)
    sample = read(reader(index, decode=ClipDecoder(frames=4, frame_size=24)), 0)
    assert sample.clip_uint8.shape == (4, 3, 24, 24)
    assert abs(sample.clip_uint8.float().mean() - 200) < 4


def test_playlists_are_not_opened_as_videos(tmp_path: Path) -> None:
    frames = torch.zeros(6, 3, 32, 48, dtype=torch.uint8)
    write_video(tmp_path / "v.mp4", frames, fps=6)
    playlist = f"ffconcat version 1.0\nfile '{tmp_path}/v.mp4'\n".encode()
    tar = write_tar(tmp_path / "a.tar", [("1.json", GOOD_JSON), ("1.mp4", playlist)])
    index = index_shards([tar], name="c", on_skip=print)
    assert skips_of(reader(index, decode=ClipDecoder()), 0).counts == {"video": 1}


def test_what_cannot_be_decoded_is_counted_and_listed(tmp_path: Path) -> None:
    found = reader(write_corpus(tmp_path, broken=[2]))
    skips = skips_of(found, 2)
    assert skips.counts == {"video": 1}
    assert (skips.listed[0].source, skips.listed[0].detail) == (
        "toy-000000.tar/000000002.mp4",
        "is broken",
    )
    assert read(found, 3).caption.startswith("3")


def damage(shard: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(shard.read_bytes())
    change(data)
    shard.write_bytes(data)


def test_a_description_that_was_damaged_since_is_counted(tmp_path: Path) -> None:
    found = reader(write_corpus(tmp_path))
    offset = found.corpus.find(5)[1].description.offset

    def spoil(data: bytearray) -> None:
        data[offset] = 0

    damage(tmp_path / "toy-000001.tar", spoil)
    assert skips_of(found, 5).counts == {"json": 1}
    assert read(found, 4).caption.startswith("4")


def test_a_shard_that_was_cut_or_lost_is_counted_by_sample_and_listed_once(tmp_path: Path) -> None:
    found = reader(write_corpus(tmp_path))
    damage(tmp_path / "toy-000000.tar", lambda data: data.__delitem__(slice(-512, None)))
    (tmp_path / "toy-000002.tar").unlink()
    skips = SkipLog()
    for number in range(COUNT):
        found.read(number, pass_number=0, skips=skips)
    assert skips.counts == {"shard": 9}
    assert [skip.source for skip in skips.listed] == ["toy-000000.tar", "toy-000002.tar"]
    assert "bytes, but its index says" in skips.listed[0].detail


def test_errors_that_are_not_the_videos_fault_are_raised(corpus: Path) -> None:
    def faulty(media: bytes, name: str, generator: torch.Generator) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        read(reader(corpus, decode=faulty), 0)


@pytest.mark.parametrize("clip", [torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)])
def test_decoders_must_give_uint8_frames(corpus: Path, clip: Tensor) -> None:
    with pytest.raises(ValueError, match=r"decode gave .* but must give uint8 \[T, 3, S, S\]"):
        read(reader(corpus, decode=lambda media, name, generator: clip), 0)


@pytest.mark.parametrize("name", ["a#b?c", "{000..002}", "a::b", "*", "%41", "pipe"])
def test_signs_in_names_mean_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    index = write_corpus(tmp_path, name=name)
    monkeypatch.chdir(tmp_path)
    for given in (index.name, str(index), index, index.as_uri()):
        assert bool((read(reader(given), 3).clip_uint8 == 3).all())


def test_wrong_indexes(tmp_path: Path, corpus: Path) -> None:
    for given, words in (
        (tmp_path / "none.index.json", "there is no index .*none.index.json"),
        (corpus.with_name("toy-000000.tar"), "give the index of a set of shards"),
        ("pipe:cat x.index.json", "would run a command"),
    ):
        with pytest.raises(ValueError, match=words):
            open_corpus(given)


# The cache


class CountingDecoder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, media: bytes, name: str, generator: torch.Generator) -> Tensor:
        self.calls += 1
        return decode(media, name, generator) * 2 + torch.randint(
            2, (2, 3, 4, 4), generator=generator, dtype=torch.uint8
        )


def clips(found: CorpusReader, pass_number: int) -> list[bytes]:
    return [
        read(found, number, pass_number=pass_number).clip_uint8.numpy().tobytes()
        for number in range(COUNT)
    ]


def test_the_cache_decodes_once(corpus: Path) -> None:
    decoder = CountingDecoder()
    found = reader(corpus, decode=decoder, cache=ClipCache(10**6))
    first = clips(found, 0)
    assert clips(found, 1) == first
    assert decoder.calls == COUNT
    # A run that starts later sees the same clips.
    assert clips(reader(corpus, decode=CountingDecoder(), cache=ClipCache(10**6)), 5) == first
    plain = reader(corpus, decode=CountingDecoder())
    assert clips(plain, 0) != clips(plain, 1)


def test_the_cache_keeps_to_its_limit(corpus: Path) -> None:
    decoder = CountingDecoder()
    clip_bytes = 2 * 3 * 4 * 4
    found = reader(corpus, decode=decoder, cache=ClipCache(5 * clip_bytes + 1))
    for number in range(3):
        clips(found, number)
    assert decoder.calls == COUNT + 2 * (COUNT - 5)


def test_augmentation_cannot_spoil_the_cache(corpus: Path) -> None:
    def invert_in_place(clip: Tensor, generator: torch.Generator) -> Tensor:
        return clip.bitwise_not_()

    found = reader(corpus, augment=invert_in_place, cache=ClipCache(10**6))
    assert clips(found, 0) == clips(found, 1) == clips(found, 2)
