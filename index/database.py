"""The SQLite file of a collection: its tables, opening it, and transactions.

Write-ahead mode with a flush at every commit: what a commit returned from survives a kill and a
power cut, a process killed at any moment leaves the last committed state, and any number of readers
see whole states beside one writer.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reelscan.index.manifest import CollectionError

DATABASE_NAME = "segments.sqlite"
LAYOUT = 2
"""Version of the tables, kept in SQLite's `user_version`; the first layout left it at 0."""
_LOCK_WAIT_SECONDS = 60.0
_CACHE_KIB = 65_536
"""Holds the segments (not the vectors) of a million, so that hits are looked up without reading."""

# Columns have the types of the schema below; sqlite3 itself does not tell.
Row = tuple[Any, ...]

# Vectors have a table of their own, a row each: what is filtered and shown stays small and quick to
# scan, and a vector is found by its id alone. Ids are never given twice, so the segments that an
# index file does not know are those with higher ids, and those it should not know are in `deleted`.
SCHEMA = f"""
CREATE TABLE videos(
    id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE,
    size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT, metadata TEXT);
CREATE TABLE segments(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    video INTEGER NOT NULL REFERENCES videos(id),
    start_seconds REAL NOT NULL, end_seconds REAL NOT NULL, metadata TEXT);
CREATE INDEX segments_by_video ON segments(video);
CREATE INDEX segments_with_metadata ON segments(id) WHERE metadata IS NOT NULL;
CREATE TABLE vectors(
    segment INTEGER PRIMARY KEY REFERENCES segments(id),
    crc32 INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE TABLE frame_codes(segment INTEGER PRIMARY KEY REFERENCES segments(id), codes BLOB NOT NULL);
CREATE TABLE deleted(segment INTEGER PRIMARY KEY, generation INTEGER NOT NULL);
CREATE INDEX deleted_by_generation ON deleted(generation);
CREATE TABLE quarantine(
    path TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT,
    reason TEXT NOT NULL, quarantined_at TEXT NOT NULL, metadata TEXT);
CREATE TABLE state(
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    generation INTEGER NOT NULL, index_stamp TEXT, index_checksums BLOB);
INSERT INTO state VALUES (1, 0, NULL, NULL);
PRAGMA user_version = {LAYOUT};
"""


class Database:
    """An open database file; safe to share between threads, which read beside one that writes."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self._reading = threading.RLock()
        self._writing = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        with self._understandable_errors():
            self._reader = _connect(path, read_only=read_only)
            try:
                self.layout = int(self._reader.execute("PRAGMA user_version").fetchone()[0])
            except BaseException:
                self._reader.close()
                raise

    @staticmethod
    def create(path: Path) -> None:
        """Write an empty database to `path`, which must not exist."""
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            # Large pages, for vectors of a few kilobytes fill small ones by halves.
            connection.execute("PRAGMA page_size = 16384")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")

    def another_reader(self) -> "Database":
        """A connection of its own, for a long snapshot that should hold nobody up."""
        return Database(self.path, read_only=True)

    def close(self) -> None:
        """Close the file; further use is an error."""
        with self._writing, self._reading:
            if self._writer is not None:
                self._writer.close()
            self._reader.close()

    def rows(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        """The rows of a query."""
        with self._reading, self._understandable_errors():
            return self._reader.execute(query, values).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything that this thread reads inside is of one moment, whatever is written."""
        with self._reading, self._understandable_errors():
            if self._reader.in_transaction:
                yield
                return
            self._reader.execute("BEGIN")
            try:
                yield
            finally:
                with suppress(sqlite3.Error):
                    self._reader.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept together when the block ends, or not at all."""
        assert not self.read_only, "a collection opened for reading only was written to"
        with self._writing, self._understandable_errors():
            if self._writer is None:
                self._writer = _connect(self.path, read_only=False)
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def shrink(self) -> None:
        """Give the space of deleted rows back to the file system, and empty the log.

        The file is written anew in one transaction, so it needs as much free space for a while.
        """
        with self._writing, self._understandable_errors():
            assert not self.read_only and self._writer is not None, "the writer opens it first"
            self._writer.execute("VACUUM")
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def free_share(self) -> float:
        """Which part of the file holds nothing, 0 to 1."""
        pages, free = (
            int(self.rows(f"PRAGMA {name}")[0][0]) for name in ("page_count", "freelist_count")
        )
        return free / max(pages, 1)

    @contextmanager
    def _understandable_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise CollectionError(f"{self.path} {_what_failed(error)}") from error
        except sqlite3.DatabaseError as error:
            raise CollectionError(
                f"{self.path} is damaged ({error}); restore it from a copy, or embed the videos "
                "again into a new collection"
            ) from error


def _what_failed(error: sqlite3.OperationalError) -> str:
    code = getattr(error, "sqlite_errorname", "")
    if code in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
        return (
            f"cannot be written ({error}): the disk is full or a limit is reached. What was stored "
            "before is kept, this change is not; free some space and go on"
        )
    if code.startswith("SQLITE_READONLY") or code == "SQLITE_CANTOPEN":
        return (
            f"cannot be used now ({error}): its folder may not be written. If another process was "
            "killed while it wrote there, open the collection once where it may be written"
        )
    return f"cannot be used now: {error}"


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the database; `path` must exist."""
    options = f"mode={'ro' if read_only else 'rw'}"
    log = path.with_name(path.name + "-wal")
    if not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size):
        # Write-ahead mode wants to create its log even for reading; where it cannot, no other
        # process can be writing either.
        options = "mode=ro&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_LOCK_WAIT_SECONDS,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    return connection
