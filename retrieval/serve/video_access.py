"""Which file on disk a request may read: videos of the collection, below its folder, only."""

import os
from pathlib import Path

from reelscan.index.collection import Collection

MEDIA_TYPES = {
    ".m4v": "video/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp4": "video/mp4",
    ".mpeg": "video/mpeg",
    ".mpg": "video/mpeg",
    ".ogv": "video/ogg",
    ".webm": "video/webm",
}


class NoSuchVideoError(ValueError):
    """The collection has no such video, or its file is not where a file may be read."""


def video_file(collection: Collection, video: str) -> Path:
    """The file of a video of the collection, without symbolic links in its path.

    Raises NoSuchVideoError: unknown, gone, no regular file, or a link that leads elsewhere.
    """
    # Names are looked up, never resolved: what is not a video's very name reaches no file.
    if collection.metadata_of(video) is None:
        raise NoSuchVideoError(f"the collection has no video {shown(video)}")
    try:
        root = Path(collection.manifest.videos_root).resolve(strict=True)
        path = collection.video_path(video).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise NoSuchVideoError(f"the file of {shown(video)} is gone") from None
    if not path.is_relative_to(root):
        raise NoSuchVideoError(
            f"{shown(video)} is a link that leaves the collection's folder, and is not served"
        )
    if not path.is_file() or not os.access(path, os.R_OK):
        raise NoSuchVideoError(f"the file of {shown(video)} cannot be read")
    return path


def media_type(path: Path) -> str:
    """What a browser is told of a file."""
    return MEDIA_TYPES.get(path.suffix.lower(), "application/octet-stream")


def shown(video: str) -> str:
    """A name in messages, short enough for one line."""
    return repr(video if len(video) <= 100 else f"{video[:99]}…")
