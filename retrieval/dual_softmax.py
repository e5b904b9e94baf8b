"""Dual softmax: a candidate that many queries like counts for less with each of them.

It needs all queries of the set at once, which no search has: its figures are marked, and are
compared only with others of the kind. Q texts, V videos.
"""

import numpy as np
from numpy.typing import NDArray

TEMPERATURE = 0.01


def dual_softmax(
    similarity: NDArray[np.float32], *, temperature: float = TEMPERATURE
) -> NDArray[np.float32]:
    """Scores [queries, candidates] that rank as softmax over candidates times that over queries.

    They are its logarithm, without what is the same for all candidates of a query. For the other
    direction give the transposed similarity.
    """
    if not temperature > 0:
        raise ValueError(f"the dual softmax temperature is {temperature}; give a number above 0")
    logits = similarity / np.float32(temperature)
    highest = logits.max(axis=0)
    spread = np.log(np.exp(logits - highest).sum(axis=0, dtype=np.float64)) + highest
    scores: NDArray[np.float32] = (2 * logits - spread.astype(np.float32)).astype(np.float32)
    return scores
