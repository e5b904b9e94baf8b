"""What was left out while reading shards, and why."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

MAX_LISTED_SKIPS = 1_000

SkipReason = Literal["shard", "members", "json", "video"]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A sample, or the rest of a shard, that was left out while reading."""

    reason: SkipReason
    """"shard": the tar file is damaged or cut; "members": a sample lacks its json or has not
    exactly one video or image; "json": it is not as it should be; "video": it cannot be decoded."""
    source: str
    """Shard and, if it is about one, key of the sample."""
    detail: str
    """One line for people."""


class SkipLog:
    """What was left out while reading: all counted, the first `MAX_LISTED_SKIPS` listed."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Number of skips by reason (`Skipped.reason`)."""
        self.listed: list[Skipped] = []

    def add(self, skipped: Skipped) -> None:
        self.counts[skipped.reason] += 1
        if len(self.listed) < MAX_LISTED_SKIPS:
            self.listed.append(skipped)

    def merge(self, other: "SkipLog") -> None:
        self.counts.update(other.counts)
        self.listed += other.listed[: MAX_LISTED_SKIPS - len(self.listed)]

    def summary(self) -> str:
        """One line for an error message."""
        if not self.listed:
            return "nothing"
        counts = ", ".join(f"{number} {reason}" for reason, number in sorted(self.counts.items()))
        first = self.listed[0]
        return f"{counts}; the first: {first.source} {first.detail}"
