"""Files that are either not there, the old version or the whole new one, never a part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """An open file beside `path`; when the block ends well, it is flushed and becomes `path`.

    The name beside it is always the same, so that what a kill leaves there is overwritten later.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Makes `path` hold `content`, in one step."""
    with replacing(path) as file:
        file.write(content)
