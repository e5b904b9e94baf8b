"""Writing a whole folder so that at its path there is always a complete one, old or new."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that takes its place once the block has ended well.

    What was at `path`, a folder with only files or nothing, is replaced; an error in the block
    leaves it untouched. On Linux the swap is one step. Elsewhere the earlier folder is
    `previous_folder(path)` for a moment, and stays so if the machine stops in it.
    """
    path = path.resolve()
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        for file in unfinished.iterdir():
            _sync(file)
        _sync(unfinished)
        _put_in_place(unfinished, path)
        _sync(path.parent)
    finally:
        # Holds the earlier folder after a swap, and nothing is left of it after a rename.
        shutil.rmtree(unfinished, ignore_errors=True)


def previous_folder(path: Path) -> Path:
    """Where an earlier folder is kept while a new one takes its place in two steps."""
    return path.with_name(f".{path.name}.previous")


def _put_in_place(unfinished: Path, path: Path) -> None:
    if not path.exists():
        unfinished.rename(path)
    elif not _exchange(unfinished, path):
        previous = previous_folder(path)
        shutil.rmtree(previous, ignore_errors=True)
        path.rename(previous)
        try:
            unfinished.rename(path)
        except BaseException:
            previous.rename(path)
            raise
        shutil.rmtree(previous)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    status: int = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return status == 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
