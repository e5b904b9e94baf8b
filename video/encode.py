"""Frames to video files.

Axes: T frames, H x W pixels; colours are RGB.
"""

import io
import os
import secrets
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.codec.codec import UnknownCodecError
from torch import Tensor

_CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}


def write_video(
    path: str | os.PathLike[str],
    frames_uint8: Tensor,
    *,
    fps: float | Fraction,
    codec: str = "libx264",
    crf: int = 23,
    keyframe_seconds: float | None = None,
    pixel_format: str = "yuv420p",
    preset: str | None = None,
) -> None:
    """Encode to a file: the old content or the whole new one is there, never a part.

    The suffix of `path` tells the container. For arguments and errors see `encode_video`.
    """
    path = Path(path)
    container = _CONTAINERS.get(path.suffix.lower())
    if container is None:
        raise ValueError(f"{path} ends in {path.suffix!r}; use one of {', '.join(_CONTAINERS)}")
    data = encode_video(
        frames_uint8,
        fps=fps,
        container=container,
        codec=codec,
        crf=crf,
        keyframe_seconds=keyframe_seconds,
        pixel_format=pixel_format,
        preset=preset,
    )
    _write_atomically(path, data)


def encode_video(
    frames_uint8: Tensor,
    *,
    fps: float | Fraction,
    container: str = "mp4",
    codec: str = "libx264",
    crf: int = 23,
    keyframe_seconds: float | None = None,
    pixel_format: str = "yuv420p",
    preset: str | None = None,
) -> bytes:
    """Encode [T, 3, H, W] frames; the same frames and library give the same bytes.

    `container`, `codec`, `pixel_format`: FFmpeg's names. `crf`: quality of codecs that have it, 0
    the best. `keyframe_seconds`: the longest time between keyframes; shorter makes seeking cheaper.
    `preset`: how hard x264 and x265 try, "ultrafast" to "veryslow"; None: their default.

    Raises ValueError for odd sizes if the pixel format halves the colours (the default does), and
    for what FFmpeg refuses.
    """
    rate = _checked_rate(frames_uint8, fps, pixel_format)
    # With its macroblock tree x264 reads memory that it never set, so bytes could differ.
    options = {"crf": str(crf), "mbtree": "0", **({"preset": preset} if preset else {})}
    if keyframe_seconds is not None:
        if not keyframe_seconds > 0:
            raise ValueError(f"keyframe_seconds is {keyframe_seconds}; give a number above 0")
        options["g"] = str(max(1, round(keyframe_seconds * rate)))
    encoded = io.BytesIO()
    _check_codec(codec)
    try:
        with av.open(encoded, "w", format=container, options={"fflags": "+bitexact"}) as output:
            stream = output.add_stream(codec, rate=rate, options=options)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width = frames_uint8.shape[-2:]
            stream.pix_fmt = pixel_format
            # The number of threads is written into H.264 streams, and may change their bits.
            stream.codec_context.thread_count = 1
            for frame in frames_uint8:
                rgb = np.ascontiguousarray(frame.permute(1, 2, 0).numpy(force=True))
                output.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            output.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise ValueError(
            f"FFmpeg cannot write {list(frames_uint8.shape)} as {pixel_format} {codec} in "
            f"{container}: {error.strerror}"
        ) from error
    return encoded.getvalue()


def _check_codec(codec: str) -> None:
    try:
        kind = av.Codec(codec, "w").type
    except UnknownCodecError:
        kind = "unknown"
    if kind != "video":
        raise ValueError(
            f"{codec} is no video encoder of FFmpeg ({kind}); use libx264, for instance"
        )


def _checked_rate(frames_uint8: Tensor, fps: float | Fraction, pixel_format: str) -> Fraction:
    shape = list(frames_uint8.shape)
    if frames_uint8.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or 0 in shape:
        raise ValueError(
            f"frames are {frames_uint8.dtype} {shape}; give torch.uint8 [T, 3, H, W], none 0"
        )
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps is {fps}; give frames per second, above 0")
    if "420" in pixel_format and (shape[2] % 2 or shape[3] % 2):
        raise ValueError(
            f"frames are {shape[3]} x {shape[2]} pixels, but {pixel_format} needs even sizes: crop "
            'or pad them, or pass pixel_format="yuv444p"'
        )
    return Fraction(fps).limit_denominator(100_000)


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
