"""What is caught before hours are spent, and how videos are found."""

import hashlib
import json
from dataclasses import replace

import pytest
from colour_encoder import write_colours

from reelscan.retrieval.benchmark import Benchmark, find_benchmark
from reelscan.retrieval.evaluation_report import BrokenVideosError
from reelscan.retrieval.evaluation_set import (
    open_set,
    read_benchmark_annotations,
    seen_seconds,
)
from reelscan.retrieval.known_files import KnownFile, KnownFiles

OWN = Benchmark(name="own", title="own.json", split="")


def write(folder, videos, captions):
    path = folder / "annotations.json"
    path.write_text(json.dumps([{"video": one, "caption": captions} for one in videos]))
    return path


def names(count):
    return [f"video{number}.mp4" for number in range(count)]


def check(path, benchmark, **settings):
    return read_benchmark_annotations(benchmark, path, video_root=path.parent, **settings)


@pytest.mark.parametrize(
    ("name", "videos", "captions", "told"),
    [
        ("msrvtt", 2990, ["a dog"] * 20, "has 1,000 videos and 1,000 texts.*2,990 and 59,800"),
        ("msrvtt", 1000, ["a dog", "dogs"], "several captions a video where one is expected"),
        ("msvd", 670, "a dog", "one caption a video where all of them are expected"),
        ("lsmdc", 999, "a dog", "another split or file; use lsmdc_ret_test_1000.json from http"),
    ],
)
def test_files_of_another_split_are_refused(tmp_path, name, videos, captions, told):
    path = write(tmp_path, names(videos), captions)
    with pytest.raises(ValueError, match=told):
        check(path, find_benchmark(name))
    notices = check(path, find_benchmark(name), any_counts=True).notices
    assert "not comparable with published results" in notices[0]


def test_the_right_numbers_pass_without_a_word(tmp_path):
    assert check(write(tmp_path, names(1000), "a dog"), find_benchmark("msrvtt")).notices == ()
    path = write(tmp_path, names(1003), ["a dog", "it runs"])
    assert check(path, find_benchmark("didemo")).notices == ()


def test_joining_single_captions_is_told_or_refused(tmp_path):
    path = write(tmp_path, names(1003), "a dog. it runs")
    assert "taken as the whole paragraph" in check(path, find_benchmark("didemo")).notices[0]
    with pytest.raises(ValueError, match="leave out --join-captions"):
        check(path, replace(OWN, join_captions=True))


def test_joining_captions_of_a_set_that_is_not_joined_is_refused(tmp_path):
    path = write(tmp_path, names(1500), [f"caption {number}" for number in range(10)])
    with pytest.raises(ValueError, match=r"VATEX, whose captions are not joined"):
        check(path, replace(OWN, join_captions=True))
    assert check(path, OWN).notices == ()


def test_not_joining_captions_of_a_set_that_is_joined_is_told(tmp_path):
    path = write(tmp_path, names(1004), ["a dog", "it runs"])
    assert "look like DiDeMo" in check(path, OWN).notices[0]


def test_an_unknown_annotation_file_is_told_where_known_ones_exist(tmp_path):
    path = write(tmp_path, names(2), "a dog")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert check(path, replace(OWN, annotation_sha256=(sha256,))).notices == ()
    assert sha256 in check(path, replace(OWN, annotation_sha256=("0" * 64,))).notices[0]


@pytest.mark.parametrize(
    ("fps", "frames"), [(8.0, 240), (29.97002997, 899), (25.0, 750), (23.976023976, 719)]
)
def test_the_published_number_of_frames_is_seen(fps, frames):
    known = KnownFile(sha256="", duration_seconds=100.0, fps=fps)
    end = seen_seconds(30.0, known)
    assert sum(number / fps < end for number in range(3000)) == frames


def test_short_videos_are_seen_whole():
    known = KnownFile(sha256="", duration_seconds=30.0, fps=25.0)
    assert seen_seconds(30.0, known) is None
    assert seen_seconds(None, replace(known, duration_seconds=99.0)) is None


def opened(path, root, *, benchmark=OWN, leave_out_broken=False):
    known = KnownFiles(root / "features" / "files.sqlite")
    try:
        return open_set(
            benchmark,
            check(path, benchmark),
            video_root=root,
            known=known,
            leave_out_broken=leave_out_broken,
            workers=2,
            on_done=lambda done, total: None,
        )
    finally:
        known.close()


def test_videos_are_found_under_another_extension_and_that_is_told_once(tmp_path):
    write_colours(tmp_path / "Sub" / "A.MKV", "red")
    write_colours(tmp_path / "b.mp4", "blue")
    found = opened(write(tmp_path, ["Sub/a.avi", "b.mp4"], "a dog"), tmp_path)
    assert [one.path.name for one in found.videos] == ["A.MKV", "b.mp4"]
    assert [one.video for one in found.videos] == ["Sub/a.avi", "b.mp4"]
    assert found.notices == (
        "1 of 2 videos have another extension than annotated and were found by name "
        "(such as Sub/A.MKV for Sub/a.avi)",
    )


def test_two_files_of_one_name_are_not_guessed_between(tmp_path):
    for suffix in (".mkv", ".mp4"):
        write_colours(tmp_path / f"a{suffix}", "red")
    with pytest.raises(BrokenVideosError, match=r"could be a\.mkv or a\.mp4: keep one"):
        opened(write(tmp_path, ["a.avi"], "a dog"), tmp_path)


def test_videos_in_a_folder_below_are_pointed_to(tmp_path):
    write_colours(tmp_path / "videos" / "all" / "a.mp4", "red")
    with pytest.raises(BrokenVideosError, match="videos/all: give that folder with --videos"):
        opened(write(tmp_path, ["a.mp4"], "a dog"), tmp_path)


def test_a_few_broken_videos_can_be_left_out(tmp_path):
    write_colours(tmp_path / "a.mp4", "red")
    (tmp_path / "b.mp4").write_bytes(b"no video")
    path = write(tmp_path, ["a.mp4", "b.mp4", "c.mp4"], "a dog")
    with pytest.raises(BrokenVideosError, match="2 of 3 videos"):
        opened(path, tmp_path)
    found = opened(path, tmp_path, leave_out_broken=True)
    assert [one.video for one in found.left_out] == ["b.mp4", "c.mp4"]


def test_a_file_is_read_through_once_and_again_when_it_changes(tmp_path, monkeypatch):
    import reelscan.retrieval.known_files as module

    probed = []
    probe = module.probe
    monkeypatch.setattr(
        module, "probe", lambda path, **how: probed.append(path) or probe(path, **how)
    )
    write_colours(tmp_path / "a.mp4", "red")
    path = write(tmp_path, ["a.mp4"], "a dog")
    first = opened(path, tmp_path).videos[0]
    assert opened(path, tmp_path).videos[0] == first
    assert len(probed) == 1
    write_colours(tmp_path / "a.mp4", "red blue")
    assert opened(path, tmp_path).videos[0].sha256 != first.sha256
    assert len(probed) == 2


def test_a_damaged_memory_of_files_is_made_anew(tmp_path):
    path = tmp_path / "files.sqlite"
    path.write_bytes(b"no database" * 100)
    write_colours(tmp_path / "a.mp4", "red")
    known = KnownFiles(path)
    assert known.look(tmp_path / "a.mp4", name="a").duration_seconds == 1.0
    known.close()
