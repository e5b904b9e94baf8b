"""Where a video comes from: a local file or bytes, opened so that it can name no other file."""

import errno
import io
import os
import stat
from typing import BinaryIO

from reelscan.video.errors import VideoError

VideoSource = str | os.PathLike[str] | bytes

MAX_PIXELS = 8192 * 8192
"""Pixels of the largest picture that is decoded."""


def source_name(source: VideoSource, name: str | None = None) -> str:
    """What messages call the video: `name`, else the path, else the number of bytes."""
    if name is not None:
        return name
    return f"<{len(source)} bytes>" if isinstance(source, bytes) else os.fspath(source)


def open_source(source: VideoSource, *, name: str) -> BinaryIO:
    """Open for reading. Raises VideoError unless it is a regular, readable, non-empty file.

    Decoders are given the open file and never its path: a path could be taken for an address or a
    numbering pattern, and its suffix for a format.
    """
    opened = io.BytesIO(source) if isinstance(source, bytes) else _open_file(source, name)
    if not opened.read(1):
        opened.close()
        raise VideoError(name, "is empty (0 bytes)")
    opened.seek(0)
    return opened


def _open_file(path: str | os.PathLike[str], name: str) -> BinaryIO:
    try:
        # Without O_NONBLOCK opening a named pipe would wait for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise VideoError(name, _why_not_opened(path, error)) from error
    except ValueError as error:
        raise VideoError(name, f"is no path: {error}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise VideoError(name, f"is {kind}; give a video file")
    return open(descriptor, "rb")  # noqa: PTH123


def _why_not_opened(path: str | os.PathLike[str], error: OSError) -> str:
    if error.errno == errno.ENOENT and "://" in os.fspath(path):
        return "is an address; download it first, only local files are read"
    if error.errno == errno.ENOENT:
        return "there is no such file"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied; make the file readable"
    return f"cannot be opened: {error.strerror}"
