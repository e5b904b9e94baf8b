import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from colour_encoder import ColourEncoder, write_colours

from reelscan.index.collection import Collection
from reelscan.index.embed import embed_folder
from reelscan.index.manifest import FingerprintMismatch, Windowing
from reelscan.index.segment_frames import read_segment, read_segments
from reelscan.models import roomy_tensor
from reelscan.video.errors import VideoError

WINDOWS = {"window_seconds": 1.0, "stride_seconds": 1.0}


@pytest.fixture
def folder(tmp_path):
    """Two good videos in two folders, and a file that is no video."""
    videos = tmp_path / "videos"
    write_colours(videos / "a.mp4", "red blue green")
    write_colours(videos / "sub" / "b.MP4", "yellow")
    (videos / "notes.txt").write_text("hello")
    return videos


def embed(folder, encoder=None, **settings):
    encoder = encoder or ColourEncoder()
    return embed_folder(encoder, folder, folder.parent / "my.collection", **WINDOWS | settings)


def contents(folder):
    """Everything a search can see, without ids."""
    with Collection.open(folder.parent / "my.collection", read_only=True) as collection:
        hits = collection.search(np.eye(8, dtype=np.float32), top=1000)
        return {
            (hit.video, hit.start_seconds, round(hit.end_seconds, 1)): round(hit.score, 5)
            for per_colour in hits
            for hit in per_colour
            if hit.score > 0
        }


def cut_off(path):
    """Lose the second half of the file, as an aborted download does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_segments_carry_what_is_seen_in_them(folder):
    report = embed(folder)
    assert (report.embedded, report.segments, report.ignored_files) == (2, 4, 1)
    assert report.quarantined == ()
    assert report.video_seconds == pytest.approx(4.0, abs=0.2)
    assert contents(folder) == {
        ("a.mp4", 0.0, 1.0): pytest.approx(1.0),
        ("a.mp4", 1.0, 2.0): pytest.approx(1.0),
        ("a.mp4", 2.0, 3.0): pytest.approx(1.0),
        ("sub/b.MP4", 0.0, 1.0): pytest.approx(1.0),
    }


@pytest.mark.parametrize("settings", [{"batch_size": 1, "workers": 1}, {"workers": 3}])
def test_batches_and_threads_do_not_change_the_result(folder, settings):
    embed(folder)
    expected = contents(folder)
    shutil.rmtree(folder.parent / "my.collection")
    embed(folder, **settings)
    assert contents(folder) == expected


def test_a_whole_video_can_be_one_segment(folder):
    report = embed(folder, window_seconds=None, stride_seconds=None)
    assert report.segments == 2
    with Collection.open(folder.parent / "my.collection") as collection:
        (segment,) = collection.segments_of("a.mp4")
    assert segment.start_seconds == 0.0
    assert segment.end_seconds == pytest.approx(3.0, abs=0.2)


def spans_of(folder, video):
    with Collection.open(folder.parent / "my.collection") as collection:
        return [(one.start_seconds, one.end_seconds) for one in collection.segments_of(video)]


def test_videos_are_cut_at_their_shots(folder):
    write_colours(folder / "film.mp4", "red red blue yellow yellow yellow")
    embed_folder(
        ColourEncoder(),
        folder,
        folder.parent / "my.collection",
        windowing=Windowing(segments="shots"),
    )
    assert spans_of(folder, "film.mp4") == [(0, 2), (2, 3), (3, pytest.approx(6, abs=0.2))]
    found = {(video, start): score for (video, start, _), score in contents(folder).items()}
    assert found["film.mp4", 3.0] == pytest.approx(1.0)


@pytest.mark.parametrize("vectors", ["alone", "pass"])
@pytest.mark.parametrize("clip_frames", [64, 16])
def test_long_clips_are_divided_where_their_frames_change(folder, vectors, clip_frames):
    write_colours(folder / "film.mp4", "red red blue yellow yellow yellow green green")
    cut = Windowing(
        segments="long-clip",
        moment_vectors=vectors,
        clip_frames=clip_frames,
        frames_per_second=4.0,
        shortest_seconds=0.5,
    )
    embed_folder(ColourEncoder(), folder, folder.parent / "my.collection", windowing=cut)
    starts = [round(start, 1) for start, _ in spans_of(folder, "film.mp4")]
    # Clips of 16 frames end after 4 and 8 seconds, in the midst of yellow and of green.
    assert starts == ([0, 2, 3, 6] if clip_frames == 64 else [0, 2, 3, 4, 6])
    found = {(video, round(start)): score for (video, start, _), score in contents(folder).items()}
    assert found["film.mp4", 2] == pytest.approx(1.0)


def test_frames_of_long_clips_may_lie_in_a_file(folder, monkeypatch):
    write_colours(folder / "film.mp4", "red red blue yellow yellow yellow green green")
    cut = Windowing(segments="long-clip", frames_per_second=4.0, shortest_seconds=0.5)
    embed_folder(ColourEncoder(), folder, folder.parent / "my.collection", windowing=cut)
    expected = contents(folder)
    shutil.rmtree(folder.parent / "my.collection")
    mapped: list[int] = []
    from_file = torch.from_file

    def note(name, *, shared, size, dtype):
        mapped.append(size)
        return from_file(name, shared=shared, size=size, dtype=dtype)

    monkeypatch.setattr(torch, "from_file", note)
    monkeypatch.setattr(roomy_tensor, "MEMORY_BYTES", 20_000)
    embed_folder(ColourEncoder(), folder, folder.parent / "my.collection", windowing=cut)
    assert mapped == [32 * 3 * 16 * 16], "the film's frames and no others"
    assert contents(folder) == expected


def test_an_encoder_without_frames_cannot_read_long_clips(folder):
    class Whole:
        fingerprint, embed_dim, preprocessing = "whole", 8, ColourEncoder().preprocessing

        def encode_video(self, frames_uint8):
            raise AssertionError("refused before")

        encode_text = encode_video

    with pytest.raises(ValueError, match=r"no vectors of frames.*windows or shots"):
        embed_folder(
            Whole(), folder, folder.parent / "c", windowing=Windowing(segments="long-clip")
        )


def test_a_second_run_embeds_only_what_is_new_or_changed(folder):
    embed(folder)
    write_colours(folder / "c.mp4", "white")
    write_colours(folder / "a.mp4", "cyan cyan")
    encoder = ColourEncoder()
    report = embed(folder, encoder)
    assert (report.embedded, report.unchanged, report.segments) == (2, 1, 3)
    assert encoder.clips_seen == 3
    assert {video for video, _, _ in contents(folder)} == {"a.mp4", "c.mp4", "sub/b.MP4"}
    report = embed(folder, encoder)
    assert (report.embedded, report.unchanged, encoder.clips_seen) == (0, 3, 3)


def test_comparing_content_spares_touched_files_and_finds_disguised_changes(folder):
    embed(folder, compare_content=True)
    os.utime(folder / "a.mp4", ns=(1, 1))
    assert embed(folder, compare_content=True).unchanged == 2
    with Collection.open(folder.parent / "my.collection") as collection:
        assert collection.videos()["a.mp4"].mtime_ns == 1
    content = bytearray((folder / "a.mp4").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "a.mp4").write_bytes(content)
    os.utime(folder / "a.mp4", ns=(1, 1))
    assert embed(folder).unchanged == 2
    assert embed(folder, compare_content=True).unchanged == 1


def test_videos_gone_from_disk_are_reported_and_removed_on_demand(folder):
    embed(folder)
    (folder / "a.mp4").unlink()
    report = embed(folder)
    assert (report.missing, report.removed) == (("a.mp4",), ())
    assert ("a.mp4", 0.0, 1.0) in contents(folder)
    report = embed(folder, remove_missing=True)
    assert (report.missing, report.removed) == ((), ("a.mp4",))
    assert set(contents(folder)) == {("sub/b.MP4", 0.0, 1.0)}


def test_an_empty_folder_does_not_empty_the_collection(folder):
    embed(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match=r"no video at all.*mounted"):
        embed(folder, remove_missing=True)
    assert len(contents(folder)) == 4


def test_broken_videos_are_set_aside_with_the_reason_until_they_change(folder):
    cut_off(folder / "a.mp4")
    (folder / "empty.mp4").touch()
    report = embed(folder)
    assert report.embedded == 1
    assert sorted(entry.file.path for entry in report.quarantined) == ["a.mp4", "empty.mp4"]
    assert all(entry.reason for entry in report.quarantined)
    listed = (folder.parent / "my.collection" / "quarantine.jsonl").read_text()
    assert '"path": "a.mp4"' in listed
    assert listed.count("\n") == 2

    report = embed(folder)
    assert (report.still_quarantined, report.quarantined, report.unchanged) == (2, (), 1)
    assert len(embed(folder, retry_quarantined=True).quarantined) == 2

    write_colours(folder / "a.mp4", "red")
    (folder / "empty.mp4").unlink()
    report = embed(folder)
    assert (report.embedded, report.still_quarantined) == (1, 0)
    with Collection.open(folder.parent / "my.collection") as collection:
        assert collection.quarantined() == {}


def test_a_video_that_breaks_late_leaves_no_segment(folder, monkeypatch):
    """Windows already embedded when the break is met are dropped too."""
    import reelscan.index.segment_frames as module

    whole = module.stream_windows

    def breaking(source, **settings):
        for number, window in enumerate(whole(source, **settings)):
            if number == 2 and Path(source).name == "a.mp4":
                raise VideoError("a.mp4", "broken at 2.0 s")
            yield window

    embed(folder)
    write_colours(folder / "a.mp4", "cyan cyan cyan")
    monkeypatch.setattr(module, "stream_windows", breaking)
    (entry,) = embed(folder, batch_size=1).quarantined
    assert entry.reason == "broken at 2.0 s"
    assert set(contents(folder)) == {("sub/b.MP4", 0.0, 1.0)}


def test_a_file_name_that_is_not_utf8_is_set_aside(folder):
    (folder / "a.mp4").rename(folder / os.fsdecode(b"caf\xe9.mp4"))
    report = embed(folder)
    (entry,) = report.quarantined
    assert entry.file.path == r"caf\xe9.mp4"
    assert "UTF-8" in entry.reason
    assert report.embedded == 1


def test_odd_names_are_fine(folder):
    write_colours(folder / "à la 100% '天'.mp4", "white")
    embed(folder)
    assert ("à la 100% '天'.mp4", 0.0, 1.0) in contents(folder)


def test_progress_ends_at_the_total(folder):
    seen = []
    report = embed(folder, on_progress=seen.append, batch_size=1)
    assert seen[-1].done_videos == seen[-1].total_videos == 2
    assert seen[-1].segments == report.segments
    assert seen[-1].done_seconds == pytest.approx(report.video_seconds)
    done = [(one.done_videos, one.segments) for one in seen if one.total_videos]
    assert done == sorted(done)


class InterruptedEncoder(ColourEncoder):
    def encode_frames(self, frames_uint8):
        if self.clips_seen >= 3:
            raise KeyboardInterrupt
        return super().encode_frames(frames_uint8)


def test_an_interrupt_keeps_the_finished_videos(folder):
    with pytest.raises(KeyboardInterrupt):
        embed(folder, InterruptedEncoder(), batch_size=1, workers=1)
    with Collection.open(folder.parent / "my.collection") as collection:
        assert list(collection.videos()) == ["a.mp4"]
        assert len(collection) == 3
    assert embed(folder).unchanged == 1
    assert len(contents(folder)) == 4


SLOW_RUN = """
import sys, time
sys.path.insert(0, sys.argv[1])
from colour_encoder import ColourEncoder
from reelscan.index.embed import embed_folder

class SlowEncoder(ColourEncoder):
    def encode_frames(self, frames_uint8):
        time.sleep(0.05)
        return super().encode_frames(frames_uint8)

embed_folder(SlowEncoder(), sys.argv[2], sys.argv[3], window_seconds=1.0, stride_seconds=1.0,
             batch_size=1, workers=1, on_progress=lambda told: print(told.segments, flush=True))
"""


@pytest.mark.parametrize("segments_before_the_kill", [1, 5, 9])
def test_a_kill_leaves_whole_videos_only(tmp_path, segments_before_the_kill):
    videos = tmp_path / "videos"
    for name in "abcdef":
        write_colours(videos / f"{name}.mp4", "red green blue")
    support = Path(__file__).parents[1] / "support"
    path = tmp_path / "my.collection"
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, str(support), str(videos), str(path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        for line in run.stdout:
            if int(line) >= segments_before_the_kill:
                break
        run.send_signal(signal.SIGKILL)
    with Collection.open(path) as collection:
        stored = list(collection.videos())
        assert (segments_before_the_kill - 1) // 3 <= len(stored) < 6
        assert {len(collection.segments_of(video)) for video in stored} <= {3}
        assert len(collection) == 3 * len(stored)
        assert len(collection.search(np.eye(8, dtype=np.float32)[:1], top=99)[0]) == len(collection)
    report = embed(videos)
    assert (report.unchanged, report.embedded) == (len(stored), 6 - len(stored))
    assert len(contents(videos)) == 18


def test_another_model_s_collection_is_refused_before_any_work(folder):
    embed(folder)
    other = ColourEncoder("colours-2")
    with pytest.raises(FingerprintMismatch, match=r"colours-1.*colours-2"):
        embed(folder, other)
    assert other.clips_seen == 0


def test_other_windows_and_other_folders_are_refused(folder):
    embed(folder)
    with pytest.raises(ValueError, match=r"cut into windows of 1 s"):
        embed(folder, window_seconds=2.0)
    with pytest.raises(ValueError, match="belongs to the videos of"):
        embed(folder.rename(folder.with_name("moved")))


def test_a_moved_folder_keeps_its_segments(folder):
    embed(folder)
    moved = folder.rename(folder.with_name("moved"))
    with Collection.open(folder.parent / "my.collection") as collection:
        collection.move_root(moved)
    assert embed(moved).unchanged == 2


def test_folders_without_videos_are_refused_and_leave_nothing(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.txt").touch()
    with pytest.raises(ValueError, match=r"no video \(1 other files\).*\.mp4"):
        embed(tmp_path / "videos")
    with pytest.raises(NotADirectoryError):
        embed(tmp_path / "nowhere")
    assert [one.name for one in tmp_path.iterdir()] == ["videos"]


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"workers": 0}, {"window_seconds": 0.0}])
def test_bad_settings_are_refused(folder, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        embed(folder, **bad)


class BrokenEncoder(ColourEncoder):
    def encode_frames(self, frames_uint8):
        return super().encode_frames(frames_uint8) * float("nan")


def test_a_model_that_gives_nan_stops_the_run(folder):
    with pytest.raises(ValueError, match=r"finite.*weights"):
        embed(folder, BrokenEncoder())


def test_a_file_changed_while_it_is_embedded_is_embedded_again(folder):
    class ReplacingEncoder(ColourEncoder):
        def encode_frames(self, frames_uint8):
            write_colours(folder / "sub" / "b.MP4", "magenta white")
            return super().encode_frames(frames_uint8)

    embed(folder, ReplacingEncoder(), workers=1)
    report = embed(folder)
    assert (report.embedded, report.unchanged) == (1, 1)
    assert ("sub/b.MP4", 1.0, 2.0) in contents(folder)


def test_the_model_s_place_is_kept_for_searches(folder):
    embed(folder)
    path = folder.parent / "my.collection"
    with Collection.open(path) as collection, pytest.raises(ValueError, match="name the model"):
        collection.model_path()
    embed(folder, model_path=folder.parent / "model")
    with Collection.open(path) as collection:
        assert collection.model_path() == folder.parent / "model"


@pytest.mark.parametrize("window_seconds", [1.5, None])
def test_a_segment_read_again_shows_the_same_frames(folder, window_seconds):
    windowing = Windowing(window_seconds=window_seconds)
    how = ColourEncoder().preprocessing
    path = folder / "a.mp4"
    windows = list(read_segments(path, windowing=windowing, preprocessing=how, name="a.mp4"))
    assert len(windows) == (2 if window_seconds else 1)
    for window in windows:
        clip = read_segment(
            path,
            start_seconds=window.start_seconds,
            end_seconds=window.end_seconds,
            windowing=windowing,
            preprocessing=how,
            name="a.mp4",
        )
        assert torch.equal(clip.frames_uint8, window.clip.frames_uint8)


def test_the_index_is_limited_to_the_memory_asked_for(folder):
    embed(folder, memory_bytes=123_456)
    with Collection.open(folder.parent / "my.collection", read_only=True) as collection:
        assert collection.stats().index.memory_bytes == 123_456
