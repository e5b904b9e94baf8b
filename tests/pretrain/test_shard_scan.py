"""Damage and malice in tar files of others."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from toy_shards import GOOD_JSON, SIZES, write_corpus, write_tar

from reelscan.pretrain.shard_index import IndexedShard, read_index, read_sample
from reelscan.pretrain.shard_scan import describe_shard, index_shards, scan_shard
from reelscan.pretrain.skip_log import Skipped


def scan(path: Path) -> tuple[IndexedShard, list[Skipped]]:
    skips: list[Skipped] = []
    return scan_shard(path, on_skip=skips.append), skips


def media_of(path: Path) -> list[bytes]:
    content = path.read_bytes()
    return [
        content[sample.media.offset : sample.media.offset + sample.media.size]
        for sample in scan(path)[0].samples
    ]


def test_a_shard_is_found_as_its_index_says(tmp_path: Path) -> None:
    index = read_index(write_corpus(tmp_path, group_size=2))
    for shard, size in zip(index.shards, SIZES, strict=True):
        assert describe_shard(tmp_path / shard.file) == shard
        assert len(shard.samples) == size
    follows = [[sample.follows for sample in shard.samples] for shard in index.shards]
    assert follows == [[False, True, False, True], [False, True, False], [False, False, True] * 1 +
                       [False, True]]  # fmt: skip


def test_shards_of_others_get_an_index(tmp_path: Path) -> None:
    members = [("x/1.mp4", b"one"), ("x/1.json", GOOD_JSON), ("x/1.txt", b"?"), ("2.json", b"{}")]
    paths = [
        write_tar(tmp_path / "b.tar", members),
        write_tar(tmp_path / "a#?.tar", [("1.JSON", GOOD_JSON), ("1.JPG", b"two")]),
    ]
    skips: list[Skipped] = []
    path = index_shards(paths, name="theirs", on_skip=skips.append)
    assert path == tmp_path / "theirs.index.json"
    index = read_index(path)
    assert [shard.file for shard in index.shards] == ["b.tar", "a#?.tar"]
    assert index.rejected == 1 and [skip.reason for skip in skips] == ["members"]
    assert [read_sample(path, n).media for n in (0, 1)] == [b"one", b"two"]
    assert [read_sample(path, n).key for n in (0, 1)] == ["x/1", "1"]
    with pytest.raises(ValueError, match="there already"):
        index_shards(paths, name="theirs", on_skip=skips.append)


def test_an_index_is_for_one_folder_and_needs_samples(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = write_tar(tmp_path / "a.tar", [])
    two = write_tar(tmp_path / "other" / "a.tar", [])
    for shards in ([one, two], [one, one], []):
        with pytest.raises(ValueError, match="all in one folder"):
            index_shards(shards, name="x", on_skip=print)
    with pytest.raises(ValueError, match="not one sample"):
        index_shards([one], name="x", on_skip=print)
    assert not list(tmp_path.glob("*.json"))


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
    path = write_tar(tmp_path / "a.tar", members)
    assert media_of(path) == [b"\x07"]
    assert [skip.reason for skip in scan(path)[1]] == ["json"]
    assert not (tmp_path / "owned").exists()


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
    found, _ = scan(write_tar(folder / "a.tar", members))
    assert [sample.key for sample in found.samples] == list(names)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, folder / "a.tar"])


def test_a_flipped_header_is_noticed(tmp_path: Path) -> None:
    write_corpus(tmp_path, (3,))
    shard = tmp_path / "toy-000000.tar"
    data = bytearray(shard.read_bytes())
    data[describe_shard(shard).samples[1].description.offset - 512] ^= 1
    shard.write_bytes(data)
    found, skips = scan(shard)
    assert len(found.samples) == 1
    assert [skip.detail for skip in skips] == ["has no end mark: it is cut or damaged"]


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
    found, skips = scan(path)
    assert len(found.samples) == 0
    assert [skip.reason for skip in skips] == ["members"]


def test_any_cut_drops_only_incomplete_samples(tmp_path: Path) -> None:
    write_corpus(tmp_path, (3,))
    shard = tmp_path / "toy-000000.tar"
    whole = shard.read_bytes()
    ends = [place.media.offset + place.media.size for place in describe_shard(shard).samples]
    for cut in range(0, len(whole), 100):
        shard.write_bytes(whole[:cut])
        found, skips = scan(shard)
        complete = sum(cut >= end for end in ends)
        assert [sample.key for sample in found.samples] == [f"{n:09d}" for n in range(complete)]
        assert skips or complete == 3


@pytest.mark.parametrize(
    "content", [b"garbage" * 1000, b"\x1f\x8b\x08" + b"x" * 2000, b"BZh9" + b"x" * 2000]
)
def test_garbage_is_passed_over(tmp_path: Path, content: bytes) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(content)
    found, skips = scan(bad)
    assert len(found.samples) == 0
    assert [skip.reason for skip in skips] == ["shard"]
    with pytest.raises(ValueError, match=r"bad\.tar: is (compressed|not a readable tar)"):
        describe_shard(bad)


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
    path = write_tar(tmp_path / "a.tar", members)
    assert media_of(path) == [b"\x02"]
    (skip,) = scan(path)[1]
    assert (skip.reason, skip.source) == ("json", "a.tar/1.json")


@pytest.mark.parametrize("endings", [["json"], ["mp4"], ["json", "mp4", "jpg"], ["json", "txt"]])
def test_samples_need_a_json_and_one_video_or_image(tmp_path: Path, endings: list[str]) -> None:
    members = [(f"1.{ending}", GOOD_JSON) for ending in endings]
    members += [("2.json", GOOD_JSON), ("2.jpg", b"\x02")]
    path = write_tar(tmp_path / "a.tar", members)
    assert media_of(path) == [b"\x02"]
    assert [skip.reason for skip in scan(path)[1]] == ["members"]


def test_a_member_that_is_there_twice(tmp_path: Path) -> None:
    members = [("1.json", GOOD_JSON), ("1.mp4", b"\x01"), ("1.mp4", b"\x02")]
    members += [("2.json", GOOD_JSON), ("2.mp4", b"\x03")]
    path = write_tar(tmp_path / "a.tar", members)
    assert media_of(path) == [b"\x01", b"\x03"]
    assert [skip.reason for skip in scan(path)[1]] == ["members"]
