"""Which shards a corpus consists of: what its index says, read from a path or an address."""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from reelscan.pretrain.shard_address import (
    base_name,
    beside,
    check_driver,
    is_remote,
    normal_address,
    read_whole,
)
from reelscan.pretrain.shard_index import INDEX_ENDING, parse_index
from reelscan.pretrain.shard_rows import IndexedSample, SampleRows
from reelscan.pretrain.shard_store import Retries, StoredShard


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A set of shards with a name of its own, its samples numbered over all of them."""

    name: str
    """Part of every sample id, so that corpora do not share any: name and content of the set."""
    shards: tuple[StoredShard, ...]
    rows: tuple[SampleRows, ...]
    """For each shard its samples."""

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        """For each shard the number of the first sample after it."""
        return np.cumsum([len(rows) for rows in self.rows])

    @property
    def sample_count(self) -> int:
        return sum(len(rows) for rows in self.rows)

    @property
    def is_remote(self) -> bool:
        return any(is_remote(shard.address) for shard in self.shards)

    def find(self, number: int) -> tuple[StoredShard, IndexedSample]:
        """Sample `number`, from 0, and its shard."""
        shard, row = self.place(number)
        return self.shards[shard], self.rows[shard][row]

    def place(self, number: int) -> tuple[int, int]:
        """The number of the shard of sample `number`, and its place in the shard."""
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return shard, number - int(self._ends[shard]) + len(self.rows[shard])

    def window_bytes(self, shards: int) -> int:
        """Bytes of the largest so many shards together."""
        return sum(sorted(shard.byte_count for shard in self.shards)[-shards:])


def open_corpus(index: str | os.PathLike[str], *, retries: Retries | None = None) -> Corpus:
    """`index`: path or address of a `NAME.index.json`; its shards lie beside it.

    Raises ValueError if there is no readable index with samples, or no driver for the address.
    """
    address = normal_address(index)
    if not base_name(address).endswith(INDEX_ENDING):
        raise ValueError(
            f"{address} does not end in {INDEX_ENDING}: give the index of a set of shards "
            "(`reelscan shards index` makes one for tar files that have none)"
        )
    check_driver(address)
    try:
        tries = (retries or Retries()) if is_remote(address) else Retries(times=0)
        content = tries.until_read(lambda: _read_index(address))
    except OSError as error:
        raise ValueError(f"the index {address} cannot be read: {error}") from error
    found = parse_index(content, name=address)
    if found.sample_count == 0:
        raise ValueError(f"{address} lists no samples: choose another set")
    digest = hashlib.sha256("".join(shard.sha256 for shard in found.shards).encode("utf-8"))
    return Corpus(
        name=f"{found.name}-{digest.hexdigest()}",
        shards=tuple(
            StoredShard(
                address=beside(address, shard.file),
                name=shard.file,
                byte_count=shard.byte_count,
                sha256=shard.sha256,
            )
            for shard in found.shards
        ),
        rows=tuple(
            shard.samples if isinstance(shard.samples, SampleRows) else SampleRows(shard.samples)
            for shard in found.shards
        ),
    )


def _read_index(address: str) -> bytes:
    try:
        return read_whole(address)
    except FileNotFoundError as error:
        # Most likely mistyped: no reason to try again.
        raise ValueError(f"there is no index {address}: check the address") from error
