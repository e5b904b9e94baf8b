"""A few threads for kernels that release the interpreter's lock: as many as PyTorch uses.

Numba's own parallel loops would bring a second pool that competes with PyTorch's.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

PIECES_OF_THREAD = 4
"""The work is cut finer than threads, for the sake of those that other programs hold up."""


def run_tasks(run: Callable[[int, int], None], tasks: int) -> None:
    """Call run(first, stop) so that every one of so many tasks is run once; wait for all."""
    threads = min(torch.get_num_threads(), tasks)
    if threads == 1:
        run(0, tasks)
        return
    pieces = min(tasks, threads * PIECES_OF_THREAD)
    bounds = [tasks * piece // pieces for piece in range(pieces + 1)]
    list(_pool(threads, os.getpid()).map(run, bounds[:-1], bounds[1:]))


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="kernel")
