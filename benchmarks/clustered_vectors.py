"""Generated vectors with the structure of real embeddings: few strong directions, topics of very
unequal size, videos inside topics, segments of a video close to each other.

Uniform vectors would have no neighbours worth finding, and inverted lists nothing to gather. Any
stretch of rows can be made alone and is the same each time. N rows, E embedding width.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SEGMENTS_A_VIDEO = 20
_ROWS_A_BLOCK = 10_000
_BLOCKS_ASKED_ABOUT = 20


@dataclass(frozen=True, kw_only=True)
class ClusteredVectors:
    """A source of vectors of length 1."""

    width: int = 512
    """E."""
    topics: int = 3000
    seed: int = 0
    video_spread: float = 0.7
    """How far a video lies from its topic's centre; the centre's own length is about 1."""
    segment_spread: float = 0.45
    """How far a segment lies from its video."""
    query_spread: float = 0.8
    """How far a query lies from the moment it describes."""
    _scales: NDArray[np.float32] = field(init=False, repr=False)
    _centres: NDArray[np.float32] = field(init=False, repr=False)
    _shares: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng((self.seed, 1))
        # Variances fall as 1/rank, as the singular values of CLIP-like embeddings roughly do.
        variances = 1.0 / np.arange(1, self.width + 1)
        scales = np.sqrt(variances / variances.sum()).astype(np.float32)
        object.__setattr__(self, "_scales", scales)
        common = self._noise(rng, 1)
        object.__setattr__(self, "_centres", 0.7 * common + self._noise(rng, self.topics))
        shares = 1.0 / np.arange(1, self.topics + 1) ** 0.7
        object.__setattr__(self, "_shares", shares / shares.sum())

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` [N, E]; row i belongs to video i // SEGMENTS_A_VIDEO."""
        first = start // _ROWS_A_BLOCK
        blocks = [self._block(one) for one in range(first, (stop - 1) // _ROWS_A_BLOCK + 1)]
        offset = first * _ROWS_A_BLOCK
        return np.concatenate(blocks)[start - offset : stop - offset]

    def topics_of(self, block: int) -> NDArray[np.int64]:
        """The topic of each video of a block of rows."""
        rng = np.random.default_rng((self.seed, 2, block))
        return rng.choice(self.topics, size=_ROWS_A_BLOCK // SEGMENTS_A_VIDEO, p=self._shares)

    def queries(self, count: int, *, rows: int) -> NDArray[np.float32]:
        """Queries [count, E] about moments among the first `rows`, none of them a stored one."""
        rng = np.random.default_rng((self.seed, 4))
        # From a few blocks, for a block has to be made whole.
        blocks = rng.integers((rows - 1) // _ROWS_A_BLOCK + 1, size=_BLOCKS_ASKED_ABOUT)
        ends = [min((block + 1) * _ROWS_A_BLOCK, rows) for block in blocks]
        parts = [self.rows(b * _ROWS_A_BLOCK, end) for b, end in zip(blocks, ends, strict=True)]
        about = np.concatenate(parts)
        about = about[rng.choice(len(about), size=count, replace=False)]
        # A sentence about a moment: the same content, and a part that every sentence shares.
        sentences = 0.3 * self._noise(rng, 1)
        return _unit(about + self.query_spread * self._noise(rng, count) + sentences)

    def _block(self, block: int) -> NDArray[np.float32]:
        rng = np.random.default_rng((self.seed, 3, block))
        topics = self._centres[self.topics_of(block)]
        videos = topics + self.video_spread * self._noise(rng, len(topics))
        segments = np.repeat(videos, SEGMENTS_A_VIDEO, axis=0)
        return _unit(segments + self.segment_spread * self._noise(rng, len(segments)))

    def _noise(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """[count, E], of length about 1."""
        return rng.standard_normal((count, self.width), dtype=np.float32) * self._scales


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
