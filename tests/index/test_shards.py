"""Embedding by several processes, one of which is killed: every row once, whatever happens."""

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from colour_encoder import ColourEncoder, write_colours

from reelscan.index.collection import Collection
from reelscan.index.embed import embed_folder
from reelscan.index.manifest import CollectionError
from reelscan.index.shards import (
    Shard,
    find_shards,
    mark_finished,
    mark_unfinished,
    merge_shards,
    parse_shard,
    shared_manifest,
)

WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from colour_encoder import ColourEncoder
from reelscan.index.embed import embed_folder
from reelscan.index.shards import mark_finished, mark_unfinished, parse_shard

class SlowEncoder(ColourEncoder):
    def encode_frames(self, frames_uint8):
        time.sleep(0.1)
        return super().encode_frames(frames_uint8)

shard = parse_shard(sys.argv[4])
path = shard.path(Path(sys.argv[3]))
mark_unfinished(path)
embed_folder(SlowEncoder(), sys.argv[2], path, window_seconds=1.0, batch_size=1, workers=1,
             shard=shard, on_progress=lambda told: print(told.done_videos, flush=True))
mark_finished(path, shard)
"""
NAMES = [f"{letter}.mp4" for letter in "abcdefgh"]


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    for place, name in enumerate(NAMES):
        write_colours(folder / name, "red green blue" if place % 2 else "white black")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def embed_shard(videos, shards, words, encoder=None):
    shard = parse_shard(words)
    path = shard.path(shards)
    report = embed_folder(encoder or ColourEncoder(), videos, path, window_seconds=1.0, shard=shard)
    mark_finished(path, shard)
    return report


def merged(shards, path):
    found = find_shards(shards)
    manifest = shared_manifest(found)
    create = Collection.open if path.exists() else Collection.create
    options = {} if path.exists() else {"manifest": manifest}
    with create(path, **options) as target:
        return merge_shards(found, target)


def rows_of(path):
    with Collection.open(path, read_only=True) as collection:
        rows = sorted(
            (file.path, one.start_seconds, one.end_seconds, one.vector.tolist(), one.frame_codes)
            for block in collection.rows()
            for file, one in zip(block.videos, block.segments, strict=True)
        )
        return rows, sorted(collection.quarantined())


def test_a_killed_worker_goes_on_and_every_row_is_there_once(videos, tmp_path):
    shards = tmp_path / "shards"
    support = Path(__file__).parents[1] / "support"

    def start(words):
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(support), str(videos), str(shards), words],
            stdout=subprocess.PIPE,
            text=True,
        )

    with start("1/2") as first, start("2/2") as second:
        for line in first.stdout:
            if int(line) >= 2:
                break
        first.send_signal(signal.SIGKILL)
        assert second.stdout.read()
    assert second.returncode == 0
    with pytest.raises(ValueError, match=r"not finished: 1\. .*--shard 1/2"):
        find_shards(shards)
    with Collection.open(shards / "shard-0001-of-0002") as killed:
        kept = len(killed.videos())
        assert 1 <= kept < len([name for name in NAMES if Shard(number=1, count=2).holds(name)])
    report = embed_shard(videos, shards, "1/2")
    assert report.unchanged >= kept
    report = merged(shards, tmp_path / "merged")
    assert (report.videos, report.segments, report.quarantined) == (8, 20, 1)
    embed_folder(ColourEncoder(), videos, tmp_path / "alone", window_seconds=1.0)
    assert rows_of(tmp_path / "merged") == rows_of(tmp_path / "alone")
    again = merged(shards, tmp_path / "merged")
    assert (again.videos, again.unchanged) == (0, 8)
    assert rows_of(tmp_path / "merged") == rows_of(tmp_path / "alone")


def test_shards_share_all_videos_between_them():
    names = [f"{number}.mp4" for number in range(1000)]
    for count in (1, 3, 8):
        shards = [Shard(number=number, count=count) for number in range(1, count + 1)]
        held = [[name for name in names if shard.holds(name)] for shard in shards]
        assert sorted(name for names_held in held for name in names_held) == sorted(names)
        assert min(map(len, held)) > 0.7 * 1000 / count


def test_a_changed_video_is_replaced(videos, tmp_path):
    shards = tmp_path / "shards"
    for words in ("1/2", "2/2"):
        embed_shard(videos, shards, words)
    merged(shards, tmp_path / "merged")
    write_colours(videos / "a.mp4", "yellow")
    for words in ("1/2", "2/2"):
        mark_unfinished(parse_shard(words).path(shards))
        embed_shard(videos, shards, words)
    report = merged(shards, tmp_path / "merged")
    assert (report.videos, report.segments, report.unchanged) == (1, 1, 7)
    with Collection.open(tmp_path / "merged") as collection:
        assert len(collection.segments_of("a.mp4")) == 1


def test_more_shards_than_videos_leave_some_empty(tmp_path):
    write_colours(tmp_path / "videos" / "a.mp4", "red")
    for number in (1, 2, 3):
        embed_shard(tmp_path / "videos", tmp_path / "shards", f"{number}/3")
    assert merged(tmp_path / "shards", tmp_path / "merged").videos == 1


def test_what_cannot_be_merged_is_told(videos, tmp_path):
    shards = tmp_path / "shards"
    with pytest.raises(ValueError, match="holds no shards"):
        find_shards(tmp_path)
    embed_shard(videos, shards, "2/3")
    with pytest.raises(ValueError, match=r"missing: 1, 3\. "):
        find_shards(shards)
    assert len(find_shards(shards, unfinished=True)) == 1
    embed_shard(videos, shards, "1/2")
    with pytest.raises(ValueError, match="shards of 2 and 3"):
        find_shards(shards)
    shutil.rmtree(shards / "shard-0002-of-0003")
    embed_shard(videos, shards, "2/2", ColourEncoder("colours-2"))
    with pytest.raises(ValueError, match="other models"):
        shared_manifest(find_shards(shards))


def test_a_video_in_two_shards_is_refused(videos, tmp_path):
    shards = tmp_path / "shards"
    for words in ("1/2", "2/2"):
        embed_shard(videos, shards, words)
    shutil.rmtree(shards / "shard-0002-of-0002")
    shutil.copytree(shards / "shard-0001-of-0002", shards / "shard-0002-of-0002")
    with pytest.raises(CollectionError, match=r"shard-0001-of-0002 and in shard-0002-of-0002"):
        merged(shards, tmp_path / "merged")


@pytest.mark.parametrize("words", ["3", "0/2", "3/2", "a/b", "1/0"])
def test_odd_shards_are_refused(words):
    with pytest.raises(ValueError, match="shard"):
        parse_shard(words)
    assert replace(parse_shard(" 3 / 8 "), number=2) == Shard(number=2, count=8)
