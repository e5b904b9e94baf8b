"""Sentences of many requests, embedded in batches. E embedding width."""

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray

from reelscan.models.encoder import Encoder

_Waiting = tuple[str, "Future[NDArray[np.float32]]"]


class TextBatcher:
    """One thread that embeds whatever has come in while it embedded the last batch."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        largest_batch: int = 64,
        remembered: int = 20_000,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        """`remembered`: sentences whose vectors are kept. `on_batch` is told each batch's size."""
        self._encoder = encoder
        self._largest_batch = largest_batch
        self._room = remembered
        self._on_batch = on_batch
        self._known: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._knowing = threading.Lock()
        self._closing = False
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="text-batcher", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive() and not self._closing

    def vectors(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The vectors [E] of length 1, waiting for those that are not known."""
        waited: list[Future[NDArray[np.float32]] | NDArray[np.float32]] = []
        for text in texts:
            known = self._remembered(text)
            if known is None:
                future: Future[NDArray[np.float32]] = Future()
                self._waiting.put((text, future))
                if not self.is_alive:
                    raise RuntimeError("the service is being shut down")
                waited.append(future)
            else:
                waited.append(known)
        return [one.result() if isinstance(one, Future) else one for one in waited]

    def close(self) -> None:
        """Finish what waits, then stop."""
        self._closing = True
        self._waiting.put(None)
        self._thread.join()

    def _remembered(self, text: str) -> NDArray[np.float32] | None:
        with self._knowing:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
            return known

    def _remember(self, text: str, vector: NDArray[np.float32]) -> None:
        with self._knowing:
            self._known[text] = vector
            while len(self._known) > self._room:
                self._known.popitem(last=False)

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            ends = False
            while len(batch) < self._largest_batch and not ends:
                try:
                    another = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    ends = True
                else:
                    batch.append(another)
            self._embed(batch)
            if ends:
                return

    def _embed(self, batch: Sequence[_Waiting]) -> None:
        texts = list(dict.fromkeys(text for text, _ in batch))
        try:
            vectors = torch.nn.functional.normalize(self._encoder.encode_text(texts), dim=1).numpy()
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait, not to this thread
            for _, future in batch:
                future.set_exception(error)
            return
        self._on_batch(len(batch))
        found = dict(zip(texts, vectors, strict=True))
        for text, vector in found.items():
            self._remember(text, vector)
        for text, future in batch:
            future.set_result(found[text])
