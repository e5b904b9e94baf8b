from collections.abc import Callable
from pathlib import Path

import pytest

from reelscan.video.errors import VideoError
from reelscan.video.probe import probe

Encode = Callable[..., bytes]


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi", "flv"])
def test_facts_are_counted(encode: Encode, container: str) -> None:
    info = probe(encode(45, container=container), name="a")
    assert (info.name, info.codec, info.frame_count) == ("a", "h264", 45)
    assert (info.width, info.height, info.rotation_degrees) == (64, 48, 0)
    assert info.duration_seconds == pytest.approx(4.5, abs=0.02)
    assert info.fps == pytest.approx(10, abs=0.02)


def test_codecs_have_their_common_names(encode: Encode) -> None:
    av1 = encode(3, codec="libsvtav1", options={"preset": "12"})
    vp9 = encode(3, codec="libvpx-vp9", container="webm")
    assert (probe(av1).codec, probe(vp9).codec) == ("av1", "vp9")


def test_a_lying_header_is_not_believed(encode: Encode) -> None:
    lying = bytearray(encode(45, codec="mpeg4", container="avi"))
    # The file's header and the stream's both give the number of frames.
    for place in (lying.index(b"avih") + 8 + 16, lying.index(b"strh") + 8 + 32):
        assert lying[place : place + 4] == (45).to_bytes(4, "little")
        lying[place : place + 4] = (9000).to_bytes(4, "little")
    info = probe(bytes(lying))
    assert info.frame_count == 45
    assert info.duration_seconds == pytest.approx(4.5)


def test_varying_rates_give_the_mean(encode: Encode) -> None:
    info = probe(encode(5, times=[0, 100, 200, 1000, 4000]))
    assert info.fps == pytest.approx(1.0)
    assert 4.0 < info.duration_seconds <= 7.0


def test_a_broken_video_is_named() -> None:
    with pytest.raises(VideoError, match=r"^clip\.mp4: is no readable video"):
        probe(b"garbage" * 100, name="clip.mp4")


def test_real_videos(sample_videos: dict[str, Path]) -> None:
    sizes = {"bikes": (640, 272, 250), "bigbuckbunny": (1280, 720, 132)}
    for name, size in sizes.items():
        info = probe(sample_videos[name])
        assert (info.width, info.height, info.frame_count) == size
        assert info.name == str(sample_videos[name])
