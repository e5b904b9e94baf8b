"""Decides whether a captioned video may go into a shard, by reading and decoding it."""

import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path

from reelscan.pretrain.annotations import CaptionedVideo
from reelscan.pretrain.media_kind import IMAGE_SUFFIXES, MEDIA_SUFFIXES, media_suffix
from reelscan.pretrain.reencode import reencoded
from reelscan.pretrain.shard_sample import Description
from reelscan.video.decode import read_clip
from reelscan.video.errors import VideoError
from reelscan.video.probe import probe


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """What a shard will hold of a video."""

    media: bytes
    """The file as it was, or re-encoded."""
    suffix: str
    """Kind of `media`, one of `MEDIA_SUFFIXES`."""
    description: Description


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A video that is left out."""

    video: str
    """Path below the root."""
    reason: str


def check_video(
    video: CaptionedVideo, *, root: Path, max_video_bytes: int, reencode_short_side: int | None
) -> Accepted | Rejected:
    """Reads the file, tells its kind by content and decodes a frame from its middle.

    A file that is missing, may not be read, is too large, of no known kind or broken is rejected.
    Other errors of the disk are raised: they say nothing about the video.
    """
    try:
        data = _read_file(root / video.video, max_video_bytes)
        suffix = media_suffix(data)
        if suffix is None:
            raise _UnfitError(f"is none of {', '.join(MEDIA_SUFFIXES)} by its content")
        sha256 = hashlib.sha256(data).hexdigest()
        is_image = suffix in IMAGE_SUFFIXES
        if reencode_short_side is not None and not is_image:
            data, suffix = reencoded(data, short_side=reencode_short_side, name=video.video), "mp4"
        info = probe(data, name=video.video)
        read_clip(data, frames=1, name=video.video)
    except (VideoError, _UnfitError) as error:
        reason = error.reason if isinstance(error, VideoError) else str(error)
        return Rejected(video=video.video, reason=reason)
    description = Description(
        captions=video.captions,
        video=video.video,
        sha256=sha256,
        group=video.group,
        width=info.width,
        height=info.height,
        duration_seconds=None if is_image else info.duration_seconds,
    )
    return Accepted(media=data, suffix=suffix, description=description)


class _UnfitError(Exception):
    """The file itself, not its video stream, is not fit for a shard."""


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _UnfitError("is not a regular file")
        if status.st_size > max_bytes:
            raise _UnfitError(f"has {status.st_size} bytes, more than the {max_bytes} allowed")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _UnfitError("does not exist") from error
    except PermissionError as error:
        raise _UnfitError("may not be read (permission denied)") from error
