"""What a search needs of a collection, wherever its vectors lie.

Q queries, N segments, E embedding width.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reelscan.index.collection import SegmentHit
from reelscan.index.manifest import Manifest


class SearchableCollection(Protocol):
    """Segments that can be searched by vector."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def manifest(self) -> Manifest:
        """What it was made with."""

    def __len__(self) -> int:
        """How many segments there are."""

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        top: int = 10,
        one_per_video: bool = False,
        where: str | None = None,
    ) -> list[list[SegmentHit]]:
        """The `top` segments of highest inner product for each of `queries` [Q, E].

        `where` is a condition that they have to meet (`where.py`).
        """

    def vectors_of(self, segment_ids: Sequence[int]) -> NDArray[np.float32]:
        """[N, E], in the order asked for; KeyError for an id that is not there."""

    def sample_vectors(self, count: int) -> NDArray[np.float32]:
        """[at most count, E], spread over all segments, always the same ones."""

    def frame_codes_of(self, segment_ids: Sequence[int]) -> dict[int, bytes]:
        """What is known of the frames of these segments (`frame_codes.py`)."""

    def video_path(self, video: str) -> Path:
        """Where a video's file lies."""
