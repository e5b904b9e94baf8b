"""What was left out while reading shards, and why."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

MAX_LISTED_SKIPS = 1_000

SkipReason = Literal["shard", "members", "json", "video"]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A sample, or all of a shard, that was left out while reading."""

    reason: SkipReason
    """"shard": the tar file is not there, damaged, or not what its index says; "members": a sample
    lacks its json or has not exactly one video or image; "json": a description is not as it should
    be; "video": a video or image cannot be decoded."""
    source: str
    """Shard and, if it is about one, key of the sample."""
    detail: str
    """One line for people."""


class SkipLog:
    """What was left out while reading: all counted, the first `MAX_LISTED_SKIPS` listed once."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Number of samples left out by reason (`Skipped.reason`)."""
        self.listed: list[Skipped] = []

    def add(self, skipped: Skipped) -> None:
        self.counts[skipped.reason] += 1
        self._list(skipped)

    def merge(self, other: "SkipLog") -> list[Skipped]:
        """Takes in what the other holds; returns what was not listed here before."""
        self.counts.update(other.counts)
        return [skipped for skipped in other.listed if self._list(skipped)]

    def _list(self, skipped: Skipped) -> bool:
        if len(self.listed) >= MAX_LISTED_SKIPS or skipped in self.listed:
            return False
        self.listed.append(skipped)
        return True

    def summary(self) -> str:
        """One line for an error message."""
        if not self.listed:
            return "nothing"
        counts = ", ".join(f"{number} {reason}" for reason, number in sorted(self.counts.items()))
        first = self.listed[0]
        return f"{counts}; the first: {first.source} {first.detail}"
