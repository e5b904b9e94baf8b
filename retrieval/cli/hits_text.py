"""Hits of a search as lines for a person."""

from collections.abc import Sequence

from reelscan.retrieval.moments import SearchHit, VideoHit

NOTHING = "no moment answers"


def hits_text(hits: Sequence[SearchHit]) -> str:
    """A line a hit: score, probability where known, time range, video."""
    return "\n".join(f"{moment_text(hit)}  {hit.video}{folded(hit)}" for hit in hits) or NOTHING


def videos_text(videos: Sequence[VideoHit]) -> str:
    """A line a video, and below it a line for each of its moments."""
    lines: list[str] = []
    for video in videos:
        lines.append(f"{video.score:7.3f}  {video.video}")
        lines += [f"         {moment_text(moment)}{folded(moment)}" for moment in video.moments]
    return "\n".join(lines) or NOTHING


def moment_text(hit: SearchHit) -> str:
    chance = "" if hit.probability is None else f"  {100 * hit.probability:3.0f} %"
    return f"{hit.score:7.3f}{chance}  {clock(hit.start_seconds)} - {clock(hit.end_seconds)}"


def folded(hit: SearchHit) -> str:
    if not hit.duplicates:
        return ""
    others = ", ".join(f"{one.video} {clock(one.start_seconds).strip()}" for one in hit.duplicates)
    return f"  (the same: {others})"


def clock(seconds: float) -> str:
    """`3725.5` -> ` 1:02:05.5`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:2d}:{minutes:02d}:{rest:04.1f}"
