"""Ctrl-C, SIGTERM and SIGUSR1 as a wish to stop after the current step instead of in the middle.

SIGUSR1 is what schedulers send before they take a machine away (Slurm: --signal=USR1@120).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SAME_PRESS_SECONDS = 1.0
"""Launchers pass Ctrl-C on to processes that had it from the terminal already."""


@contextmanager
def stop_requests(
    should_stop: Callable[[], bool] | None = None, *, now: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether to stop.

    It is `should_stop`, if given. Otherwise it is true after the first signal; a second Ctrl-C a
    second later takes its usual effect, other signals are then ignored: the checkpoint is being
    written. Only the main thread can listen to signals; elsewhere it is never true.
    """
    if should_stop is not None:
        yield should_stop
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    requested_at: list[float] = []
    owner = os.getpid()
    usual = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def request(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            # A forked loader process: Ctrl-C reaches it too, but its batches are still wanted.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        again = bool(requested_at) and now() - requested_at[0] >= SAME_PRESS_SECONDS
        requested_at.append(now())
        if again and number == signal.SIGINT:
            restore()
            os.kill(os.getpid(), number)

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    for number in STOP_SIGNALS:
        signal.signal(number, request)
    try:
        yield lambda: bool(requested_at)
    finally:
        restore()
