"""One writer at a time: a lock on a file of the collection, which dies with its process."""

import json
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from reelscan.index.manifest import CollectionError

LOCK_NAME = "writer.lock"


class CollectionBusy(CollectionError):  # noqa: N818 - read as "the collection is busy"
    """Another process writes to the collection."""


class WriterLock:
    """The right to write to a collection; taken once, held until `release` or the process ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock, if it is not held already; never waits.

        Raises:
            CollectionBusy: another writer holds it, in this process or another.
            CollectionError: the folder may not be written.
        """
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise CollectionError(
                f"{self._path.parent} cannot be written ({error.strerror}): copy the collection to "
                "where it may be changed, or open it for reading only"
            ) from error
        try:
            _lock(descriptor, lambda: self._holder(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._sign(descriptor)

    def release(self) -> None:
        """Let others write."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _sign(self, descriptor: int) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        who = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(who).encode(), 0)
        except OSError:
            # Only said for people; on a full disk the lock itself still holds.
            return

    def _holder(self, descriptor: int) -> str:
        try:
            who = json.loads(os.pread(descriptor, 1000, 0))
            by = f"process {who['process']} on {who['host']} since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            by = "another process"
        return f"{self._path.parent} is being written by {by}: wait until it is done, or stop it"


def _lock(descriptor: int, holder: Callable[[], str]) -> None:
    try:
        import fcntl
    except ImportError as error:  # Windows
        raise CollectionError(
            "collections are written on Linux and macOS only: this system has no file locks "
            "that end with their process"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CollectionBusy(holder()) from None
    except OSError as error:
        raise CollectionError(
            f"the file system of the collection has no locks ({error.strerror}): "
            "keep it on a local disk, or one that has them"
        ) from error
