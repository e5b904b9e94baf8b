import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from reelscan.pretrain.annotations import CaptionedVideo
from reelscan.pretrain.shard_index import read_index, read_sample, verify_shards
from reelscan.pretrain.shard_list import open_corpus
from reelscan.pretrain.shard_reader import ClipDecoder, CorpusReader
from reelscan.pretrain.shard_store import ShardStore
from reelscan.pretrain.shard_writer import ShardReport, write_shards
from reelscan.pretrain.skip_log import SkipLog
from reelscan.video.encode import write_video

CLIPS = 7


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clip n has brightness 20 + 30 n; a picture; and files that are no good."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deep").mkdir()
    for number in range(CLIPS):
        frames = torch.full((4, 3, 32, 48), 20 + 30 * number, dtype=torch.uint8)
        write_video(folder / "deep" / f"{number}.mp4", frames, fps=4)
    cv2.imwrite(str(folder / "picture.jpg"), np.full((20, 30, 3), 99, np.uint8))
    whole = (folder / "deep" / "0.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("this is no video")
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile deep/0.mp4\n")
    (folder / "folder.mp4").mkdir()
    return folder


def clip(number: int) -> CaptionedVideo:
    return CaptionedVideo(video=f"deep/{number}.mp4", captions=(f"clip {number}", "ein Film – 犬"))


def other(name: str) -> CaptionedVideo:
    return CaptionedVideo(video=name, captions=("x",))


VIDEOS = [clip(number) for number in range(CLIPS)]
MIXED = [other("text.mp4"), *VIDEOS[:2], other("none.mp4"), *VIDEOS[2:], other("cut.mp4")]


def write(root: Path, out: Path, videos: Sequence[CaptionedVideo] = MIXED) -> ShardReport:
    return write_shards(videos, out, root=root, name="toy", samples_per_shard=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class InterruptionError(Exception):
    pass


def interrupt_after(videos: int) -> Callable[[int, int, int], None]:
    def progress(done: int, total: int, rejected: int) -> None:
        if done == videos:
            raise InterruptionError

    return progress


def test_shards_hold_the_files_and_captions_under_our_own_names(root: Path, tmp_path: Path) -> None:
    report = write(root, tmp_path)
    files = ["toy-000000.tar", "toy-000001.tar", "toy-000002.tar"]
    assert sorted(contents(tmp_path)) == [*files, "toy.index.json", "toy.rejects.jsonl"]
    names = []
    for file in files:
        with tarfile.open(tmp_path / file) as tar:
            members = tar.getmembers()
            names += [member.name for member in members]
            assert {member.mtime for member in members} == {0}
    assert names == [
        f"{number:09d}.{suffix}" for number in range(CLIPS) for suffix in ("json", "mp4")
    ]
    for number in range(CLIPS):
        sample = read_sample(report.index_path, number)
        assert sample.media == (root / "deep" / f"{number}.mp4").read_bytes()
        known = sample.description
        assert (known.captions, known.video) == (VIDEOS[number].captions, VIDEOS[number].video)
        assert (known.width, known.height) == (48, 32)
        assert known.duration_seconds == pytest.approx(1.0, abs=0.3)


def test_the_report_counts(root: Path, tmp_path: Path) -> None:
    report = write(root, tmp_path)
    assert (report.written, report.rejected, report.shards) == (CLIPS, 3, 3)
    assert report.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert verify_shards(report.index_path) == []
    assert read_index(report.index_path).rejected == 3


def test_rejects_are_listed_with_reasons(root: Path, tmp_path: Path) -> None:
    bad = ["none.mp4", "deep/0.mp4/x.mp4", "folder.mp4", "text.mp4", "list.mp4", "cut.mp4"]
    report = write(root, tmp_path, [*map(other, bad), clip(0)])
    lines = [json.loads(line) for line in report.rejects_path.read_text().splitlines()]
    assert [line["video"] for line in lines] == bad
    reasons = [line["reason"] for line in lines]
    assert reasons[:3] == ["does not exist", "does not exist", "is not a regular file"]
    assert all("by its content" in reason for reason in reasons[3:5])
    assert reasons[5]
    assert report.rejected == len(bad)


def test_large_videos_are_rejected(root: Path, tmp_path: Path) -> None:
    sizes = {video.video: (root / video.video).stat().st_size for video in VIDEOS}
    limit = sorted(sizes.values())[3]
    report = write_shards(VIDEOS, tmp_path, root=root, name="toy", max_video_bytes=limit)
    assert report.rejected == sum(size > limit for size in sizes.values()) > 0
    assert "more than the" in report.rejects_path.read_text()


def test_content_decides_on_the_ending(root: Path, tmp_path: Path) -> None:
    (root / "picture.mp4").write_bytes((root / "picture.jpg").read_bytes())
    report = write(root, tmp_path, [other("picture.jpg"), other("picture.mp4")])
    for number in range(2):
        sample = read_sample(report.index_path, number)
        assert sample.suffix == "jpg"
        known = sample.description
        assert (known.width, known.height, known.duration_seconds) == (30, 20, None)


def test_the_same_input_gives_the_same_shards(root: Path, tmp_path: Path) -> None:
    written = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        write_shards(MIXED, out, root=root, name="toy", samples_per_shard=3, workers=workers)
        written.append(contents(out))
    assert written[0] == written[1]


def test_bytes_per_shard(root: Path, tmp_path: Path) -> None:
    sizes = [(root / video.video).stat().st_size for video in VIDEOS]
    limit = 2 * max(sizes) + 4096
    report = write_shards(VIDEOS, tmp_path, root=root, name="toy", bytes_per_shard=limit)
    shards = read_index(report.index_path).shards
    assert 1 < len(shards) < CLIPS
    for shard in shards:
        last = shard.samples[-1].media
        assert last.offset + last.size <= limit
    tiny = write_shards(VIDEOS, tmp_path / "tiny", root=root, name="toy", bytes_per_shard=1)
    assert tiny.shards == tiny.written == CLIPS


def test_progress_is_told(root: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    write_shards(
        MIXED, tmp_path, root=root, name="toy", on_progress=lambda *values: told.append(values)
    )
    assert [done for done, _, _ in told] == list(range(len(MIXED) + 1))
    assert {total for _, total, _ in told} == {len(MIXED)}
    assert told[-1][2] == 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 5, 8, len(MIXED)])
def test_an_interrupted_run_goes_on(root: Path, tmp_path: Path, stop: int, workers: int) -> None:
    def run(out: Path, progress: Callable[[int, int, int], None] | None = None) -> ShardReport:
        return write_shards(
            MIXED,
            out,
            root=root,
            name="toy",
            samples_per_shard=3,
            workers=workers,
            on_progress=progress,
        )

    expected = run(tmp_path / "whole")
    out = tmp_path / "parts"
    with pytest.raises(InterruptionError):
        run(out, interrupt_after(stop))
    assert not list(out.glob("*.index.json")) and not list(out.glob(".*"))
    kept = {path: path.stat().st_ino for path in out.glob("*.tar")}
    starts: list[int] = []
    report = run(out, lambda done, total, rejected: starts.append(done))
    assert {path: path.stat().st_ino for path in kept} == kept
    assert (starts[0] > 0) == bool(kept)
    assert contents(out) == contents(tmp_path / "whole")
    assert (report.written, report.rejected) == (expected.written, expected.rejected)


def interrupted(root: Path, out: Path) -> Path:
    """Two of three shards are done; returns the journal."""
    with pytest.raises(InterruptionError):
        write_shards(
            MIXED,
            out,
            root=root,
            name="toy",
            samples_per_shard=3,
            on_progress=interrupt_after(len(MIXED)),
        )
    assert len(list(out.glob("*.tar"))) == 2
    return out / "toy.progress.jsonl"


def test_a_damaged_shard_and_all_after_it_are_redone(root: Path, tmp_path: Path) -> None:
    interrupted(root, tmp_path / "parts")
    shard = tmp_path / "parts" / "toy-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    write(root, tmp_path / "parts")
    write(root, tmp_path / "whole")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "tail", [b'{"file": "toy-0', b"\x00" * 50 + b"\n", b"[]\n", b'{"file": 3}\n']
)
def test_a_torn_journal_still_helps(root: Path, tmp_path: Path, tail: bytes) -> None:
    journal = interrupted(root, tmp_path / "parts")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:2]) + tail)
    first = (tmp_path / "parts" / "toy-000000.tar").stat().st_ino
    write(root, tmp_path / "parts")
    write(root, tmp_path / "whole")
    assert (tmp_path / "parts" / "toy-000000.tar").stat().st_ino == first
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_half_a_set_of_other_inputs_is_refused(root: Path, tmp_path: Path) -> None:
    interrupted(root, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="interrupted run with other videos, captions or settings"):
        write(root, tmp_path, MIXED[1:])
    assert contents(tmp_path) == before


def test_a_complete_set_is_left_alone(root: Path, tmp_path: Path) -> None:
    first = write(root, tmp_path)
    inodes = {path: path.stat().st_ino for path in tmp_path.iterdir()}
    assert write(root, tmp_path) == first
    assert {path: path.stat().st_ino for path in tmp_path.iterdir()} == inodes


def test_another_complete_set_is_refused(root: Path, tmp_path: Path) -> None:
    write(root, tmp_path)
    before = contents(tmp_path)
    changed = [replace(MIXED[1], captions=("other",)), *MIXED[2:]]
    for videos in (changed, MIXED[1:], MIXED[::-1]):
        with pytest.raises(
            ValueError, match="complete set with other videos, captions or settings"
        ):
            write(root, tmp_path, videos)
    with pytest.raises(ValueError, match="complete set with other"):
        write_shards(MIXED, tmp_path, root=root, name="toy", samples_per_shard=4)
    status = (root / "deep" / "0.mp4").stat()
    os.utime(root / "deep" / "0.mp4", ns=(0, 0))
    try:
        with pytest.raises(ValueError, match="complete set with other"):
            write(root, tmp_path)
    finally:
        os.utime(root / "deep" / "0.mp4", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert contents(tmp_path) == before
    other_name = write_shards(MIXED, tmp_path, root=root, name="toy2", samples_per_shard=4)
    assert other_name.written == CLIPS


def test_a_complete_set_that_lost_a_shard_is_named(root: Path, tmp_path: Path) -> None:
    write(root, tmp_path)
    (tmp_path / "toy-000001.tar").unlink()
    with pytest.raises(ValueError, match=r"toy-000001.tar is missing"):
        write(root, tmp_path)


def test_foreign_shards_are_not_overwritten(root: Path, tmp_path: Path) -> None:
    (tmp_path / "toy-000001.tar").write_bytes(b"precious")
    with pytest.raises(ValueError, match="no run is known that wrote it"):
        write(root, tmp_path)
    assert contents(tmp_path) == {"toy-000001.tar": b"precious"}


def test_nothing_good_is_an_error(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 videos is good, the first \(text.mp4\)"):
        write(root, tmp_path, [other("text.mp4"), other("none.mp4")])
    assert list(contents(tmp_path)) == ["toy.rejects.jsonl"]


@pytest.mark.parametrize(
    ("videos", "reason"),
    [
        ([], "no videos"),
        ([other("../outside.mp4")], "not below the root"),
        ([other("/etc/passwd")], "not below the root"),
        ([clip(0), clip(0)], "is there twice"),
        ([CaptionedVideo(video="deep/0.mp4", captions=())], "has no captions"),
    ],
)
def test_bad_lists_are_refused(
    root: Path, tmp_path: Path, videos: list[CaptionedVideo], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        write(root, tmp_path, videos)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "-x", "a/b", "a{1..2}"])
def test_bad_names_are_refused(root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="use letters, digits"):
        write_shards(VIDEOS, tmp_path, root=root, name=name)


def test_bad_numbers_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="samples_per_shard is 0"):
        write_shards(VIDEOS, tmp_path, root=root, name="toy", samples_per_shard=0)
    with pytest.raises(ValueError, match="bytes_per_shard is 0"):
        write_shards(VIDEOS, tmp_path, root=root, name="toy", bytes_per_shard=0)
    with pytest.raises(ValueError, match="workers is -1"):
        write_shards(VIDEOS, tmp_path, root=root, name="toy", workers=-1)
    with pytest.raises(ValueError, match="reencode_short_side is 8"):
        write_shards(VIDEOS, tmp_path, root=root, name="toy", reencode_short_side=8)


def test_other_disk_errors_are_raised(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(OSError, match="Input/output error"):
        write(root, tmp_path)


def test_reencoding_makes_small_videos_with_short_gops(root: Path, tmp_path: Path) -> None:
    moving = torch.zeros(24, 3, 64, 128, dtype=torch.uint8)
    for frame in range(24):
        moving[frame, :, :, 4 * frame : 4 * frame + 20] = 255
    write_video(root / "wide.mp4", moving, fps=8)
    report = write_shards(
        [other("wide.mp4"), clip(3), other("picture.jpg")],
        tmp_path,
        root=root,
        name="small",
        reencode_short_side=40,
    )
    wide, small, picture = (read_sample(report.index_path, number) for number in range(3))
    (tmp_path / "wide.mp4").write_bytes(wide.media)
    with av.open(str(tmp_path / "wide.mp4")) as container:
        stream = container.streams.video[0]
        keyframes = [frame.key_frame for frame in container.decode(stream)]
        assert (stream.width, stream.height) == (80, 40)
    assert len(keyframes) == 24 and sum(keyframes) >= 5
    assert (wide.description.width, wide.description.height) == (80, 40)
    assert wide.description.duration_seconds == pytest.approx(3.0, abs=0.2)
    assert (small.description.width, small.description.height) == (48, 32)
    assert picture.media == (root / "picture.jpg").read_bytes()


def test_written_shards_can_be_trained_on(root: Path, tmp_path: Path) -> None:
    report = write(root, tmp_path, [*MIXED, other("picture.jpg")])
    decoder = ClipDecoder(frames=2, frame_size=16)
    corpus = open_corpus(report.index_path)
    reader = CorpusReader(corpus, ShardStore(), decode=decoder)
    for number in range(corpus.sample_count):
        sample = reader.read(number, pass_number=0, skips=SkipLog())
        assert sample is not None and sample.clip_uint8.shape == (2, 3, 16, 16)
        if sample.caption.startswith("clip"):
            brightness = 20 + 30 * int(sample.caption.removeprefix("clip "))
            assert abs(sample.clip_uint8.float().mean() - brightness) < 5
