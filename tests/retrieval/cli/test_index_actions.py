"""`reelscan index ACTION`: what a user types to look after a collection."""

import json

import pytest
from small_collection import MANIFEST, file, index_file, segments

from reelscan.index.collection import Collection
from reelscan.retrieval.cli.index_actions import bytes_of, parse_value


@pytest.fixture
def path(tmp_path):
    with Collection.create(tmp_path / "films", manifest=MANIFEST) as collection:
        collection.add_video(file("north/a.mp4"), segments([1, 0, 0], [0.5, 0.5, 0]))
        collection.add_video(file("north/b.mp4"), segments([0, 1, 0]))
        collection.add_video(file("south/c.mp4"), segments([0, 0, 1]))
        collection.write_derived_files()
    return tmp_path / "films"


def test_a_whole_collection_is_said_to_be_whole(run, path):
    told = run("index", "check", path)
    assert told.code == 0
    assert "whole, 3 videos, 4 segments" in told.out
    assert json.loads(run("index", "check", path, "--json").out)["damage"] == []


def test_damage_gives_exit_code_1_and_rebuilding_puts_it_right(run, path):
    index_file(path).write_bytes(b"nonsense")
    told = run("index", "check", path)
    assert told.code == 1
    assert "NOT whole" in told.out
    assert f"reelscan index rebuild {path}" in told.out
    rebuilt = run("index", "rebuild", path)
    assert rebuilt.code == 0
    assert "flat index of 4 segments" in rebuilt.out
    assert run("index", "check", path).code == 0


def test_metadata_is_set_by_pattern_and_shown(run, path):
    done = run("index", "set", path, "north/*", "camera=north", "height=2.5", "indoor=false")
    assert done.code == 0, done.err
    assert "camera, height, indoor of 2 videos recorded" in done.out
    run("index", "set", path, "north/a.mp4", "height=")
    stats = json.loads(run("index", "stats", path, "--json").out)
    assert stats["metadata"] == {"camera": 2, "height": 1, "indoor": 2}
    shown = run("index", "stats", path).out
    assert "camera (2), height (1), indoor (2)" in shown
    assert "3, 0 set aside" in shown


def test_forgotten_videos_are_gone_and_compacting_drops_them(run, path):
    assert run("index", "forget", path, "north/*").code == 0
    assert "2 in it were deleted" not in run("index", "check", path).out
    assert "3 in it were deleted" in run("index", "check", path).out
    assert "index of 1 segments" in run("index", "compact", path).out
    assert json.loads(run("index", "stats", path, "--json").out)["videos"] == 1


def test_memory_that_is_too_little_says_how_much_is_needed(run, path):
    with Collection.open(path) as collection:
        collection.add_video(file("d.mp4"), segments(*[[0, 0, 1]] * 10))
    told = run("index", "compact", path, "--memory", "a lot")
    assert (told.code, told.err) == (
        1,
        "reelscan index: 'a lot' is no size; give for example 4GiB or 500MiB\n",
    )
    assert run("index", "compact", path, "--memory", "1GiB").code == 0
    assert json.loads(run("index", "stats", path, "--json").out)["index"]["memory_bytes"] == 2**30


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("chekc", "x"), "--to"),
        (("set", "PATH", "east/*", "a=1"), "no video of"),
        (("set", "PATH", "*", "camera"), "no KEY=VALUE"),
        (("set", "PATH", "*"), "KEY=VALUE"),
        (("stats", "nowhere"), "not a collection"),
    ],
)
def test_mistakes_are_told_in_one_line(run, path, words, expected):
    told = run("index", *(path if word == "PATH" else word for word in words))
    assert told.code != 0
    assert expected in told.err + told.out


def test_another_writer_is_named(run, path):
    with Collection.open(path) as collection:
        collection.lock()
        told = run("index", "compact", path)
    assert told.code == 1
    assert "is being written by process" in told.err
    assert told.err.count("\n") <= 2


def test_sizes_and_values_are_read_as_people_write_them():
    assert [bytes_of(one) for one in ("4GiB", "500 MB", "1.5g", "77")] == [
        4 * 2**30,
        500 * 2**20,
        3 * 2**29,
        77,
    ]
    assert parse_value("a=north=west") == ("a", "north=west")
    assert parse_value('a="7"') == ("a", "7")
    assert [parse_value(f"a={one}")[1] for one in ("7", "2.5", "true", "[1]", "")] == [
        *(7, 2.5, True, "[1]"),
        None,
    ]
