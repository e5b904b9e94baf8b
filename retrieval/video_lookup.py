"""Finding an annotation's videos on a disk that has them under other extensions or folders."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from reelscan.index.video_files import VIDEO_EXTENSIONS
from reelscan.video.errors import VideoError

_LOOKED_AT_AT_MOST = 50_000


class VideoLookup:
    """Files below a root by the path that an annotation gives, whatever their extension."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Path, dict[str, list[str]]] = {}
        self.renamed: list[tuple[str, str]] = []
        """Annotated names and the names found in their place."""

    def find(self, video: str) -> Path:
        """The file; raises VideoError if there is none, or several that could be meant."""
        path = self._root / video
        if path.is_file():
            return path
        stem = path.stem if path.suffix.lower() in VIDEO_EXTENSIONS else path.name
        found = self._by_stem(path.parent).get(stem.lower(), [])
        if not found:
            raise VideoError(video, "there is no such file")
        if len(found) > 1:
            raise VideoError(video, f"could be {' or '.join(found)}: keep one of them")
        self.renamed.append((video, str(PurePosixPath(video).parent / found[0])))
        return path.parent / found[0]

    def notice(self, total: int) -> str | None:
        """One sentence on the videos found under another name, if any were."""
        if not self.renamed:
            return None
        asked, found = self.renamed[0]
        return (
            f"{len(self.renamed)} of {total} videos have another extension than annotated and "
            f"were found by name (such as {found} for {asked})"
        )

    def _by_stem(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._folders:
            names: dict[str, list[str]] = {}
            if folder.is_dir():
                for path in sorted(folder.iterdir()):
                    if path.suffix.lower() in VIDEO_EXTENSIONS and path.is_file():
                        names.setdefault(path.stem.lower(), []).append(path.name)
            self._folders[folder] = names
        return self._folders[folder]


def better_root(root: Path, videos: Sequence[str]) -> Path | None:
    """Where below `root` the first of these videos lies, as the root to give; None if nowhere."""
    wanted = PurePosixPath(videos[0])
    looked_at = 0
    for parent, folders, names in os.walk(root):
        folders.sort()
        looked_at += len(names)
        if looked_at > _LOOKED_AT_AT_MOST:
            return None
        stems = {PurePosixPath(name).stem.lower() for name in names}
        inside = tuple(part.lower() for part in Path(parent).parts[-len(wanted.parts) + 1 :])
        expected = tuple(part.lower() for part in wanted.parts[:-1])
        if wanted.stem.lower() in stems and (not expected or inside == expected):
            found = Path(parent)
            for _ in expected:
                found = found.parent
            return found if found != root else None
    return None
