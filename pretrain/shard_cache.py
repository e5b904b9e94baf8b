"""Copies of remote shards on a local disk, shared by all processes of a machine.

    FOLDER/NAME.tar       a whole shard whose SHA-256 was compared with the index
    FOLDER/NAME.partial   one being fetched
    FOLDER/locks/         files that processes lock; no content

A shard gets its name when it is whole, so a kill leaves at most a partial file, which is removed
by whoever needs room. Above the limit, what was not read for longest goes first.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from reelscan.pretrain.shard_address import download
from reelscan.pretrain.shard_index import file_sha256

ENDING, PARTIAL_ENDING = ".tar", ".partial"


class ShardCache:
    """A folder of shards of at most `max_bytes`, partial ones counted in full."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        if max_bytes < 1:
            raise ValueError(f"the cache of shards has {max_bytes} bytes; give at least 1")
        self._folder = folder
        self._max_bytes = max_bytes

    def fetch(self, address: str, *, byte_count: int, sha256: str) -> Path:
        """The local copy, which another process may remove as soon as room is needed.

        Raises OSError if the shard cannot be fetched, is not what the index says, or has no room.
        """
        # A digest of the digest: what an index says must not become a path.
        name = hashlib.sha256(f"{sha256}/{byte_count}".encode()).hexdigest()
        path = self._folder / f"{name}{ENDING}"
        if self._mark_used(path):
            return path
        with self._lock(name):
            if not self._mark_used(path):
                partial = path.with_suffix(PARTIAL_ENDING)
                self._reserve(partial, byte_count)
                try:
                    _fetch_whole(address, partial, byte_count=byte_count, sha256=sha256)
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
        return path

    def _mark_used(self, path: Path) -> bool:
        """Whether it is there; if so, it is now the one used last."""
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _lock(self, name: str) -> FileLock:
        locks = self._folder / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{name}.lock")

    def _reserve(self, partial: Path, byte_count: int) -> None:
        """Makes an empty file of the final size, so that other processes count it."""
        with self._lock("room"):
            self._make_room(byte_count, spare=partial.stem)
            with partial.open("wb") as file:
                file.truncate(byte_count)

    def _make_room(self, wanted: int, *, spare: str) -> None:
        """`spare`: name of the shard whose lock this process holds."""
        for partial in self._folder.glob(f"*{PARTIAL_ENDING}"):
            if partial.stem == spare or self._is_abandoned(partial):
                partial.unlink(missing_ok=True)
        sizes = _sizes_by_last_use(self._folder)
        held = sum(sizes.values())
        for path, size in sizes.items():
            if held + wanted <= self._max_bytes:
                return
            if path.suffix == ENDING:
                path.unlink(missing_ok=True)
                held -= size
        if held + wanted > self._max_bytes:
            raise OSError(
                f"no room for {wanted} bytes in the cache {self._folder}: {held} of at most "
                f"{self._max_bytes} are being fetched; raise data.shard_cache_bytes"
            )

    def _is_abandoned(self, partial: Path) -> bool:
        lock = self._lock(partial.stem)
        try:
            with lock.acquire(timeout=0):
                return True
        except Timeout:
            return False


def _fetch_whole(address: str, partial: Path, *, byte_count: int, sha256: str) -> None:
    with partial.open("r+b") as file:
        download(address, file)
        size = file.tell()
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    if size != byte_count:
        raise OSError(f"{address} has {size} bytes, but its index says {byte_count}")
    if file_sha256(partial) != sha256:
        raise OSError(f"{address} has other content than its index says (SHA-256)")


def _sizes_by_last_use(folder: Path) -> dict[Path, int]:
    """Bytes of shards and partial shards, what was not used for longest first."""
    found = []
    for path in folder.iterdir():
        if path.suffix in (ENDING, PARTIAL_ENDING):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, path, status.st_size))
    return {path: size for _, path, size in sorted(found)}
