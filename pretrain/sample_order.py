"""The order in which a run sees its samples: arithmetic on (seed, epoch) alone.

A corpus is passed through again and again, each pass in another order. A kind (videos, or images)
mixes its corpora by their weights into one endless stream, which is cut into global batches. In
each epoch the batches of the kinds alternate at random, as published. So a batch follows from its
number, whoever asks: processes, workers and earlier batches do not matter.

What does not fill a batch at the end of an epoch comes first in the next: nothing is dropped, and
every pass has every sample exactly once.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

REPLACEMENTS = 8

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One place in the order."""

    kind: int
    """Which of the kinds."""
    corpus: int
    """Which of the corpora of its kind."""
    pass_number: int
    """Counts the passes over the corpus; with a weight of 1, the epoch."""
    sample: int
    """Number of the sample in the corpus, over all shards."""
    replacements: tuple[int, ...]
    """Samples to take instead, the first that can be read: those that come next."""


class CorpusOrder:
    """The passes over one corpus, each in an order of its own that is drawn from (seed, pass).

    `follows`: for each shard bool [samples], whether a sample stays with the one before it.
    `weight`: passes an epoch. `shuffle_shards`: that many shards, drawn at random, are shuffled
    together, then the next ones; 0 keeps the order of the shards.
    """

    def __init__(
        self,
        name: str,
        *,
        follows: Sequence[NDArray[np.bool_]],
        weight: float = 1.0,
        seed: int,
        shuffle_shards: int,
    ) -> None:
        self.name = name
        self.size = sum(map(len, follows))
        self._per_epoch = Fraction(str(weight)) * self.size
        self._follows = follows
        self._seed = seed
        self._shuffle_shards = shuffle_shards
        # Two passes meet in a batch, and others are looked at ahead.
        self._order = lru_cache(maxsize=4)(self._drawn_order)

    def seen(self, epochs: int) -> int:
        """Samples seen in so many epochs, a sample seen twice counted twice."""
        return int(self._per_epoch * epochs)

    def draw(self, place: int, *, kind: int, corpus: int) -> Draw:
        """The sample at a place in the endless row of passes."""
        number, at = divmod(place, self.size)
        order = self._order(number)
        following = np.arange(at + 1, at + 1 + min(REPLACEMENTS, self.size - 1)) % self.size
        return Draw(
            kind=kind,
            corpus=corpus,
            pass_number=number,
            sample=int(order[at]),
            replacements=tuple(order[following].tolist()),
        )

    def _drawn_order(self, number: int) -> Numbers:
        if self._shuffle_shards == 0:
            return np.arange(self.size)
        draw = _generator(self._seed, "pass", self.name, number)
        starts = np.cumsum([0, *map(len, self._follows)])
        shards = draw.permutation(len(self._follows))
        windows = []
        for first in range(0, len(shards), self._shuffle_shards):
            window = shards[first : first + self._shuffle_shards]
            samples = np.concatenate(
                [np.arange(starts[shard], starts[shard + 1]) for shard in window]
            )
            heads = np.flatnonzero(~np.concatenate([self._follows[shard] for shard in window]))
            windows.append(samples[_shuffled_runs(heads, len(samples), draw)])
        return np.concatenate(windows)


class KindOrder:
    """The endless stream of one kind, its corpora mixed by weight; positions count samples."""

    def __init__(self, corpora: Sequence[CorpusOrder], *, seed: int, kind: int) -> None:
        self.corpora = corpora
        self._seed = seed
        self._kind = kind
        self._mixture = lru_cache(maxsize=3)(self._drawn_mixture)

    def seen(self, epochs: int) -> int:
        """Samples seen in so many epochs."""
        return sum(corpus.seen(epochs) for corpus in self.corpora)

    def draw(self, position: int) -> Draw:
        if len(self.corpora) == 1:
            return self.corpora[0].draw(position, kind=self._kind, corpus=0)
        epoch = _epoch_of(position, self.seen)
        which, places = self._mixture(epoch)
        at = position - self.seen(epoch)
        corpus = int(which[at])
        return self.corpora[corpus].draw(int(places[at]), kind=self._kind, corpus=corpus)

    def _drawn_mixture(self, epoch: int) -> tuple[NDArray[np.int16], Numbers]:
        """For each sample of an epoch its corpus, and its place in the corpus's passes."""
        starts = [corpus.seen(epoch) for corpus in self.corpora]
        counts = [
            corpus.seen(epoch + 1) - start
            for corpus, start in zip(self.corpora, starts, strict=True)
        ]
        which = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
        which = _generator(self._seed, "mixture", self._kind, epoch).permutation(which)
        places = np.empty(len(which), dtype=np.int64)
        for corpus, (start, count) in enumerate(zip(starts, counts, strict=True)):
            places[which == corpus] = np.arange(start, start + count)
        return which, places


class BatchOrder:
    """All global batches of a run by their number, without end."""

    def __init__(self, kinds: Sequence[KindOrder], *, global_batch: int, seed: int) -> None:
        self._kinds = kinds
        self._global_batch = global_batch
        self._seed = seed
        self._alternation = lru_cache(maxsize=3)(self._drawn_alternation)

    def batches_in(self, epochs: int) -> int:
        """Batches that so many epochs have, counted from the start of the run."""
        return sum(kind.seen(epochs) // self._global_batch for kind in self._kinds)

    def draws(self, number: int, *, places: range) -> list[Draw]:
        """Some places of batch `number`, each 0 to global_batch - 1; all are of one kind."""
        epoch = _epoch_of(number, self.batches_in)
        kinds = self._alternation(epoch)
        at = number - self.batches_in(epoch)
        kind = self._kinds[kinds[at]]
        before = kind.seen(epoch) // self._global_batch + np.count_nonzero(kinds[:at] == kinds[at])
        start = int(before) * self._global_batch
        return [kind.draw(start + place) for place in places]

    def _drawn_alternation(self, epoch: int) -> NDArray[np.int16]:
        counts = [
            kind.seen(epoch + 1) // self._global_batch - kind.seen(epoch) // self._global_batch
            for kind in self._kinds
        ]
        kinds = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
        return _generator(self._seed, "alternation", epoch).permutation(kinds)


def stable_number(*parts: int | str) -> int:
    """A number below 2**63 that depends on all parts and their order."""
    digest = hashlib.blake2b(repr(parts).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _generator(*parts: int | str) -> np.random.RandomState:
    # The one generator whose numbers NumPy promises never to change: runs last weeks.
    digest = hashlib.blake2b(repr(parts).encode("utf-8"), digest_size=32).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype=np.uint32))


def _shuffled_runs(heads: Numbers, total: int, draw: np.random.RandomState) -> Numbers:
    """Indices 0 to total - 1 in an order in which only runs, each from a head on, are moved."""
    lengths = np.diff(heads, append=total)
    order = draw.permutation(len(heads))
    moved = lengths[order]
    within = np.arange(total) - np.repeat(np.cumsum(moved) - moved, moved)
    places: Numbers = np.repeat(heads[order], moved) + within
    return places


def _epoch_of(number: int, seen: Callable[[int], int]) -> int:
    """The epoch whose span, from seen(epoch) to before seen(epoch + 1), holds the number."""
    last = 1
    while seen(last) <= number:
        last *= 2
    return bisect_right(range(last + 1), number, key=seen) - 1
