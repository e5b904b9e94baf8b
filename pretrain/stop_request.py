"""Ctrl-C and SIGTERM as a wish to stop after the current step instead of an end in the middle."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_requests(should_stop: Callable[[], bool] | None = None) -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether to stop.

    It is `should_stop`, if given. Otherwise it is true after the first signal; a second signal
    takes its usual effect. Only the main thread can listen to signals; elsewhere it is never true.
    """
    if should_stop is not None:
        yield should_stop
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested = threading.Event()
    owner = os.getpid()
    usual = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def request(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            # A forked loader process: Ctrl-C reaches it too, but its batches are still wanted.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        requested.set()
        restore()

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    for number in STOP_SIGNALS:
        signal.signal(number, request)
    try:
        yield requested.is_set
    finally:
        restore()
