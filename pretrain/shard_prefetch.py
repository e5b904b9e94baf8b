"""Fetches remote shards into the cache before they are needed, in a process of its own.

All samples of the shards that are shuffled together are in use at once, then those of the next
ones: without this, training would stand still at each change.
"""

import multiprocessing
import signal
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType

from reelscan.pretrain.shard_cache import ShardCache
from reelscan.pretrain.shard_store import StoredShard

REMEMBERED = 10_000


class ShardPrefetch:
    """A context; `want` names what is needed soon, in the order in which it is needed.

    What cannot be fetched is left to whoever reads it, who tries again and tells.
    """

    def __init__(self, cache: ShardCache) -> None:
        self._cache = cache
        self._asked: dict[tuple[str, int], None] = {}

    def __enter__(self) -> "ShardPrefetch":
        context = multiprocessing.get_context()
        orders, self._orders = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_fetch_all, args=(orders, self._orders, self._cache), daemon=True
        )
        self._process.start()
        orders.close()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.join()
        self._orders.close()

    def want(self, shards: Iterable[tuple[StoredShard, int]]) -> None:
        """Asks for each shard once in each pass over its corpus; pairs of shard and pass."""
        for shard, pass_number in shards:
            asked = (shard.address, pass_number)
            if asked in self._asked:
                continue
            self._asked[asked] = None
            if len(self._asked) > REMEMBERED:
                del self._asked[next(iter(self._asked))]
            with suppress(OSError):
                self._orders.send(shard)


def _fetch_all(orders: Connection, their_end: Connection, cache: ShardCache) -> None:
    """Until the training process closes the pipe, or ends in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    their_end.close()
    while True:
        try:
            shard: StoredShard = orders.recv()
        except EOFError:
            return
        with suppress(OSError):
            cache.fetch(shard.address, byte_count=shard.byte_count, sha256=shard.sha256)
