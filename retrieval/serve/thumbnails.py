"""Pictures of single frames, as JPEG, remembered while there is room. H x W pixels."""

import threading
from collections import OrderedDict
from pathlib import Path

import cv2
import numpy as np

from reelscan.video.decode import read_frame

HEIGHTS = (90, 180, 360, 720)
_QUALITY = 82
_Key = tuple[str, int, int, int, int]


class Thumbnails:
    """Frames of videos at a few heights."""

    def __init__(self, *, room_bytes: int = 128 << 20) -> None:
        self._room = room_bytes
        self._held = 0
        self._known: OrderedDict[_Key, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def jpeg(self, path: Path, seconds: float, *, height: int) -> bytes:
        """The frame shown at `seconds`; raises VideoError, OSError."""
        stat = path.stat()
        key = (str(path), stat.st_size, stat.st_mtime_ns, round(seconds * 100), height)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        picture = _jpeg(path, seconds, height)
        with self._lock:
            if key not in self._known:
                self._known[key] = picture
                self._held += len(picture)
            while self._held > self._room and len(self._known) > 1:
                self._held -= len(self._known.popitem(last=False)[1])
        return picture


def _jpeg(path: Path, seconds: float, height: int) -> bytes:
    frame = read_frame(path, seconds, name=path.name)
    _, rows, columns = frame.shape
    pixels = np.ascontiguousarray(frame.permute(1, 2, 0).numpy()[:, :, ::-1])
    if rows > height:
        width = max(1, round(columns * height / rows))
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    done, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, "a frame of the sizes that are decoded can be written as JPEG"
    return bytes(encoded.tobytes())
