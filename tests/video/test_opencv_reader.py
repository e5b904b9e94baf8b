"""OpenCV as the fallback: the same frames, and only where it is needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reelscan.video.decode import read_clip, read_frame
from reelscan.video.errors import UnsupportedVideoError, VideoError
from reelscan.video.windows import stream_windows

Encode = Callable[..., bytes]


def test_both_decoders_give_the_same_frames(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(encode(30))
    for source in (path, path.read_bytes()):
        for arguments in ({}, {"sampling": "seconds", "start_seconds": 1.0, "frame_size": 24}):
            ours = read_clip(source, **arguments)  # type: ignore[arg-type]
            other = read_clip(source, decoder="opencv", **arguments)  # type: ignore[arg-type]
            assert torch.equal(ours.frames_uint8, other.frames_uint8)
            assert ours.times_seconds == pytest.approx(other.times_seconds)


def test_real_videos_look_the_same(sample_videos: dict[str, Path]) -> None:
    path = sample_videos["carphone_pristine"]
    ours, other = read_clip(path), read_clip(path, decoder="opencv")
    assert torch.equal(ours.frames_uint8, other.frames_uint8)


def test_windows_and_rotation(encode: Encode) -> None:
    data = encode(30, rotation=(90, False, False))
    arguments: dict[str, Any] = {
        "window_seconds": 1, "stride_seconds": 1, "frames": 2, "frame_size": None
    }  # fmt: skip
    ours = list(stream_windows(data, **arguments))
    others = list(stream_windows(data, decoder="opencv", **arguments))
    assert len(ours) == len(others) == 3
    for one, other in zip(ours, others, strict=True):
        assert one.clip.frames_uint8.shape == (2, 3, 64, 48)
        assert torch.equal(one.clip.frames_uint8, other.clip.frames_uint8)
        assert (one.start_seconds, one.end_seconds) == pytest.approx(
            (other.start_seconds, other.end_seconds)
        )


@pytest.fixture
def pyav_knows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, name: str, **__: object) -> None:
        raise UnsupportedVideoError(name, "there is no decoder for its codec")

    monkeypatch.setattr("reelscan.video.reader.PyAVReader", refuse)


@pytest.mark.usefixtures("pyav_knows_nothing")
def test_opencv_takes_over_what_pyav_does_not_know(encode: Encode) -> None:
    data = encode(30)
    expected = read_clip(data, decoder="opencv")
    assert torch.equal(read_clip(data).frames_uint8, expected.frames_uint8)
    with pytest.raises(VideoError, match="there is no decoder for its codec"):
        read_clip(data, decoder="pyav")


@pytest.mark.usefixtures("pyav_knows_nothing")
def test_if_both_fail_the_message_says_what_each_said() -> None:
    with pytest.raises(VideoError) as error:
        read_frame(b"ffconcat version 1.0\nfile a.mp4\n", 0, name="a.mp4")
    assert str(error.value) == (
        "a.mp4: PyAV: there is no decoder for its codec; "
        "OpenCV: is in none of the formats that are read"
    )


def test_a_broken_video_does_not_reach_opencv(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reelscan.video.reader.OpenCVReader", None)
    data = encode(30)
    with pytest.raises(VideoError, match="is no readable video"):
        read_clip(data[: len(data) // 2])
    with pytest.raises(VideoError, match="is in none of the formats"):
        read_clip(b"ffconcat version 1.0\nfile a.mp4\n")
