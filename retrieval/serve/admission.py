"""How much is worked on at once, who waits, and who is sent away."""

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OverloadedError(Exception):
    """Come again later. `status` is that of the answer."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class Admission:
    """Threads for one kind of work, and a queue of limited length before them."""

    def __init__(
        self,
        name: str,
        *,
        at_once: int,
        waiting: int,
        per_client: int,
        seconds: float,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        """`per_client`: of those at work and waiting, the most from one address.

        `prepare` is done once in each thread.
        """
        self._threads = ThreadPoolExecutor(
            max_workers=at_once, thread_name_prefix=name, initializer=prepare
        )
        self._most = at_once + waiting
        self._per_client = per_client
        self._seconds = seconds
        self._inside: Counter[str] = Counter()

    @property
    def inside(self) -> int:
        """Requests at work or waiting."""
        return self._inside.total()

    async def run(self, work: Callable[[], T], *, client: str) -> T:
        """What `work` gives, done in a thread.

        Raises OverloadedError if there is no place (503), the client has too many (429), or it
        took too long (503). Its place is free again when the work has really ended.
        """
        if self._inside[client] >= self._per_client:
            raise OverloadedError(
                f"{self._per_client} of your requests are still being answered: wait for some",
                status=429,
            )
        if self.inside >= self._most:
            raise OverloadedError("too many requests at once: try again in a moment", status=503)
        loop = asyncio.get_running_loop()
        try:
            future = self._threads.submit(work)
        except RuntimeError:
            raise OverloadedError("the service is being shut down", status=503) from None
        self._inside[client] += 1
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave, client))
        try:
            # Giving up cancels what still waits; what is at work keeps its place until it ends.
            return await asyncio.wait_for(asyncio.wrap_future(future), self._seconds)
        except TimeoutError:
            raise OverloadedError(
                f"no answer within {self._seconds:g} s: the service is overloaded, try again",
                status=503,
            ) from None

    def close(self) -> None:
        """Finish what is at work; what waits is given up."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _leave(self, client: str) -> None:
        self._inside[client] -= 1
        if self._inside[client] <= 0:
            del self._inside[client]
