"""Decoding videos in threads, ahead of the encoder, with a bounded number of clips waiting."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reelscan.video.errors import VideoError
from reelscan.video.windows import Window

_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """One event of a video: a window, its failure, or (with neither) its end."""

    video: str
    window: Window | None = None
    failure: str | None = None


def decode_ahead(
    videos: Iterable[str],
    *,
    read: Callable[[str], Iterator[Window]],
    workers: int,
    waiting: int,
) -> Iterator[Decoded]:
    """Run `read` over `videos` in `workers` threads; at most `waiting` windows wait to be taken.

    A video's events come in order; events of different videos mix when `workers` is above 1.
    `VideoError` and `OSError` become failures, anything else is raised here.
    """
    events: queue.Queue[Decoded] = queue.Queue(maxsize=waiting)
    stop = threading.Event()
    remaining = iter(videos)
    remaining_lock = threading.Lock()

    def put(event: Decoded) -> None:
        while not stop.is_set():
            try:
                events.put(event, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return

    def work() -> None:
        while not stop.is_set():
            with remaining_lock:
                video = next(remaining, None)
            if video is None:
                return
            try:
                for window in read(video):
                    put(Decoded(video=video, window=window))
                    if stop.is_set():
                        return
            except VideoError as error:
                put(Decoded(video=video, failure=error.reason))
            except OSError as error:
                put(Decoded(video=video, failure=error.strerror or str(error)))
            else:
                put(Decoded(video=video))

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    running = [pool.submit(work) for _ in range(workers)]
    try:
        while True:
            all_done = all(worker.done() for worker in running)
            for worker in running:
                if worker.done():
                    worker.result()
            try:
                yield events.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if all_done:
                    return
    finally:
        stop.set()
        pool.shutdown()
