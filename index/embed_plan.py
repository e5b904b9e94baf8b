"""What an embedding run has to do: which videos are new, changed, unchanged or gone."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from reelscan.index.collection import Collection
from reelscan.index.quarantine import QuarantinedVideo, quarantined_now
from reelscan.index.video_files import FolderListing, VideoFile, look_at


@dataclass(kw_only=True)
class EmbedPlan:
    """The videos to embed and what was found out about the others."""

    to_embed: dict[str, VideoFile] = field(default_factory=dict)
    touched: list[VideoFile] = field(default_factory=list)
    """Files whose time or recorded hash changed, but not their content."""
    failed: list[QuarantinedVideo] = field(default_factory=list)
    unchanged: int = 0
    still_quarantined: int = 0


def videos_gone(
    collection: Collection, root: Path, listing: FolderListing, *, remove_missing: bool
) -> tuple[str, ...]:
    """Videos the folder no longer holds; they are removed if asked for.

    Quarantine entries of files that are gone say nothing any more and are always dropped.
    """
    present = {*listing.videos, *listing.unrecordable}
    gone = tuple(video for video in collection.videos() if video not in present)
    if remove_missing and gone and not present:
        raise ValueError(
            f"{root} holds no video at all, so all {len(gone)} of the collection would be removed: "
            "check that the folder is mounted, or delete the collection's folder"
        )
    entries = tuple(video for video in collection.quarantined() if video not in present)
    forgotten = (*entries, *(gone if remove_missing else ()))
    if forgotten:
        collection.forget_videos(forgotten)
    return gone


def make_plan(
    collection: Collection,
    root: Path,
    listing: FolderListing,
    *,
    compare_content: bool,
    retry_quarantined: bool,
    on_look: Callable[[str], None],
) -> EmbedPlan:
    """Decide for each video whether it has to be embedded; `on_look` gets each one looked at."""
    plan = EmbedPlan()
    stored = collection.videos()
    quarantined = {video: entry.file for video, entry in collection.quarantined().items()}
    for video in listing.unrecordable:
        unseen = VideoFile(path=video, size_bytes=0, mtime_ns=0)
        plan.failed.append(
            quarantined_now(unseen, "the file name is not valid UTF-8; rename the file")
        )
    for video in listing.videos:
        known = stored.get(video)
        if known is None and not retry_quarantined:
            known = quarantined.get(video)
        try:
            file = look_at(root, video, with_content=compare_content)
        except OSError as error:
            unseen = VideoFile(path=video, size_bytes=0, mtime_ns=0)
            plan.failed.append(quarantined_now(unseen, error.strerror or str(error)))
            continue
        on_look(video)
        if known is None or not _same(known, file):
            plan.to_embed[video] = file
        elif video in quarantined:
            plan.still_quarantined += 1
        else:
            plan.unchanged += 1
            if compare_content and known != file:
                plan.touched.append(file)
    return plan


def _same(known: VideoFile, file: VideoFile) -> bool:
    if known.sha256 is not None and file.sha256 is not None:
        return known.sha256 == file.sha256
    return known.same_stat(file)
