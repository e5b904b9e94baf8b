"""Bringing a database of the first layout, with vectors among the segments, to today's tables."""

import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

from reelscan.index.database import LAYOUT, SCHEMA, Database
from reelscan.index.manifest import CollectionError

_OLD_INDEX_NAME = "vectors.faiss"
_TABLES = ("videos", "segments", "quarantine", "state")


def bring_up_to_date(
    folder: Path,
    database: Database,
    *,
    take_lock: Callable[[], None],
    on_notice: Callable[[str], None],
) -> bool:
    """Change a database of the first layout where it may be written; says whether it was one.

    Raises:
        CollectionError: a newer layout, or an old one that was opened for reading only.
    """
    if database.layout == LAYOUT:
        return False
    if database.layout > LAYOUT:
        raise CollectionError(
            f"{database.path} is of a newer version ({database.layout}, this reelscan reads up to "
            f"{LAYOUT}): upgrade reelscan to open this collection"
        )
    if database.read_only:
        raise CollectionError(
            f"{folder} was made by an earlier reelscan: "
            f"run `reelscan index rebuild {folder}` once to bring it up to date"
        )
    take_lock()
    on_notice(f"{folder} was made by an earlier reelscan: bringing it up to date")
    _upgrade(database)
    (folder / _OLD_INDEX_NAME).unlink(missing_ok=True)
    return True


def _upgrade(database: Database) -> None:
    """Move everything over in one transaction; segments keep their ids."""
    assert database.layout == 0, f"layout {database.layout} needs no upgrade"
    with database.transaction() as connection:
        connection.create_function("crc32_of", 1, zlib.crc32, deterministic=True)
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("DROP INDEX segments_by_video")
        for table in _TABLES:
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        for statement in SCHEMA.split(";"):
            connection.execute(statement)
        _copy(connection)
        for table in ("segments", "videos", "quarantine", "state"):
            connection.execute(f"DROP TABLE old_{table}")
    database.layout = LAYOUT


def _copy(connection: sqlite3.Connection) -> None:
    connection.execute(
        "INSERT INTO videos(path, size_bytes, mtime_ns, sha256)"
        " SELECT path, size_bytes, mtime_ns, sha256 FROM old_videos"
    )
    connection.execute(
        "INSERT INTO segments"
        " SELECT old.id, videos.id, start_seconds, end_seconds, nullif(old.metadata, '{}')"
        " FROM old_segments AS old JOIN videos ON videos.path = old.video ORDER BY old.id"
    )
    connection.execute(
        "INSERT INTO vectors SELECT id, crc32_of(vector), vector FROM old_segments ORDER BY id"
    )
    connection.execute("INSERT INTO quarantine SELECT *, NULL FROM old_quarantine")
    connection.execute("UPDATE state SET generation = (SELECT generation + 1 FROM old_state)")
