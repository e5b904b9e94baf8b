"""Killed at random moments, a collection holds exactly what was acknowledged."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import restless_writer
from restless_writer import NAMES, WIDTH, Contents, Operation, segments_of

from reelscan.index.collection import Collection
from reelscan.index.manifest import Manifest, Windowing

KILLS = int(os.environ.get("REELSCAN_KILLS", "300"))
"""`REELSCAN_KILLS=5000 pytest tests/index/test_kill.py` for a long run."""
LONGEST_SECONDS = 0.05
MANIFEST = Manifest(
    fingerprint="model", embed_dim=WIDTH, videos_root="/videos", windowing=Windowing()
)


def held(collection: Collection) -> Contents:
    """What a collection holds; fails where a video's segments are not those it was given."""
    contents: Contents = {}
    for name, file in collection.videos().items():
        expected = segments_of(file.size_bytes)
        stored = collection.segments_of(name)
        assert [one.start_seconds for one in stored] == [one.start_seconds for one in expected]
        contents[name] = (file.size_bytes, collection.metadata_of(name).get("tag"))
    return contents


def check_searches(collection: Collection, contents: Contents) -> None:
    """Every stored vector finds itself, and nothing else is found."""
    total = sum(len(segments_of(number)) for number, _ in contents.values())
    assert len(collection) == total
    for name, (number, _) in contents.items():
        vector = segments_of(number)[-1].vector
        found = collection.search(vector[None], top=total)[0]
        assert len(found) == total
        own = next(hit for hit in found if hit.video == name and hit.end_seconds == number % 40 + 1)
        assert own.score == pytest.approx(float(vector @ vector), rel=1e-5)


def restless_writer_folder() -> str:
    return str(Path(restless_writer.__file__).parent)


@pytest.fixture
def writers():
    """A program that forks writers."""
    program = [sys.executable, restless_writer.__file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, bufsize=1) as server:
        yield server
        server.stdin.close()


def kill_once(server, path: Path, seed: int, seconds: float) -> list[tuple[str, Operation]]:
    """Let a writer work for some time from its first operation on, kill it, say what it told."""
    server.stdin.write(f"{path} {seed}\n")
    told: list[tuple[str, Operation]] = []
    writer = None
    for line in server.stdout:
        message = json.loads(line)
        if "died" in message:
            assert message["died"] == signal.SIGKILL, "the writer ended by itself"
            return told
        if "writer" in message:
            writer = message["writer"]
        else:
            told.append((message.pop("state"), Operation(**message)))
        if writer is not None and told and seconds >= 0:
            time.sleep(seconds)
            os.kill(writer, signal.SIGKILL)
            seconds = -1
    raise AssertionError("the program that forks writers has ended")


def test_after_any_kill_exactly_the_acknowledged_is_held(tmp_path, writers):
    path = tmp_path / "my.collection"
    Collection.create(path, manifest=MANIFEST).close()
    rng = random.Random(6)
    contents: Contents = {}
    killed_during = dict.fromkeys(("put", "forget", "tag", "compact", "rebuild"), 0)
    for seed in range(1, KILLS + 1):
        messages = kill_once(writers, path, seed, rng.uniform(0, LONGEST_SECONDS))
        for state, operation in messages:
            if state == "done":
                contents = operation.on(contents)
        possible = [contents]
        if messages[-1][0] == "begun":
            under_way = messages[-1][1]
            killed_during[under_way.kind] += 1
            possible.append(under_way.on(contents))
        with Collection.open(path, read_only=seed % 2 == 0) as collection:
            report = collection.check()
            assert report.whole, report
            found = held(collection)
            assert found in possible, (seed, messages[-3:])
            check_searches(collection, found)
        contents = found
    sys.stdout.write(f"{KILLS} kills, while under way: {killed_during}\n")
    assert set(contents) <= set(NAMES)
    if KILLS >= 300:
        assert min(killed_during.values()) > 0, killed_during
    assert len(list(path.glob("vectors-*.faiss"))) <= 2


def test_the_comparison_can_fail(tmp_path):
    """A collection that lost one acknowledged video, or one change of its metadata, is told."""
    put_a, put_b = Operation(7, "put", "a.mp4"), Operation(8, "put", "b.mp4")
    tag_a = Operation(9, "tag", "a.mp4")
    with Collection.create(tmp_path / "my.collection", manifest=MANIFEST) as collection:
        put_a.run(collection)
        put_b.run(collection)
        contents = put_b.on(put_a.on({}))
        assert held(collection) == contents
        assert held(collection) != tag_a.on(contents)
        tag_a.run(collection)
        assert held(collection) == tag_a.on(contents)
        collection.forget_videos(["b.mp4"])
        assert held(collection) != tag_a.on(contents)
        with pytest.raises(AssertionError):
            check_searches(collection, contents)
