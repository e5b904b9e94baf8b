"""Whether captions tell a video from its twin that differs in the order of events alone.

Twins come as `pairs.json`: `[{"kind": ..., "videos": [a, b]}, ...]`. Each caption of a or b should
score its own video above the other; a tie is no preference and counts as wrong. Chance is 50 %.
Q captions, V videos.
"""

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

CHANCE_PERCENT = 50.0


@dataclass(frozen=True, kw_only=True)
class VideoPair:
    """Two videos that a reader of single frames cannot tell apart."""

    kind: str
    """What differs, such as the direction of a motion."""
    videos: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class OrderAccuracy:
    """How often captions preferred their own video."""

    captions: int
    correct: int

    @property
    def percent(self) -> float:
        """Percent of captions that preferred their own video."""
        return 100.0 * self.correct / self.captions


@dataclass(frozen=True, kw_only=True)
class OrderReport:
    """Accuracy over all pairs and by kind."""

    overall: OrderAccuracy
    by_kind: Mapping[str, OrderAccuracy]
    skipped_pairs: int
    """Pairs of which a video was not scored."""


def read_pairs(path: str | os.PathLike[str]) -> list[VideoPair]:
    """Read `pairs.json`; raises ValueError when it has another form."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    form = 'it should be [{"kind": "...", "videos": ["a.mp4", "b.mp4"]}, ...]'
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}; {form}")
    pairs = []
    for number, entry in enumerate(content):
        match entry:
            case {"kind": str(kind), "videos": [str(first), str(second)]} if first != second:
                pairs.append(VideoPair(kind=kind, videos=(first, second)))
            case _:
                raise ValueError(f"{path}, entry {number} is {json.dumps(entry)[:200]}; {form}")
    return pairs


def order_accuracy(
    pairs: Sequence[VideoPair],
    similarity: ArrayLike,
    *,
    videos: Sequence[str],
    caption_video: Sequence[int],
) -> OrderReport:
    """How often captions prefer their own video over its twin.

    Args:
        pairs: the twins.
        similarity: [Q, V].
        videos: the V videos' names, as in the pairs.
        caption_video: for each caption the column of its video.

    Raises:
        ValueError: shapes disagree, scores are not finite, or no pair is among the videos.
    """
    scores = np.asarray(similarity)
    if scores.shape != (len(caption_video), len(videos)):
        raise ValueError(
            f"similarity has the shape {scores.shape}; "
            f"it should be [{len(caption_video)} captions, {len(videos)} videos]"
        )
    if np.isnan(scores).any():
        raise ValueError("some scores are NaN: the encoder is broken")
    column = {video: index for index, video in enumerate(videos)}
    captions_of: defaultdict[int, list[int]] = defaultdict(list)
    for caption, index in enumerate(caption_video):
        captions_of[index].append(caption)
    outcomes: defaultdict[str, list[bool]] = defaultdict(list)
    skipped = 0
    for pair in pairs:
        if any(video not in column for video in pair.videos):
            skipped += 1
            continue
        first, second = (column[video] for video in pair.videos)
        for own, twin in ((first, second), (second, first)):
            rows = captions_of[own]
            outcomes[pair.kind].extend((scores[rows, own] > scores[rows, twin]).tolist())
    if not outcomes:
        raise ValueError(
            f"none of the {len(pairs)} pairs has both videos among the {len(videos)} scored ones; "
            "check that the pairs belong to these videos"
        )
    return OrderReport(
        overall=_accuracy([right for kind in outcomes.values() for right in kind]),
        by_kind={kind: _accuracy(outcomes[kind]) for kind in sorted(outcomes)},
        skipped_pairs=skipped,
    )


def _accuracy(outcomes: Sequence[bool]) -> OrderAccuracy:
    return OrderAccuracy(captions=len(outcomes), correct=sum(outcomes))
