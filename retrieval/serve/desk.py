"""Takes requests in and gives them to the service's threads: searches apart from decoding."""

import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import faiss
from starlette.requests import Request

from reelscan.retrieval.serve.admission import Admission
from reelscan.retrieval.serve.service import SearchService
from reelscan.retrieval.serve.settings import ServeSettings

T = TypeVar("T")


class Desk:
    """A service with its queues. Decoding and reranking, which are slow, wait in one of their own.

    So a person's search does not wait for thirty thumbnails.
    """

    def __init__(self, service: SearchService, *, settings: ServeSettings) -> None:
        self.service = service
        self.settings = settings
        self._quick = self._admission("search", at_once=settings.searching)
        self._slow = self._admission("decode", at_once=max(1, (os.cpu_count() or 2) // 2))

    def _admission(self, name: str, *, at_once: int) -> Admission:
        # Searches at work at the same time share the cores, rather than wait for each other's.
        threads = max(1, (os.cpu_count() or 1) // at_once)
        return Admission(
            name,
            at_once=at_once,
            waiting=self.settings.waiting,
            per_client=self.settings.waiting_per_client,
            seconds=self.settings.answer_seconds,
            prepare=partial(faiss.omp_set_num_threads, threads),
        )

    async def quick(self, request: Request, work: Callable[[], T]) -> T:
        """Raises OverloadedError, and what `work` raises."""
        return await self._quick.run(work, client=_client(request))

    async def slow(self, request: Request, work: Callable[[], T]) -> T:
        """The same for what decodes or reads pairs with the model."""
        return await self._slow.run(work, client=_client(request))

    def metrics_text(self) -> str:
        """For Prometheus."""
        inside = "Requests at work or waiting"
        return self.service.metrics.text(
            {
                "reelscan_searches_inside": (f"{inside}: searches.", self._quick.inside),
                "reelscan_decodes_inside": (f"{inside}: decoding, reranking.", self._slow.inside),
                "reelscan_segments": ("Stored segments.", len(self.service.collection)),
            }
        )

    def close(self) -> None:
        """Finish what is at work."""
        self._quick.close()
        self._slow.close()
        self.service.close()


def _client(request: Request) -> str:
    return request.client.host if request.client else ""
