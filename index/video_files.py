"""Which video files a folder holds, and whether a file has changed."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

VIDEO_EXTENSIONS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """A video file as it was when looked at."""

    path: str
    """Relative to the videos' root, with `/`."""
    size_bytes: int
    mtime_ns: int
    sha256: str | None = None
    """Hash of the content, where it was asked for."""

    def same_stat(self, other: "VideoFile") -> bool:
        """Whether size and modification time agree."""
        return self.size_bytes == other.size_bytes and self.mtime_ns == other.mtime_ns


@dataclass(frozen=True, kw_only=True)
class FolderListing:
    """The video files below a folder, sorted, and how many files were passed over."""

    videos: tuple[str, ...]
    unrecordable: tuple[str, ...]
    """Videos whose name is not valid UTF-8, with the odd bytes escaped."""
    ignored_files: int
    """Files whose extension is no video's, and hidden ones."""


def list_videos(folder: Path) -> FolderListing:
    """Find the video files below `folder` by extension; hidden files and folders are ignored.

    Raises:
        NotADirectoryError: `folder` is not a folder.
        OSError: a folder below it cannot be listed.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder; give the folder that holds the videos")
    videos: list[str] = []
    unrecordable: list[str] = []
    ignored = 0
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or Path(name).suffix.lower() not in VIDEO_EXTENSIONS:
                ignored += 1
                continue
            video = (Path(parent) / name).relative_to(folder).as_posix()
            escaped = os.fsencode(video).decode("utf-8", "backslashreplace")
            (videos if escaped == video else unrecordable).append(escaped)
    return FolderListing(
        videos=tuple(sorted(videos)),
        unrecordable=tuple(sorted(unrecordable)),
        ignored_files=ignored,
    )


def look_at(root: Path, video: str, *, with_content: bool = False) -> VideoFile:
    """Stat a file, and hash its content if asked.

    Raises:
        OSError: the file cannot be read.
    """
    path = root / video
    stat = path.stat()
    sha256 = None
    if with_content:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return VideoFile(path=video, size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256)


def _raise(error: OSError) -> None:
    raise error
