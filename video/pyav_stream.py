"""A video stream opened with PyAV: its packets, and their decoding.

Opening is where files that are no videos, or hostile ones, are turned away.
"""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import BinaryIO

import av
from av.container import InputContainer
from av.stream import Disposition

from reelscan.video.errors import UnsupportedVideoError, VideoError
from reelscan.video.packet_table import VideoPacket, packets_with_data
from reelscan.video.source import MAX_PIXELS, VideoSource, open_source

# Playlists and other formats that name further files are left out. Those of audio and pictures are
# in, the former for the sake of a clear message.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegvideo,mpegts,asf,ogg,mxf,rm,nut,ivf,dv,"
    "h261,h263,h264,hevc,m4v,obu,vc1,mjpeg,yuv4mpegpipe,gif,apng,png_pipe,jpeg_pipe,webp_pipe,"
    "bmp_pipe,tiff_pipe,aac,flac,mp3,wav"
)
_READ_BYTES = 1 << 18
_DEFAULT_FPS = Fraction(25)


class PyAVStream:
    """The best video stream of an open file. Close it when done."""

    def __init__(self, source: VideoSource, *, name: str, thread_count: int) -> None:
        self.name = name
        with contextlib.ExitStack() as opened:
            self._file = opened.enter_context(open_source(source, name=name))
            self._container = opened.enter_context(_opened_container(self._file, name))
            self._stream = _video_stream(self._container, name)
            self._opened = opened.pop_all()
        self._codec = self._stream.codec_context
        self._codec.thread_count = thread_count
        if thread_count != 1:
            self._codec.thread_type = "AUTO"
        self._codec.options = {"max_pixels": str(MAX_PIXELS)}

    @property
    def time_base(self) -> Fraction:
        """Seconds that one unit of pts lasts."""
        return self._stream.time_base or Fraction(1, 90_000)

    @property
    def header_fps(self) -> Fraction:
        """What the header claims; a guess where it is silent."""
        return self._stream.average_rate or self._stream.guessed_rate or _DEFAULT_FPS

    @property
    def codec_name(self) -> str:
        """FFmpeg's name of the format, such as "h264"; not that of the decoder."""
        return str(self._codec.codec.canonical_name)

    @property
    def file_bytes(self) -> int:
        """Length of the whole file."""
        here = self._file.tell()
        length = self._file.seek(0, os.SEEK_END)
        self._file.seek(here)
        return length

    def packets(self) -> Iterator[VideoPacket]:
        """From the first keyframe at or behind the present position to the end of the stream."""
        try:
            yield from packets_with_data(self._container.demux(self._stream))
        except av.FFmpegError as error:
            raise VideoError(self.name, f"reading it fails: {error.strerror}") from error
        except IndexError:
            # All packets were read. PyAV then asks for those of streams that came up meanwhile,
            # which it does not know.
            return

    @property
    def can_seek(self) -> bool:
        """Whether packets behind a seek are those that reading everything yields.

        In MPEG streams, for one, their times differ.
        """
        return self._container.format.name in ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")

    def seek(self, pts: int) -> None:
        """Move to a keyframe before `pts`, or stay; the next packet tells."""
        with contextlib.suppress(av.FFmpegError):
            self._container.seek(pts, stream=self._stream)

    def decode(self, packet: "VideoPacket | None") -> list[av.VideoFrame]:
        """Frames that are ready after this packet; None, the end, makes all others ready."""
        try:
            return self._codec.decode(packet)
        except av.FFmpegError as error:
            pts = None if packet is None else packet.pts
            start = self._stream.start_time or 0
            place = (
                "at its end" if pts is None else f"at {float((pts - start) * self.time_base):.2f} s"
            )
            raise VideoError(self.name, f"decoding fails {place}: {error.strerror}") from error

    def flush(self) -> None:
        """Forget all earlier packets; the next one has to be a keyframe."""
        self._codec.flush_buffers()

    def close(self) -> None:
        self._opened.close()


def check_container(file: BinaryIO, name: str) -> None:
    """Raise VideoError unless the file is in a format that cannot name other files."""
    file.seek(0)
    _opened_container(file, name).close()
    file.seek(0)


def _opened_container(file: BinaryIO, name: str) -> InputContainer:
    try:
        return av.open(
            file,
            mode="r",
            options={"max_pixels": str(MAX_PIXELS)},
            # File formats may name further files; no protocol is left to open them with.
            container_options={"protocol_whitelist": "", "format_whitelist": _CONTAINERS},
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
        )
    except av.ArgumentError as error:
        raise VideoError(name, "is in none of the formats that are read") from error
    except av.FFmpegError as error:
        raise VideoError(name, f"is no readable video: {error.strerror}") from error


def _video_stream(container: InputContainer, name: str) -> av.VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & Disposition.attached_pic:
        kinds = sorted({stream.type for stream in container.streams})
        raise VideoError(name, f"has no video stream (only: {', '.join(kinds) or 'nothing'})")
    if stream.codec_context is None:
        raise UnsupportedVideoError(name, "there is no decoder for its codec")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise VideoError(name, f"pictures of {width} x {height} exceed {MAX_PIXELS} pixels")
    return stream
