"""What every decoder offers, and the choice between them."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, get_args

from torch import Tensor

from reelscan.video.errors import UnsupportedVideoError, VideoError
from reelscan.video.opencv_reader import OpenCVReader
from reelscan.video.pyav_reader import PyAVReader
from reelscan.video.source import VideoSource, source_name
from reelscan.video.timeline import Timeline

Decoder = Literal["auto", "pyav", "opencv"]


class FrameReader(Protocol):
    """One opened video."""

    name: str

    @property
    def timeline(self) -> Timeline: ...

    @property
    def failure(self) -> VideoError | None:
        """What ends the timeline before the video ends, if anything does."""
        ...

    def frames_at(self, ordinals: Sequence[int]) -> Iterator[Tensor]:
        """uint8 RGB [3, H, W] of the frames with these ascending, different ordinals.

        Raises TimelineMismatchError if decoding contradicts the timeline, so that `recount` is
        needed, and VideoError if the video is broken.
        """
        ...

    def recount(self) -> None:
        """Replace the timeline by that of the frames which decoding really yields."""
        ...

    def close(self) -> None: ...


def check_decoder(decoder: str) -> None:
    if decoder not in get_args(Decoder):
        raise ValueError(f"decoder is {decoder!r}; choose one of {list(get_args(Decoder))}")


@contextlib.contextmanager
def open_reader(
    source: VideoSource,
    *,
    decoder: Decoder = "auto",
    name: str | None = None,
    thread_count: int = 1,
    start_seconds: float = 0.0,
    end_seconds: float = math.inf,
) -> Iterator[FrameReader]:
    """Open a video for as long as the `with` block lasts.

    "auto" is PyAV, or OpenCV where PyAV does not know the codec. Frames outside
    [start, end] may be missing from the timeline of a long file.
    """
    called = source_name(source, name)
    reader: FrameReader
    if decoder == "opencv":
        reader = OpenCVReader(source, name=called, thread_count=thread_count)
    else:
        try:
            reader = PyAVReader(
                source,
                name=called,
                thread_count=thread_count,
                start_seconds=start_seconds,
                end_seconds=end_seconds,
            )
        except UnsupportedVideoError as unsupported:
            if decoder == "pyav":
                raise
            reader = _open_after(unsupported, source, thread_count)
    try:
        yield reader
    finally:
        reader.close()


def _open_after(
    unsupported: UnsupportedVideoError, source: VideoSource, thread_count: int
) -> FrameReader:
    name = unsupported.name
    try:
        return OpenCVReader(source, name=name, thread_count=thread_count)
    except VideoError as error:
        both = f"PyAV: {unsupported.reason}; OpenCV: {error.reason}"
        raise VideoError(name, both) from unsupported
