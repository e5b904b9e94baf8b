"""Broken, odd and hostile files: frames or one VideoError, never anything else."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from reelscan.video.decode import read_clip, read_frame
from reelscan.video.errors import VideoError
from reelscan.video.probe import probe
from reelscan.video.transforms import resize
from reelscan.video.windows import stream_windows

Encode = Callable[..., bytes]
Decode = Callable[[bytes], Tensor]

READERS: dict[str, Callable[[bytes], Any]] = {
    "clip": lambda data: read_clip(data, frames=3, frame_size=16),
    "seconds": lambda data: read_clip(data, frames=3, sampling="seconds", frame_size=16),
    "frame": lambda data: read_frame(data, 0.5, frame_size=16),
    "probe": probe,
    "windows": lambda data: list(
        stream_windows(data, window_seconds=1, stride_seconds=0.5, frames=2, frame_size=16)
    ),
}


def reason_for(data: bytes, read: str = "clip") -> str:
    with pytest.raises(VideoError) as error:
        READERS[read](data)
    return error.value.reason


def audio(container: str, codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=44100)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 2 * 4410), dtype=np.int16), format="s16", layout="stereo"
        )
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))  # type: ignore[union-attr, arg-type]
        output.mux(stream.encode(None))  # type: ignore[union-attr]
    return file.getvalue()


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)) * 40,
        bytes(5000),
        b"<!DOCTYPE html><html><head><title>404</title></head><body>Not found</body></html>" * 9,
        b"\x1aE\xdf\xa3" + bytes(3000),
        b"\x00\x00\x00\x20ftypisom" + bytes(3000),
        b"RIFF\x00\x10\x00\x00AVI " + bytes(3000),
        b"G" * 188 * 20,
        b"x",
    ],
    ids=["ramp", "zeros", "html", "mkv start", "mp4 start", "avi start", "ts start", "one byte"],
)
def test_what_is_no_video(data: bytes, read: str) -> None:
    assert reason_for(data, read)


def test_audio_has_no_video_stream() -> None:
    for container, codec in (("mp4", "aac"), ("wav", "pcm_s16le"), ("matroska", "aac")):
        assert reason_for(audio(container, codec)) == "has no video stream (only: audio)"


def test_a_video_stream_without_frames(encode: Encode) -> None:
    data = encode(torch.zeros(0, 3, 16, 16, dtype=torch.uint8), codec="mpeg4", container="avi")
    for read in READERS:
        assert reason_for(data, read)


@pytest.mark.parametrize(
    ("made", "muxing", "share"),
    [
        ({"container": "matroska"}, {}, 0.6),
        ({"container": "mpegts"}, {}, 0.6),
        ({"container": "flv"}, {}, 0.6),
        ({"container": "avi", "codec": "mpeg4"}, {}, 0.8),
        ({"container": "mp4"}, {"movflags": "faststart"}, 0.6),
        ({"container": "mp4"}, {"movflags": "frag_keyframe+empty_moov"}, 0.6),
    ],
)
def test_a_file_cut_off_gives_the_frames_that_are_there(
    encode: Encode, tmp_path: Path, made: dict[str, Any], muxing: dict[str, str], share: float
) -> None:
    frames = 60
    if muxing.get("movflags") == "faststart":
        whole = with_index_in_front(encode(frames), tmp_path / "a.mp4")
    else:
        whole = encode(frames, muxing=muxing, options={"g": "10"}, **made)
    expected = read_clip(whole, frames=frames).frames_uint8
    cut = whole[: int(len(whole) * share)]
    count = probe(cut).frame_count
    assert 15 < count < 60
    clip = read_clip(cut, frames=count)
    # What was encoded in one piece ends a little earlier, so at most the end looks different.
    assert torch.equal(clip.frames_uint8[: count - 4], expected[: count - 4])
    assert probe(cut).duration_seconds == pytest.approx(count / 10, abs=0.11)


def with_index_in_front(data: bytes, path: Path) -> bytes:
    with (
        av.open(io.BytesIO(data), "r") as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as output,
    ):
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    return path.read_bytes()


def test_an_mp4_without_its_index(encode: Encode) -> None:
    data = encode(60)
    for read in READERS:
        assert reason_for(data[: len(data) * 3 // 4], read)


SEEDS = {
    "h264 mp4": {},
    "h264 ts": {"container": "mpegts"},
    "h264 mkv": {"container": "matroska"},
    "mpeg4 avi": {"codec": "mpeg4", "container": "avi"},
    "vp8 webm": {"codec": "libvpx", "container": "webm", "options": {"cpu-used": "8"}},
    "gif": {"codec": "gif", "container": "gif", "pixel_format": "rgb8"},
    "png": {"codec": "png", "container": "image2pipe", "pixel_format": "rgb24"},
}


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_files_give_frames_or_a_video_error(encode: Encode, kind: str) -> None:
    whole = encode(1 if kind == "png" else 20, **SEEDS[kind])  # type: ignore[arg-type]
    draws, failures = random.Random(kind), 0
    for _ in range(60):
        data = bytearray(whole)
        start = draws.randrange(len(data))
        length = draws.randrange(1, 100)
        damage = draws.choice(("cut", "noise", "zeros", "gone", "more"))
        if damage == "cut":
            del data[start:]
        elif damage == "gone":
            del data[start : start + length]
        elif damage == "more":
            data[start:start] = draws.randbytes(length)
        else:
            patch = draws.randbytes(length) if damage == "noise" else bytes(length)
            data[start : start + length] = patch
        try:
            READERS[draws.choice(list(READERS))](bytes(data))
        except VideoError:
            failures += 1
    assert failures < 60


def test_rotation_and_mirroring_are_applied(encode: Encode) -> None:
    red, green, blue, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    picture = np.zeros((32, 64, 3), dtype=np.uint8)
    picture[:16, :32], picture[:16, 32:], picture[16:, :32], picture[16:, 32:] = (
        red, green, blue, white,
    )  # fmt: skip
    frames = torch.from_numpy(picture).permute(2, 0, 1)[None].expand(3, -1, -1, -1)
    names = {red: "R", green: "G", blue: "B", white: "W"}
    cases = [
        # Turned counter-clockwise, then mirrored; corners row by row; clockwise turn reported.
        ((0, False, False), "RGBW", 0),
        ((90, False, False), "GWRB", 270),
        ((180, False, False), "WBGR", 180),
        ((270, False, False), "BRWG", 90),
        ((0, True, False), "GRWB", 0),
        ((0, False, True), "BWRG", 0),
    ]
    for rotation, expected, degrees in cases:
        data = encode(frames, rotation=rotation, options={"crf": "5"})
        clip = read_clip(data, frames=1)
        shown = (clip.frames_uint8[0].float() / 255).round() * 255
        _, height, width = shown.shape
        corners = [shown[:, y, x] for y in (4, height - 5) for x in (4, width - 5)]
        assert "".join(names[tuple(c.int().tolist())] for c in corners) == expected
        info = probe(data)
        assert (info.rotation_degrees, info.width, info.height) == (degrees, width, height)
        if rotation[0] in (90, 270):
            assert (width, height) == (32, 64)


def test_odd_sizes(
    encode: Encode, moving_frames: Callable[..., Tensor], decode_all: Decode
) -> None:
    frames = moving_frames(6, 17, 33)
    lossless = encode(frames, codec="ffv1", container="matroska", pixel_format="bgr0")
    clip = read_clip(lossless, frames=6)
    assert torch.equal(clip.frames_uint8, frames)
    assert torch.equal(
        read_clip(lossless, frames=6, frame_size=20).frames_uint8, resize(frames, 20)
    )
    for made in (
        {"codec": "mpeg4"},
        {"pixel_format": "yuv444p"},
        {"codec": "libvpx", "container": "webm"},
    ):
        data = encode(frames, **made)
        clip = read_clip(data, frames=6)
        assert clip.frames_uint8.shape == (6, 3, 17, 33)
        assert torch.equal(clip.frames_uint8, decode_all(data))


def test_deep_grey_and_palette_pictures(
    encode: Encode, moving_frames: Callable[..., Tensor]
) -> None:
    frames = moving_frames(4, 32, 32)
    for made in (
        {"codec": "ffv1", "container": "matroska", "pixel_format": "yuv420p10le"},
        {"codec": "ffv1", "container": "matroska", "pixel_format": "yuv444p16le"},
        {"codec": "ffv1", "container": "matroska", "pixel_format": "bgra"},
        {"codec": "png", "container": "image2pipe", "pixel_format": "rgba64be"},
        {"codec": "gif", "container": "gif", "pixel_format": "rgb8"},
        {"codec": "mjpeg", "container": "avi", "pixel_format": "yuvj420p"},
    ):
        clip = read_clip(encode(frames, **made), frames=4)
        assert (clip.frames_uint8.float() - frames.float()).abs().mean() < 30
    grey = frames.float().mean(dim=1, keepdim=True).to(torch.uint8).expand(-1, 3, -1, -1)
    data = encode(grey, codec="ffv1", container="matroska", pixel_format="gray")
    assert (read_clip(data, frames=4).frames_uint8.float() - grey.float()).abs().max() <= 2


def test_an_image_is_a_video_of_one_frame(
    encode: Encode, moving_frames: Callable[..., Tensor]
) -> None:
    picture = moving_frames(1, 17, 33)
    data = encode(picture, codec="png", container="image2pipe", pixel_format="rgb24")
    for sampling in ("middle", "seconds"):
        clip = read_clip(data, frames=4, sampling=sampling)
        assert torch.equal(clip.frames_uint8, picture.expand(4, -1, -1, -1))
        assert clip.times_seconds == (0, 0, 0, 0)
    jpeg = encode(picture, codec="mjpeg", container="image2pipe", pixel_format="yuvj444p")
    assert (read_clip(jpeg, frames=1).frames_uint8.float() - picture.float()).abs().mean() < 20
    assert probe(data).frame_count == 1


def test_the_suffix_does_not_matter(encode: Encode, tmp_path: Path) -> None:
    data = encode(10)
    expected = read_clip(data).frames_uint8
    for name in ("a.avi", "a.png", "a.txt", "a.m3u8", "a", "a.jpg%03d"):
        (tmp_path / name).write_bytes(data)
        assert torch.equal(read_clip(tmp_path / name).frames_uint8, expected)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(10_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_huge_claimed_pictures_are_refused(encode: Encode) -> None:
    for read in READERS:
        assert reason_for(png_claiming(40_000, 40_000), read)
    vp8 = bytearray(encode(4, codec="libvpx", container="ivf"))
    # The width and height of a VP8 keyframe follow its start code.
    place = vp8.index(b"\x9d\x01\x2a") + 3
    vp8[place : place + 4] = struct.pack("<HH", 16383, 16383)
    for read in READERS:
        assert reason_for(bytes(vp8), read)


def test_pictures_that_change_size_need_a_frame_size(
    encode: Encode, moving_frames: Callable[..., Tensor]
) -> None:
    parts = [
        encode(moving_frames(5, *size), codec="mpeg2video", container="mpeg2video", fps=25)
        for size in ((32, 32), (48, 64))
    ]
    data = b"".join(parts)
    with pytest.raises(VideoError, match="between 32 x 32 and 64 x 48 pixels; give a frame_size"):
        read_clip(data)
    assert read_clip(data, frames=8, frame_size=16).frames_uint8.shape == (8, 3, 16, 16)


def test_strange_metadata_does_not_matter(encode: Encode) -> None:
    data = encode(4, container="matroska")
    assert b"Lavf" in data
    assert read_clip(data.replace(b"Lavf", b"\xff\xfe\x80\xc0")).frames_uint8.shape[0] == 8


def test_an_hour_is_probed_and_sampled_exactly(hour_long: Path) -> None:
    info = probe(hour_long)
    assert (info.frame_count, info.duration_seconds, info.fps) == (3600, 3600.0, 1.0)
    clip = read_clip(hour_long, frames=4, frame_size=8)
    assert clip.times_seconds == (449.0, 1349.0, 2249.0, 3149.0)
