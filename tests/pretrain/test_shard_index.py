import json
from pathlib import Path

import pytest

from reelscan.pretrain.shard_index import (
    ShardIndex,
    ShardProblem,
    read_index,
    read_sample,
    verify_shards,
    write_index,
)
from reelscan.pretrain.shard_sample import Description, description_bytes
from reelscan.pretrain.shard_scan import describe_shard
from reelscan.pretrain.shard_tar import ShardTar

SAMPLES = 5


def media(number: int) -> bytes:
    return bytes([number]) * (100 + 700 * number)


@pytest.fixture
def index_path(tmp_path: Path) -> Path:
    """Two shards with 3 and 2 samples."""
    shards = []
    for shard, numbers in enumerate([range(3), range(3, SAMPLES)]):
        tar = ShardTar(tmp_path / f"toy-{shard:06d}.tar")
        for number in numbers:
            description = Description(captions=("a",) * (number + 1), video=f"{number}.mp4")
            members = {"json": description_bytes(description), "mp4": media(number)}
            tar.add(f"{number:09d}", members)
        tar.finish()
        shards.append(describe_shard(tar.path))
    path = tmp_path / "toy.index.json"
    index = ShardIndex(name="toy", inputs_sha256="0" * 64, rejected=1, shards=tuple(shards))
    write_index(index, path)
    return path


def test_the_index_comes_back_as_written(index_path: Path) -> None:
    index = read_index(index_path)
    assert (index.name, index.rejected, index.sample_count) == ("toy", 1, SAMPLES)
    assert [shard.file for shard in index.shards] == ["toy-000000.tar", "toy-000001.tar"]
    sizes = [(index_path.parent / shard.file).stat().st_size for shard in index.shards]
    assert index.byte_count == sum(sizes)
    again = index_path.with_name("again.index.json")
    write_index(index, again)
    assert again.read_bytes() == index_path.read_bytes()


def test_offsets_lead_to_the_members(index_path: Path) -> None:
    for shard in read_index(index_path).shards:
        content = (index_path.parent / shard.file).read_bytes()
        for sample in shard.samples:
            number = int(sample.key)
            start = sample.media.offset
            assert content[start : start + sample.media.size] == media(number)
            start = sample.description.offset
            stored = json.loads(content[start : start + sample.description.size])
            assert len(stored["captions"]) == sample.caption_count == number + 1


def test_any_sample_can_be_read(index_path: Path) -> None:
    for number in (4, 0, 2, 3, 1):
        sample = read_sample(index_path, number)
        assert (sample.key, sample.suffix) == (f"{number:09d}", "mp4")
        assert sample.media == media(number)
        assert sample.description.video == f"{number}.mp4"


@pytest.mark.parametrize("number", [-1, SAMPLES])
def test_sample_numbers_end(index_path: Path, number: int) -> None:
    with pytest.raises(IndexError, match="it has 0 to 4"):
        read_sample(index_path, number)


def test_whole_shards_have_no_problems(index_path: Path) -> None:
    assert verify_shards(index_path) == []


def test_every_kind_of_damage_is_found(index_path: Path) -> None:
    first, second = sorted(index_path.parent.glob("*.tar"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    second.unlink()
    assert verify_shards(index_path) == [
        ShardProblem(
            file=first.name, problem=f"has {len(whole) - 1} bytes, but should have {len(whole)}"
        ),
        ShardProblem(file=second.name, problem="is missing"),
    ]
    first.write_bytes(whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    assert "other content" in verify_shards(index_path)[0].problem


def test_reading_a_sample_from_a_cut_shard(index_path: Path) -> None:
    second = index_path.parent / "toy-000001.tar"
    place = read_index(index_path).shards[1].samples[1].media
    second.write_bytes(second.read_bytes()[: place.offset + 10])
    assert read_sample(index_path, 3).media == media(3)
    with pytest.raises(ValueError, match=f"10 of {place.size} bytes are there"):
        read_sample(index_path, 4)


def change(path: Path, keys: list[str | int], value: object) -> None:
    content = json.loads(path.read_bytes())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (["format_version"], 2, "its format is 2, but 1 is known"),
        (["shards"], {}, "is not list"),
        (["shards"], [3], "not an index"),
        (["shards", 0, "file"], "../toy.tar", "only name files beside it"),
        (["shards", 0, "file"], "/etc/passwd", "only name files beside it"),
        (["shards", 0, "file"], "..", "only name files beside it"),
        (["shards", 0, "bytes"], "many", "not a number"),
        (["shards", 0, "samples", 0, "members", "mp4"], [-1, 5], "not a number"),
        (["shards", 0, "samples", 0, "members", "mp4"], [0, 10**9], "beyond the shard's end"),
        (["shards", 0, "samples", 0, "members", "mp4"], [0], "not an index"),
        (["shards", 0, "samples", 0, "members", "pickle"], [0, 1], "must have json and media"),
        (["shards", 0, "samples", 0, "members"], {"json": [0, 1]}, "must have json and media"),
        (["shards", 0, "samples", 0, "captions"], True, "not a number"),
    ],
)
def test_bad_indexes_are_refused(
    index_path: Path, keys: list[str | int], value: object, reason: str
) -> None:
    change(index_path, keys, value)
    with pytest.raises(ValueError, match=reason):
        read_index(index_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_no_index(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.index.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not an index of shards"):
        read_index(path)


def test_a_file_that_is_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match="not a readable tar"):
        describe_shard(path)
