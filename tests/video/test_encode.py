import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from torch import Tensor

from reelscan.video.decode import read_clip
from reelscan.video.encode import encode_video, write_video
from reelscan.video.probe import probe


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi"])
def test_frames_come_back_about_the_same(
    tmp_path: Path, moving_frames: Callable[..., Tensor], suffix: str
) -> None:
    frames = moving_frames(20)
    path = tmp_path / f"a.{suffix}"
    write_video(path, frames, fps=12.5, crf=5)
    info = probe(path)
    assert (info.frame_count, info.width, info.height, info.codec) == (20, 64, 48, "h264")
    assert info.fps == pytest.approx(12.5, rel=1e-3)
    back = read_clip(path, frames=20).frames_uint8
    assert (back.float() - frames.float()).abs().mean() < 15
    assert list(tmp_path.iterdir()) == [path]


def test_lossless_frames_come_back_exactly(moving_frames: Callable[..., Tensor]) -> None:
    frames = moving_frames(5, 17, 33)
    data = encode_video(frames, fps=5, container="matroska", codec="ffv1", pixel_format="bgr0")
    assert torch.equal(read_clip(data, frames=5).frames_uint8, frames)


def test_the_same_frames_give_the_same_bytes(
    tmp_path: Path, moving_frames: Callable[..., Tensor]
) -> None:
    here = encode_video(moving_frames(30), fps=Fraction(30000, 1001))
    assert here == encode_video(moving_frames(30), fps=Fraction(30000, 1001))
    frames, video = tmp_path / "frames.pt", tmp_path / "a.mp4"
    torch.save(moving_frames(30), frames)
    script = (
        "import sys, torch; from fractions import Fraction\n"
        "from reelscan.video.encode import write_video\n"
        "frames = torch.load(sys.argv[1], weights_only=True)\n"
        "write_video(sys.argv[2], frames, fps=Fraction(30000, 1001))\n"
    )
    # Memory that was never set holds other bytes there.
    environment = {**os.environ, "MALLOC_PERTURB_": "165"}
    arguments = [sys.executable, "-c", script, str(frames), str(video)]
    subprocess.run(arguments, env=environment, check=True, timeout=120)
    assert video.read_bytes() == here


def test_better_quality_takes_more_bytes(moving_frames: Callable[..., Tensor]) -> None:
    sizes = [len(encode_video(moving_frames(20), fps=10, crf=crf)) for crf in (10, 30, 50)]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3


def test_keyframes_come_as_often_as_asked(
    tmp_path: Path, moving_frames: Callable[..., Tensor]
) -> None:
    def keyframes(keyframe_seconds: float | None) -> int:
        path = tmp_path / "a.mp4"
        write_video(path, moving_frames(60), fps=10, keyframe_seconds=keyframe_seconds)
        with av.open(str(path)) as container:
            return sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)

    assert keyframes(None) == 1
    assert keyframes(1.0) == 6
    assert keyframes(0.01) == 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames_uint8": torch.zeros(2, 3, 17, 32, dtype=torch.uint8)}, "32 x 17 .* pad them"),
        ({"frames_uint8": torch.zeros(2, 3, 16, 33, dtype=torch.uint8)}, "needs even sizes"),
        ({"frames_uint8": torch.zeros(2, 3, 16, 16)}, r"float32 .* give torch.uint8 \[T, 3, H"),
        ({"frames_uint8": torch.zeros(2, 16, 16, 3, dtype=torch.uint8)}, r"\[T, 3, H, W\]"),
        ({"frames_uint8": torch.zeros(0, 3, 16, 16, dtype=torch.uint8)}, "none 0"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"keyframe_seconds": 0}, "keyframe_seconds is 0"),
        ({"codec": "nonsense"}, "nonsense is no video encoder"),
        ({"codec": "aac"}, "aac is no video encoder of FFmpeg .audio."),
        ({"pixel_format": "nonsense"}, "nonsense"),
        ({"codec": "libvpx"}, "FFmpeg cannot write|does not support"),
    ],
)
def test_what_cannot_be_encoded_leaves_no_file(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    frames = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "a.mp4", **{"frames_uint8": frames, "fps": 5, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_tells_the_container(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in '\.mpx'; use one of \.mp4"):
        write_video(tmp_path / "a.mpx", torch.zeros(1, 3, 16, 16, dtype=torch.uint8), fps=5)


def test_an_old_file_survives_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("reelscan.video.encode.os.fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_video(path, torch.zeros(1, 3, 16, 16, dtype=torch.uint8), fps=5)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_files_are_readable_by_others_as_usual(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(1, 3, 16, 16, dtype=torch.uint8), fps=5)
    (tmp_path / "usual").touch()
    assert (tmp_path / "a.mp4").stat().st_mode == (tmp_path / "usual").stat().st_mode
