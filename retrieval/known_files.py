"""What was found out about video files, so that a file is read through only once.

A file is known again by path, size and modification time, and named by the hash of its content, so
that copies and moved files share features.
"""

import hashlib
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path

from reelscan.video.errors import VideoError
from reelscan.video.probe import probe

_FORMAT = 1
_TABLE = """
create table if not exists files (
    path text primary key, size_bytes integer, mtime_ns integer,
    sha256 text, duration_seconds real, fps real
)
"""


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """A video file that could be opened."""

    sha256: str
    """Of the whole content."""
    duration_seconds: float
    fps: float
    """Mean frames per second."""


class KnownFiles:
    """A small database of video files; may be used from several threads and processes."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _open(path)
        self._lock = threading.Lock()

    def close(self) -> None:
        """Release the database."""
        self._connection.close()

    def look(self, path: Path, *, name: str) -> KnownFile:
        """What the file is, opened and read through if it is new or changed.

        Raises VideoError if it is missing or cannot be opened.
        """
        try:
            stat = path.stat()
        except OSError as error:
            raise VideoError(name, error.strerror or "cannot be read") from error
        key = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
        query = "select sha256, duration_seconds, fps from files where path = ? and size_bytes = ?"
        with self._lock:
            row = self._connection.execute(f"{query} and mtime_ns = ?", key).fetchone()
        if row is not None:
            return KnownFile(sha256=row[0], duration_seconds=row[1], fps=row[2])
        info = probe(path, name=name)
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise VideoError(name, error.strerror or "cannot be read") from error
        found = KnownFile(sha256=sha256, duration_seconds=info.duration_seconds, fps=info.fps)
        row = (*key, found.sha256, found.duration_seconds, found.fps)
        with self._lock, self._connection:
            self._connection.execute("insert or replace into files values (?, ?, ?, ?, ?, ?)", row)
        return found


def _open(path: Path) -> sqlite3.Connection:
    """The database; a damaged one, or one of another format, is replaced: it is only a memory."""
    try:
        connection = _connect(path)
        if connection.execute("pragma user_version").fetchone()[0] in (0, _FORMAT):
            connection.execute(_TABLE)
            connection.execute(f"pragma user_version = {_FORMAT}")
            return connection
        connection.close()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise ValueError(f"{path} cannot be used ({error}): name another --cache") from error
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink()
    connection = _connect(path)
    connection.execute(_TABLE)
    connection.execute(f"pragma user_version = {_FORMAT}")
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60.0, check_same_thread=False)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    return connection
