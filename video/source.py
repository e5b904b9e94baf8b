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

# Beginnings of binary containers and images, as (offset, bytes). Playlists, which name other
# files, are text and begin with none of these.
_CONTAINER_STARTS = (
    (4, b"ftyp"),
    (4, b"moov"),
    (4, b"mdat"),
    (4, b"wide"),
    (4, b"free"),
    (4, b"skip"),
    (0, b"\x1aE\xdf\xa3"),
    (0, b"RIFF"),
    (0, b"FLV\x01"),
    (0, b"OggS"),
    (0, b"\x00\x00\x01"),
    (0, b"\x00\x00\x00\x01"),
    (0, b"G"),
    (0, b"0&\xb2u\x8ef\xcf\x11"),
    (0, b"\x89PNG\r\n"),
    (0, b"\xff\xd8\xff"),
)


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


def begins_like_a_container(opened: BinaryIO) -> bool:
    """Whether the first bytes are those of a binary container, never of a playlist."""
    opened.seek(0)
    head = opened.read(16)
    opened.seek(0)
    return any(head.startswith(start, offset) for offset, start in _CONTAINER_STARTS)
