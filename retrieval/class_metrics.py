"""How well scores tell classes apart. V videos, K classes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """In percent."""

    top_1: float
    """Videos whose class has the highest score."""
    top_5: float
    """Videos whose class is among the five highest."""
    mean_class: float
    """Top 1 of each class apart, averaged over those that occur."""


def class_metrics(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> ClassMetrics:
    """scores [V, K], labels [V]; a class with an equal score counts as ahead.

    Raises ValueError for scores that are not finite, for they would count as right.
    """
    if not np.isfinite(scores).all():
        raise ValueError("there are NaN or infinite scores, so the model is broken")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    ranks = (scores >= own).sum(axis=1)
    right = ranks == 1
    per_class = [right[labels == label].mean() for label in np.unique(labels)]
    return ClassMetrics(
        top_1=100 * float(right.mean()),
        top_5=100 * float((ranks <= 5).mean()),
        mean_class=100 * float(np.mean(per_class)),
    )
