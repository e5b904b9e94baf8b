"""Matching logits, one video after the other, in a file that survives being killed.

Records of a video's number, a count and so many float32, each with its checksum, appended in one
write. What a kill left unfinished at the end is cut off when the file is opened again.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

_HEAD = struct.Struct("<III")


class PairJournal:
    """The logits of whole videos; use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Raises ValueError when another process writes the same journal."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not "a": an appending file ignores seeks, and what is broken has to be cut off.
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        _lock(self._file.fileno(), path)
        self._records: dict[int, NDArray[np.float32]] = {}
        end = 0
        for video, logits, behind in self._read():
            self._records[video] = logits
            end = behind
        self._file.truncate(end)
        self._file.seek(end)

    def __enter__(self) -> "PairJournal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def logits(self, video: int, *, count: int) -> NDArray[np.float32] | None:
        """What an earlier run left for this video, if it has that many."""
        found = self._records.get(video)
        return found if found is not None and len(found) == count else None

    def add(self, video: int, logits: NDArray[np.float32]) -> None:
        """Keep a video's logits."""
        content = np.ascontiguousarray(logits, dtype="<f4").tobytes()
        head = _HEAD.pack(video, len(logits), zlib.crc32(content, video))
        record = memoryview(head + content)
        while record:
            record = record[self._file.write(record) :]

    def _read(self) -> Iterator[tuple[int, NDArray[np.float32], int]]:
        """Records up to the first that is unfinished or damaged, each with where it ends."""
        content = self._file.read()
        place = 0
        while place + _HEAD.size <= len(content):
            video, count, checksum = _HEAD.unpack_from(content, place)
            start, end = place + _HEAD.size, place + _HEAD.size + 4 * count
            if end > len(content) or zlib.crc32(content[start:end], video) != checksum:
                return
            yield video, np.frombuffer(content[start:end], "<f4").astype(np.float32), end
            place = end


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows: two writers are the user's affair there
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ValueError(
            f"another process is reranking the same videos and texts ({path}): wait for it"
        ) from error
    except OSError:  # a file system without locks
        return
