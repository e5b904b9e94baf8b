"""Tokens of moments kept on disk for the matching head: rounded to 8 bits, bounded in bytes.

N tokens of a moment, C their width. A token is kept as 8-bit numbers times a scale of its own,
a quarter of its float32 size. What was used longest ago makes room.
"""

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reelscan.index.windowing import Windowing
from reelscan.models.encoder import Encoder
from reelscan.retrieval.moments import SearchHit

TOKENS_VERSION = 1
"""To be raised when decoding or resizing changes what an unchanged encoder sees."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens(
    key TEXT PRIMARY KEY, bytes INTEGER NOT NULL, used REAL NOT NULL,
    width INTEGER NOT NULL, scales BLOB NOT NULL, numbers BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS tokens_by_use ON tokens(used, bytes);
"""


class TokenCache:
    """A file of tokens, shared by processes; may be deleted at any time."""

    def __init__(self, path: Path, *, limit_bytes: int) -> None:
        """Raises ValueError for a limit below 1. A damaged file is made anew."""
        if limit_bytes < 1:
            raise ValueError(f"limit_bytes is {limit_bytes}; give at least 1, or no cache")
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = _connect(path)
        except sqlite3.DatabaseError:
            for part in ("", "-wal", "-shm"):
                path.with_name(path.name + part).unlink(missing_ok=True)
            self._connection = _connect(path)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def size_bytes(self) -> int:
        """Of all tokens kept."""
        with self._lock:
            return _size(self._connection)

    def get_all(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """What is known of these: float32 [N, C] by key. A failing disk counts as not knowing."""
        found: dict[str, Tensor] = {}
        with self._lock, suppress(sqlite3.Error):
            for key in keys:
                row = self._connection.execute(
                    "SELECT width, scales, numbers FROM tokens WHERE key = ?", (key,)
                ).fetchone()
                if row is not None:
                    found[key] = _unpacked(*row)
            self._connection.executemany(
                "UPDATE tokens SET used = ? WHERE key = ?", [(time.time(), key) for key in found]
            )
        return found

    def put(self, key: str, tokens: Tensor) -> None:
        """Keep tokens [N, C] as long as there is room; larger ones than the limit are not kept."""
        scales, numbers = _packed(tokens)
        size = len(scales) + len(numbers)
        if size > self.limit_bytes:
            return
        with self._lock, suppress(sqlite3.Error):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._make_room(size)
                self._connection.execute(
                    "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?)",
                    (key, size, time.time(), tokens.shape[1], scales, numbers),
                )
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                self._connection.execute("ROLLBACK")
                raise

    def _make_room(self, size: int) -> None:
        over = _size(self._connection) + size - self.limit_bytes
        oldest = self._connection.execute("SELECT key, bytes FROM tokens ORDER BY used")
        while over > 0 and (row := oldest.fetchone()) is not None:
            self._connection.execute("DELETE FROM tokens WHERE key = ?", (row[0],))
            over -= row[1]


def token_key(encoder: Encoder, hit: SearchHit, windowing: Windowing) -> str:
    """Names the tokens of a moment: the encoder, the file as it is now, and the stretch."""
    device = getattr(encoder, "device", torch.device("cpu")).type
    stat = hit.path.stat() if hit.path.is_file() else None
    described = [
        *(TOKENS_VERSION, encoder.fingerprint, repr(encoder.preprocessing), device),
        *(str(hit.path.absolute()), stat and stat.st_size, stat and stat.st_mtime_ns),
        *(hit.start_seconds, hit.end_seconds, windowing.window_seconds is None),
    ]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _packed(tokens: Tensor) -> tuple[bytes, bytes]:
    """[N, C] -> scales of float32, 8-bit numbers."""
    values = tokens.detach().float().cpu().numpy()
    scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-12) / 127
    return scales.astype("<f4").tobytes(), np.rint(values / scales).astype(np.int8).tobytes()


def _unpacked(width: int, scales: bytes, numbers: bytes) -> Tensor:
    values = np.frombuffer(numbers, np.int8).reshape(-1, width).astype(np.float32)
    return torch.from_numpy(values * np.frombuffer(scales, "<f4")[:, None])


def _size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(sum(bytes), 0) FROM tokens").fetchone()[0])


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    # Pages of evicted tokens go back to the file system, so that the file stays bounded too. Told
    # first, for it is settled with the first page.
    connection.execute("PRAGMA auto_vacuum = FULL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript(_SCHEMA)
    return connection
