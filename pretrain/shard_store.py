"""Reads samples from their places in shards, local or remote, and deals with what fails.

A shard that cannot be read is tried again after pauses that double, in case a server or a network
disk was busy. Then it is left alone until the next pass over its corpus.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reelscan.pretrain.shard_address import is_remote, read_range
from reelscan.pretrain.shard_cache import ShardCache
from reelscan.pretrain.shard_rows import IndexedSample, Member

MAX_GAP_BYTES = 1 << 16

Read = TypeVar("Read")


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a shard is tried before it is given up."""

    times: int = 3
    """Tries after the first."""
    first_pause_seconds: float = 0.5
    """Before the second try; each further pause is twice as long."""

    def __post_init__(self) -> None:
        if self.times < 0 or not self.first_pause_seconds >= 0:
            raise ValueError(
                f"a shard is tried {self.times} times more after "
                f"{self.first_pause_seconds} seconds; give at least 0 for both"
            )

    def until_read(
        self, read: Callable[[], Read], *, pause: Callable[[float], None] = time.sleep
    ) -> Read:
        """What `read` gives at last. Raises the OSError of its last try."""
        for number in range(self.times):
            try:
                return read()
            except OSError:
                pause(self.first_pause_seconds * 2**number)
        return read()


@dataclass(frozen=True, kw_only=True)
class StoredShard:
    """One tar file, as its index describes it."""

    address: str
    """Path, or remote address."""
    name: str
    """For messages: the file's name without its folder."""
    byte_count: int
    sha256: str


class ShardLostError(Exception):
    """A shard that could not be read, also not later; the text says why."""


class ShardStore:
    """The shards of a run. `cache`: where remote ones are kept; None reads parts of them as needed.

    `pause`: waits for so many seconds.
    """

    def __init__(
        self,
        *,
        cache: ShardCache | None = None,
        retries: Retries | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cache = cache
        self._retries = retries or Retries()
        self._pause = pause
        self._quarantine: dict[str, tuple[int, str]] = {}
        """Address -> pass in which it failed, and why."""

    def is_quarantined(self, shard: StoredShard, *, pass_number: int) -> bool:
        return self._quarantine.get(shard.address, (None, ""))[0] == pass_number

    def read(
        self, shard: StoredShard, sample: IndexedSample, *, pass_number: int
    ) -> tuple[bytes, bytes]:
        """Media and description of a sample. Raises `ShardLostError`.

        Waits and tries again if the shard cannot be read, but only once a pass.
        """
        if self.is_quarantined(shard, pass_number=pass_number):
            raise ShardLostError(self._quarantine[shard.address][1])
        try:
            return self._retries.until_read(
                lambda: self._read_once(shard, sample), pause=self._pause
            )
        except OSError as error:
            reason = f"cannot be read: {error}"
            self._quarantine[shard.address] = pass_number, reason
            raise ShardLostError(reason) from error

    def _read_once(self, shard: StoredShard, sample: IndexedSample) -> tuple[bytes, bytes]:
        media, description = sample.media, sample.description
        start = min(media.offset, description.offset)
        end = max(media.offset + media.size, description.offset + description.size)
        if end - start > media.size + description.size + MAX_GAP_BYTES:
            return self._member(shard, media), self._member(shard, description)
        # They lie side by side as a rule: one read gets both.
        data = self._bytes(shard, start=start, size=end - start)
        return _part(data, media, start), _part(data, description, start)

    def _member(self, shard: StoredShard, member: Member) -> bytes:
        return self._bytes(shard, start=member.offset, size=member.size)

    def _bytes(self, shard: StoredShard, *, start: int, size: int) -> bytes:
        if not is_remote(shard.address):
            return _read_file(Path(shard.address), shard, start=start, size=size)
        if self._cache is None:
            return read_range(shard.address, start=start, size=size)
        path = self._cache.fetch(shard.address, byte_count=shard.byte_count, sha256=shard.sha256)
        return _read_file(path, shard, start=start, size=size)


def _part(data: bytes, member: Member, start: int) -> bytes:
    return data[member.offset - start : member.offset - start + member.size]


def _read_file(path: Path, shard: StoredShard, *, start: int, size: int) -> bytes:
    # Opened for each sample: an open file would keep its place on the disk after the cache has
    # removed it, and opening costs next to nothing beside decoding.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = os.fstat(descriptor).st_size
        if found != shard.byte_count:
            raise OSError(f"{path} has {found} bytes, but its index says {shard.byte_count}")
        data = os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)
    if len(data) != size:
        raise OSError(f"{path} gave {len(data)} of {size} bytes")
    return data
