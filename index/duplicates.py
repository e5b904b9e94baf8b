"""Videos of a collection that are copies of others, or parts of them, by their vectors.

N segments, E embedding width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reelscan.index.collection import Collection
from reelscan.index.quarantine import quarantined_now
from reelscan.index.stored_rows import StoredRows

_NEIGHBOURS = 32


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """A video that another one holds."""

    video: str
    kept: str
    """The video that shows the same."""
    share: float
    """How much of `video` looks as something in `kept`, 0 to 1."""


@dataclass(kw_only=True)
class _Video:
    seconds: float = 0.0
    same_seconds: dict[str, float] = field(default_factory=dict)
    """For each other video, how much of this one looks as something in it."""


def find_duplicates(
    collection: Collection,
    *,
    similarity: float = 0.98,
    share: float = 0.9,
    on_progress: Callable[[int], None] | None = None,
) -> list[Duplicate]:
    """Videos of which at least `share` looks as something in one longer video, or as long a one.

    Two segments look the same from this cosine `similarity` on. Only a segment's nearest ones are
    looked at, so of dozens of copies some are found once the others are gone. Of equal ones the
    largest file is kept. `on_progress` is told the segments done.
    """
    for name, value in (("similarity", similarity), ("share", share)):
        if not 0 < value <= 1:
            raise ValueError(f"{name} is {value}; give a number above 0, up to 1")
    seen: dict[str, _Video] = {}
    done = 0
    for block in collection.rows():
        _look(collection, block, seen, similarity)
        done += len(block.segment_ids)
        if on_progress is not None:
            on_progress(done)
    files = collection.videos()
    kept: set[str] = set()
    found: list[Duplicate] = []
    for name in sorted(
        seen, key=lambda one: (-round(seen[one].seconds), -files[one].size_bytes, one)
    ):
        video = seen[name]
        holders = [(video.same_seconds[one], one) for one in video.same_seconds if one in kept]
        most, holder = max(holders, default=(0.0, ""))
        if most >= share * video.seconds and holder:
            found.append(Duplicate(video=name, kept=holder, share=most / video.seconds))
        else:
            kept.add(name)
    return found


def set_duplicates_aside(collection: Collection, duplicates: list[Duplicate]) -> None:
    """Take them out of the collection; they stay out until their files change."""
    files = collection.videos()
    for one in duplicates:
        reason = f"looks the same as {one.kept} ({100 * one.share:.0f} %)"
        collection.quarantine_video(quarantined_now(files[one.video], reason))


def _look(
    collection: Collection, block: StoredRows, seen: dict[str, _Video], similarity: float
) -> None:
    """Compare the segments of a block with their nearest ones."""
    directions = _of_length_1(block.vectors)
    # The index compares by product, in which longer vectors come first, so the cosine is computed.
    hits = collection.search(directions, top=_NEIGHBOURS)
    found = sorted({hit.segment_id for row in hits for hit in row})
    places = {one: place for place, one in enumerate(found)}
    others = _of_length_1(collection.vectors_of(found))
    for row, file in enumerate(block.videos):
        segment = block.segments[row]
        seconds = max(segment.end_seconds - segment.start_seconds, 1e-3)
        video = seen.setdefault(file.path, _Video())
        video.seconds += seconds
        near = np.array([places[hit.segment_id] for hit in hits[row]], dtype=np.int64)
        alike = others[near] @ directions[row] >= similarity
        for other in {hit.video for hit, same in zip(hits[row], alike, strict=True) if same}:
            if other != file.path:
                video.same_seconds[other] = video.same_seconds.get(other, 0.0) + seconds


def _of_length_1(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
