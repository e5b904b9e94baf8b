"""Classes from frozen vectors and labelled examples: nearest neighbours, and a linear probe.

Axes: V examples, Q videos, E embedding width, K classes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Of the squared weights; the one that does best on examples held out is taken."""
_HELD_OUT_EVERY = 5
_QUERIES_AT_ONCE = 1024


def nearest_neighbour_scores(
    vectors: Vectors,
    examples: Vectors,
    labels: Labels,
    *,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Vectors:
    """Votes of the nearest examples by cosine, each weighing exp(cosine / temperature).

    vectors [Q, E], examples [V, E], labels [V] -> [Q, K], each row adding up to 1 (Wu et al.,
    2018).
    """
    if neighbours < 1 or not temperature > 0:
        raise ValueError(
            f"neighbours is {neighbours}, temperature {temperature}; give numbers above 0"
        )
    bank = F.normalize(torch.from_numpy(examples), dim=1)
    one_hot = F.one_hot(torch.from_numpy(labels), classes).float()
    found = []
    for part in torch.split(F.normalize(torch.from_numpy(vectors), dim=1), _QUERIES_AT_ONCE):
        near = (part @ bank.T).topk(min(neighbours, len(bank)), dim=1)
        weights = (near.values / temperature).softmax(dim=1)
        found.append((weights[..., None] * one_hot[near.indices]).sum(dim=1))
    return torch.cat(found).numpy()


def linear_probe_scores(
    vectors: Vectors,
    examples: Vectors,
    labels: Labels,
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
) -> tuple[Vectors, float]:
    """Log-probabilities [Q, K] of a logistic regression on examples [V, E], labels [V].

    Every fifth example of a class is held out to choose the penalty, which is returned too; then
    all are fitted. Deterministic.
    """
    mean, spread = examples.mean(axis=0), examples.std(axis=0) + 1e-6
    seen, wanted = (torch.from_numpy((one - mean) / spread).double() for one in (examples, vectors))
    targets = torch.from_numpy(labels)
    penalty = _best_penalty(seen, targets, classes=classes, penalties=penalties)
    weights = _fit(seen, targets, classes=classes, penalty=penalty)
    return _log_probabilities(wanted, weights).float().numpy(), penalty


def _best_penalty(
    examples: Tensor, labels: Tensor, *, classes: int, penalties: Sequence[float]
) -> float:
    held_out = _held_out(labels)
    if len(penalties) == 1 or not held_out.any():
        return penalties[len(penalties) // 2]
    losses = []
    for penalty in penalties:
        weights = _fit(examples[~held_out], labels[~held_out], classes=classes, penalty=penalty)
        guesses = _log_probabilities(examples[held_out], weights)
        losses.append(float(F.nll_loss(guesses, labels[held_out])))
    return penalties[int(np.argmin(losses))]


def _held_out(labels: Tensor) -> Tensor:
    """Every fifth example of each class, bool [V]; a class of fewer than five gives none."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in set(labels.tolist()):
        places = (labels == label).nonzero()[:, 0]
        chosen[places[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]] = True
    return chosen


def _fit(examples: Tensor, labels: Tensor, *, classes: int, penalty: float) -> Tensor:
    """Weights [E + 1, K], the last row being the bias, which bears no penalty."""
    weights = examples.new_zeros(examples.shape[1] + 1, classes).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=200, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        misfit = F.nll_loss(_log_probabilities(examples, weights), labels)
        total: Tensor = misfit + penalty * weights[:-1].square().sum() / 2
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def _log_probabilities(examples: Tensor, weights: Tensor) -> Tensor:
    return (examples @ weights[:-1] + weights[-1]).log_softmax(dim=1)
