"""Where a sequence of frame vectors changes: a video's moments. T frames, E embedding width."""

import numpy as np
from numpy.typing import NDArray


def find_moments(
    vectors: NDArray[np.float32], *, penalty: float, shortest: int, longest: int | None = None
) -> list[tuple[int, int]]:
    """Stretches (first frame, last frame + 1) of `vectors` [T, E] whose frames are alike.

    The stretches that together leave the least squared distance of the frames to their stretch's
    mean, where each costs `penalty` times the median step from a frame to the next (squared,
    halved). None is shorter than `shortest` frames, unless all are or `longest` forces it.
    """
    frames = len(vectors)
    longest = min(longest or frames, frames)
    if frames <= shortest:
        return [(0, frames)]
    vectors = vectors.astype(np.float64)
    sums = np.concatenate([np.zeros((1, vectors.shape[1])), vectors.cumsum(axis=0)])
    squares = np.concatenate([[0.0], (vectors**2).sum(axis=1).cumsum()])
    price = penalty * float(np.median((np.diff(vectors, axis=0) ** 2).sum(axis=1))) / 2
    # A video that stands still has no usual step, and is one moment.
    price = max(price, 1e-6 * float(squares[-1]))
    while True:
        begins = _best_begins(sums, squares, price=price, shortest=shortest, longest=longest)
        if begins is not None:
            return _walk_back(begins)
        shortest -= 1


def _best_begins(
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    *,
    price: float,
    shortest: int,
    longest: int,
) -> list[int] | None:
    """For each end the begin of its last stretch in the cheapest division; None if there is none.

    sums [T + 1, E] and squares [T + 1] are cumulative.
    """
    frames = len(squares) - 1
    norms = (sums**2).sum(axis=1)
    cheapest = np.full(frames + 1, np.inf)
    cheapest[0] = 0.0
    begins = [0] * (frames + 1)
    for end in range(shortest, frames + 1):
        begin = np.arange(max(0, end - longest), end - shortest + 1)
        of_mean = (norms[end] + norms[begin] - 2 * (sums[begin] @ sums[end])) / (end - begin)
        costs = cheapest[begin] + (squares[end] - squares[begin] - of_mean) + price
        best = int(costs.argmin())
        cheapest[end], begins[end] = costs[best], int(begin[best])
    return begins if np.isfinite(cheapest[frames]) else None


def _walk_back(begins: list[int]) -> list[tuple[int, int]]:
    stretches: list[tuple[int, int]] = []
    end = len(begins) - 1
    while end:
        stretches.append((begins[end], end))
        end = begins[end]
    return stretches[::-1]
