"""Embedding a folder by several processes or machines: each its shard, then all into one.

A shard is a collection of its own with a share of the videos, chosen by a hash of their names, so
that it stays the same when videos are added. No two processes write the same collection.

    SHARDS/shard-0003-of-0008/            a collection
    SHARDS/shard-0003-of-0008/shard.json  written when all its videos were embedded or quarantined
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reelscan.index.collection import Collection
from reelscan.index.copy_rows import CollectionTarget, CopyReport, copy_videos
from reelscan.index.manifest import MANIFEST_NAME, CollectionError, Manifest
from reelscan.index.stored_rows import by_video
from reelscan.index.video_files import FolderListing
from reelscan.models.atomic_file import write_atomically

FINISHED_NAME = "shard.json"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One share of a folder's videos."""

    number: int
    """From 1."""
    count: int
    """Of all shards."""

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(
                f"shard {self.number} of {self.count} is none: give a number from 1 to the count"
            )

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, video: str) -> bool:
        """Whether this shard embeds a video, by its name in the folder."""
        digest = hashlib.blake2b(video.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.count == self.number - 1

    def path(self, folder: Path) -> Path:
        """Its collection in the folder of shards."""
        return folder / f"shard-{self.number:04d}-of-{self.count:04d}"

    def of_listing(self, listing: FolderListing) -> FolderListing:
        """The videos that this shard embeds."""
        return replace(
            listing,
            videos=tuple(video for video in listing.videos if self.holds(video)),
            unrecordable=tuple(video for video in listing.unrecordable if self.holds(video)),
        )


def parse_shard(words: str) -> Shard:
    """`3/8`: the third of eight; raises ValueError."""
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", words)
    if found is None:
        raise ValueError(f"{words!r} is no shard; give one as 3/8, the third of eight")
    return Shard(number=int(found[1]), count=int(found[2]))


def mark_unfinished(path: Path) -> None:
    """Take the mark off a shard that is about to be worked on."""
    (path / FINISHED_NAME).unlink(missing_ok=True)


def mark_finished(path: Path, shard: Shard) -> None:
    """Say that every video of the shard was embedded or quarantined."""
    content = {"shard": shard.number, "of": shard.count}
    write_atomically(path / FINISHED_NAME, (json.dumps(content) + "\n").encode())


def find_shards(folder: Path, *, unfinished: bool = False) -> list[Path]:
    """The collections of all shards in order.

    Raises ValueError that names those which are missing or (unless `unfinished` is allowed) not
    finished, or if they are of several divisions.
    """
    found: dict[int, Path] = {}
    counts: set[int] = set()
    for path in sorted(folder.glob("shard-*-of-*")):
        numbers = re.fullmatch(r"shard-(\d+)-of-(\d+)", path.name)
        if numbers is not None and (path / MANIFEST_NAME).exists():
            found[int(numbers[1])] = path
            counts.add(int(numbers[2]))
    if not found:
        raise ValueError(
            f"{folder} holds no shards; `reelscan index FOLDER --to SHARDS --shard 1/N` makes them"
        )
    if len(counts) > 1:
        raise ValueError(
            f"{folder} holds shards of {' and '.join(map(str, sorted(counts)))}: remove those of "
            "the division that is not wanted, for their videos overlap"
        )
    count = counts.pop()
    absent = [number for number in range(1, count + 1) if number not in found]
    going = [number for number, path in found.items() if not (path / FINISHED_NAME).exists()]
    if (absent or going) and not unfinished:
        told = [f"missing: {_list(absent)}"] * bool(absent) + [
            f"not finished: {_list(going)}"
        ] * bool(going)
        raise ValueError(
            f"of {count} shards in {folder} {'; '.join(told)}. Run `reelscan index ... --shard "
            f"{(absent or going)[0]}/{count}` (again: it goes on where it stopped), or merge what "
            "there is with --unfinished"
        )
    return [found[number] for number in sorted(found)]


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """What a merge did."""

    videos: int
    """Stored, new or replaced."""
    segments: int
    unchanged: int
    """Videos that were there already."""
    quarantined: int
    """Entries taken over."""


def shared_manifest(shards: Sequence[Path]) -> Manifest:
    """What all shards were made with; raises ValueError if they differ."""
    manifests = []
    for path in shards:
        with Collection.open(path, read_only=True) as shard:
            # The model may lie elsewhere on another machine; its fingerprint has to be the same.
            manifests.append(replace(shard.manifest, model_path=None))
    for path, manifest in zip(shards, manifests, strict=True):
        if manifest != manifests[0]:
            raise ValueError(
                f"{path} and {shards[0]} were made with other models, folders or cuts: embed one "
                "of them again with the settings of the other"
            )
    with Collection.open(shards[0], read_only=True) as shard:
        return shard.manifest


def merge_shards(
    shards: Sequence[Path],
    target: Collection,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> MergeReport:
    """Bring all videos of the shards into `target`, each once; quarantine entries too.

    `on_progress` is told the segments looked at. Raises ValueError if two shards hold a video. See
    `copy_videos`.
    """
    owners: dict[str, Path] = {}
    reports: list[CopyReport] = []
    quarantined = seen = 0
    for path in shards:
        with Collection.open(path, read_only=True) as shard:
            for name in [*shard.videos(), *shard.quarantined()]:
                _claim(owners, name, path)

            def told(rows: int, before: int = seen) -> None:
                if on_progress is not None:
                    on_progress(before + rows)

            rows = by_video(shard.rows())
            reports.append(copy_videos(rows, CollectionTarget(target), on_progress=told))
            seen += len(shard)
            known = target.quarantined()
            for entry in shard.quarantined().values():
                if known.get(entry.video) != entry:
                    target.quarantine_video(entry)
                quarantined += 1
    return MergeReport(
        videos=sum(report.videos for report in reports),
        segments=sum(report.rows for report in reports),
        unchanged=sum(report.unchanged for report in reports),
        quarantined=quarantined,
    )


def _claim(owners: dict[str, Path], video: str, path: Path) -> None:
    if owners.setdefault(video, path) != path:
        raise CollectionError(
            f"{video} is in {owners[video].name} and in {path.name}: they are no shards of one "
            "folder; embed into an empty folder of shards"
        )


def _list(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"
