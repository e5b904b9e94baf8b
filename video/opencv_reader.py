"""Decoding with OpenCV, for codecs that PyAV does not know.

OpenCV reports no errors: a broken video simply has fewer frames.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reelscan.video.errors import VideoError
from reelscan.video.pyav_stream import check_container
from reelscan.video.source import MAX_PIXELS, VideoSource, open_source
from reelscan.video.timeline import Timeline

if TYPE_CHECKING:
    import cv2


class OpenCVReader:
    """One video opened with OpenCV; it turns pictures upright by itself."""

    failure = None

    def __init__(self, source: VideoSource, *, name: str, thread_count: int) -> None:
        self.name = name
        self._thread_count = thread_count
        self._file = open_source(source, name=name)
        try:
            # OpenCV would follow playlists to other files.
            check_container(self._file, name)
            self.timeline = self._counted()
        except BaseException:
            self._file.close()
            raise

    def frames_at(self, ordinals: Sequence[int]) -> Iterator[Tensor]:
        capture = self._capture()
        try:
            place = -1
            for ordinal in ordinals:
                while place < ordinal:
                    if not capture.grab():
                        raise VideoError(self.name, f"decoding stopped before frame {ordinal}")
                    place += 1
                has_frame, bgr = capture.retrieve()
                if not has_frame:
                    raise VideoError(self.name, f"frame {ordinal} cannot be decoded")
                rgb = np.ascontiguousarray(bgr[..., ::-1].transpose(2, 0, 1))
                yield torch.from_numpy(rgb)
        finally:
            capture.release()

    def recount(self) -> None:
        raise AssertionError("frames were counted by decoding them")

    def close(self) -> None:
        self._file.close()

    def _capture(self) -> "cv2.VideoCapture":
        import cv2  # Takes a tenth of a second to import, and is rarely needed.

        self._file.seek(0)
        capture: cv2.VideoCapture = cv2.VideoCapture(  # type: ignore[call-overload]
            self._file, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, self._thread_count]
        )
        if not capture.isOpened():
            raise VideoError(self.name, "cannot be opened")
        width, height = (
            int(capture.get(size)) for size in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if width * height > MAX_PIXELS:
            raise VideoError(
                self.name, f"pictures of {width} x {height} exceed {MAX_PIXELS} pixels"
            )
        return capture

    def _counted(self) -> Timeline:
        import cv2

        capture = self._capture()
        try:
            times = array("d")
            while capture.grab():
                times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            fps = capture.get(cv2.CAP_PROP_FPS)
        finally:
            capture.release()
        if not times:
            raise VideoError(self.name, "holds no video frames")
        frame_seconds = 1 / fps if fps > 0 else 0.04
        in_order = array("d", sorted(time - min(times) for time in times))
        return Timeline(times_seconds=in_order, end_seconds=in_order[-1] + frame_seconds)
