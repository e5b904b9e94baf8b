import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reelscan.video.decode import read_clip
from reelscan.video.errors import VideoError
from reelscan.video.probe import probe
from reelscan.video.windows import Window, stream_windows

Encode = Callable[..., bytes]
Decode = Callable[[bytes], Tensor]

H264 = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:bframes=3"}


def windows_of(data: bytes | Path, *, window: float, stride: float) -> list[Window]:
    return list(
        stream_windows(data, window_seconds=window, stride_seconds=stride, frames=4, frame_size=24)
    )


@pytest.mark.parametrize(
    ("window", "stride", "expected"),
    [
        (2, 2, [(0, 2), (2, 4), (4, 6)]),
        (4, 4, [(0, 4), (4, 6)]),
        (4, 1.5, [(0, 4), (1.5, 5.5), (3, 6)]),
        (1, 2.5, [(0, 1), (2.5, 3.5), (5, 6)]),
        (6, 6, [(0, 6)]),
        (60, 30, [(0, 6)]),
        (5.9, 5.9, [(0, 5.9), (5.9, 6)]),
        (5.95, 5.95, [(0, 5.95)]),
    ],
)
def test_where_windows_lie(
    encode: Encode, window: float, stride: float, expected: list[tuple[float, float]]
) -> None:
    windows = windows_of(encode(60), window=window, stride=stride)
    assert [one.start_seconds for one in windows] == pytest.approx([start for start, _ in expected])
    assert [one.end_seconds for one in windows] == pytest.approx([end for _, end in expected])


@pytest.mark.parametrize("container", ["mp4", "mpegts", "avi", "h264"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_each_window_equals_reading_it_alone(
    encode: Encode, container: str, is_kept: bool, request: pytest.FixtureRequest
) -> None:
    if not is_kept:
        request.getfixturevalue("nothing_kept")
    data = encode(60, container=container, options=H264)
    windows = windows_of(data, window=1.1, stride=0.4)
    assert len(windows) >= 5
    for window in windows:
        alone = read_clip(
            data,
            frames=4,
            sampling="seconds",
            start_seconds=window.start_seconds,
            end_seconds=window.end_seconds,
            frame_size=24,
        )
        assert torch.equal(window.clip.frames_uint8, alone.frames_uint8)
        assert window.clip.times_seconds == alone.times_seconds


def test_each_packet_is_decoded_at_most_once(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelscan.video.pyav_stream import PyAVStream

    decoded: list[int] = []
    plain = PyAVStream.decode

    def counted(self: PyAVStream, packet: object) -> object:
        decoded.append(id(packet))
        return plain(self, packet)  # type: ignore[arg-type]

    monkeypatch.setattr(PyAVStream, "decode", counted)
    assert len(windows_of(encode(60, options=H264), window=3, stride=0.5)) == 7
    assert len(decoded) <= 61


def test_frames_are_the_ones_shown_at_the_middles(encode: Encode) -> None:
    first, second = windows_of(encode(40), window=2, stride=2)
    assert first.clip.times_seconds == (0.2, 0.7, 1.2, 1.7)
    assert second.clip.times_seconds == (2.2, 2.7, 3.2, 3.7)


@pytest.mark.parametrize("gap_seconds", [5, 2_000_000])
def test_windows_in_which_no_frame_begins_are_left_out(encode: Encode, gap_seconds: int) -> None:
    times = [0, 100, 1000 * gap_seconds, 1000 * gap_seconds + 500]
    windows = windows_of(encode(4, times=times, container="matroska"), window=2, stride=2)
    first, last = windows[0], windows[-1]
    assert (first.start_seconds, first.end_seconds) == (0, 2)
    assert first.clip.times_seconds == (0.1, 0.1, 0.1, 0.1)
    assert len(windows) == 2
    assert last.start_seconds == gap_seconds // 2 * 2
    assert set(last.clip.times_seconds) <= {0.1, gap_seconds, gap_seconds + 0.5}


def test_an_image_is_one_window(encode: Encode) -> None:
    data = encode(1, codec="png", container="image2pipe", pixel_format="rgb24")
    (window,) = windows_of(data, window=10, stride=5)
    assert window.clip.frames_uint8.shape == (4, 3, 24, 24)
    assert (window.start_seconds, window.clip.times_seconds) == (0, (0, 0, 0, 0))


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_an_hour_needs_no_more_memory_than_a_window(hour_long: Path) -> None:
    # All frames together take 720 x 4 x 110 kB = 320 MB.
    windows = stream_windows(
        hour_long,
        window_seconds=10,
        stride_seconds=5,
        frames=4,
        frame_size=192,
        interpolation="nearest",
    )
    next(windows)
    before, largest, count = resident_bytes(), 0, 1
    for window in windows:
        largest = max(largest, resident_bytes())
        seconds = int(window.clip.times_seconds[0])
        colour = window.clip.frames_uint8[0].float().mean(dim=(1, 2))
        expected = torch.tensor([seconds % 251, seconds // 251 * 16, seconds * 7 % 256])
        assert seconds == window.start_seconds + 1
        assert (colour - expected).abs().max() < 12
        count += 1
    assert count == 719
    assert largest - before < 30e6


def damaged_avi(whole: bytes) -> bytes:
    """One packet near two thirds cannot be decoded."""
    data = bytearray(whole)
    place = data.index(b"00dc", len(data) * 2 // 3)
    data[place + 8 : place + 60] = bytes(52)
    return bytes(data)


def damaged_y4m(whole: bytes) -> bytes:
    """Reading stops near two thirds, where a frame is too short."""
    place = len(whole) * 2 // 3
    return whole[:place] + whole[place + 10 :]


@pytest.mark.parametrize(
    ("made", "damaged", "message"),
    [
        ({"codec": "mpeg4", "container": "avi", "options": {"g": "10"}}, damaged_avi, "decoding"),
        ({"codec": "rawvideo", "container": "yuv4mpegpipe"}, damaged_y4m, "reading it fails"),
    ],
)
def test_what_comes_before_an_error_is_handed_out(
    encode: Encode, made: dict[str, Any], damaged: Callable[[bytes], bytes], message: str
) -> None:
    whole, windows = encode(60, **made), []
    arguments: dict[str, Any] = {
        "window_seconds": 1, "stride_seconds": 1, "frames": 10, "frame_size": None
    }  # fmt: skip
    with pytest.raises(VideoError, match=message):
        for window in stream_windows(damaged(whole), **arguments):
            windows.append(window)
    assert 2 <= len(windows) <= 5
    for window, expected in zip(windows[:2], stream_windows(whole, **arguments), strict=False):
        assert torch.equal(window.clip.frames_uint8, expected.clip.frames_uint8)
    for read in (read_clip, probe):
        if message == "reading it fails":
            with pytest.raises(VideoError, match=message):
                read(damaged(whole))


def test_wrong_arguments_are_refused_at_the_call() -> None:
    def call(window: float = 1, stride: float = 1, frames: int = 1, size: int = 8) -> None:
        stream_windows(
            b"", window_seconds=window, stride_seconds=stride, frames=frames, frame_size=size
        )

    for arguments in ({"window": 0}, {"stride": float("nan")}, {"frames": 0}, {"size": 0}):
        with pytest.raises(ValueError, match=r"is (0|nan)"):
            call(**arguments)


def test_a_missing_file_is_named_when_iteration_begins(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"gone\.mp4: there is no such file"):
        windows_of(tmp_path / "gone.mp4", window=1, stride=1)
