"""Batches of a run, decoded in worker processes, each batch by one of them.

Axes: B clips, T frames, 3 colours, S x S pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reelscan.pretrain.sample_order import BatchOrder, Draw
from reelscan.pretrain.shard_reader import CorpusReader, Sample
from reelscan.pretrain.skip_log import SkipLog, Skipped

SAMPLES_BEFORE_JUDGING = 200
SAMPLES_REMEMBERED = 20_000


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples for one step."""

    clips_uint8: Tensor
    """[B, T, 3, S, S]."""
    captions: list[str]
    """B, one drawn from those of each clip."""
    sample_ids: Tensor
    """int64 [B]."""


class TooManyUnreadableError(ValueError):
    """More samples could not be read than the run allows."""


@dataclass(frozen=True, kw_only=True)
class _Delivery:
    """What a worker hands over."""

    batch: Batch | None
    """None if a place was left empty: neither its sample nor those after it can be read."""
    missing: int
    """Places whose own sample could not be read."""
    skips: SkipLog


class ShardLoader:
    """The part of each global batch that falls to one process; see `batches`.

    `readers`: for each kind its corpora, as in `order`. `workers`: processes of one thread each
    that decode; 0 decodes in this one. A sample that cannot be read is replaced by one that comes
    next; above `max_unreadable_fraction` of the last ones (up to `SAMPLES_REMEMBERED`, at least
    `SAMPLES_BEFORE_JUDGING`) the run stops. `on_skip` is given what was left out, each thing once.
    """

    def __init__(
        self,
        readers: Sequence[Sequence[CorpusReader]],
        order: BatchOrder,
        *,
        batch_size: int,
        rank: int = 0,
        workers: int = 0,
        seed: int = 0,
        max_unreadable_fraction: float = 1.0,
        on_skip: Callable[[Skipped], None] | None = None,
    ) -> None:
        self.skips = SkipLog()
        """What was left out so far, replacements that could not be read either included."""
        self._decoding = _DecodedBatches(readers)
        self._order = order
        self._places = range(rank * batch_size, (rank + 1) * batch_size)
        self._workers = workers
        self._seed = seed
        self._max_unreadable_fraction = max_unreadable_fraction
        self._on_skip = on_skip
        self._asked = self._missing = 0

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches from number `start` on, without end. Raises `TooManyUnreadableError`."""
        requests = (self._order.draws(number, places=self._places) for number in count(start))
        loader: DataLoader[_Delivery] = DataLoader(
            self._decoding,
            sampler=requests,
            batch_size=None,
            num_workers=self._workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(self._seed),
        )
        for delivery in loader:
            yield self._accepted(delivery)

    def _accepted(self, delivery: _Delivery) -> Batch:
        for skipped in self.skips.merge(delivery.skips):
            if self._on_skip is not None:
                self._on_skip(skipped)
        if self._asked >= SAMPLES_REMEMBERED:
            # Half of what was: a disk that fails late must show as clearly as one that fails early.
            self._asked, self._missing = self._asked // 2, self._missing // 2
        self._asked += len(self._places)
        self._missing += delivery.missing
        if delivery.batch is None:
            raise TooManyUnreadableError(
                f"neither a sample nor the ones after it can be read; {self._told()}"
            )
        if (
            self._asked >= SAMPLES_BEFORE_JUDGING
            and self._missing > self._max_unreadable_fraction * self._asked
        ):
            raise TooManyUnreadableError(
                f"{self._missing} of the last {self._asked} samples could not be read, above "
                f"max_unreadable_fraction {self._max_unreadable_fraction:g}; {self._told()}"
            )
        return delivery.batch

    def _told(self) -> str:
        return (
            f"left out: {self.skips.summary()}. Check the shards with `reelscan shards verify`; "
            "a resumed run goes on from its last checkpoint"
        )


class _DecodedBatches(Dataset[_Delivery]):
    """Batches by the draws they are made of."""

    def __init__(self, readers: Sequence[Sequence[CorpusReader]]) -> None:
        self._readers = readers

    def __getitem__(self, draws: Sequence[Draw]) -> _Delivery:
        skips, samples, missing = SkipLog(), [], 0
        for draw in draws:
            reader = self._readers[draw.kind][draw.corpus]
            sample = reader.read(draw.sample, pass_number=draw.pass_number, skips=skips)
            if sample is None:
                missing += 1
                sample = _replacement(reader, draw, skips)
            if sample is None:
                return _Delivery(batch=None, missing=missing, skips=skips)
            samples.append(sample)
        return _Delivery(batch=_collate(samples), missing=missing, skips=skips)


def _replacement(reader: CorpusReader, draw: Draw, skips: SkipLog) -> Sample | None:
    for number in draw.replacements:
        sample = reader.read(
            number, pass_number=draw.pass_number, skips=skips, instead_of=draw.sample
        )
        if sample is not None:
            return sample
    return None


def _collate(samples: Sequence[Sample]) -> Batch:
    shapes = {tuple(sample.clip_uint8.shape) for sample in samples}
    if len(shapes) > 1:
        raise ValueError(
            f"clips of one batch have the shapes {sorted(shapes)}: decode and augment must give "
            "one number of frames and one size"
        )
    return Batch(
        clips_uint8=torch.stack([sample.clip_uint8 for sample in samples]),
        captions=[sample.caption for sample in samples],
        sample_ids=torch.tensor([sample.sample_id for sample in samples], dtype=torch.int64),
    )


def _start_worker(worker: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _unchanged(delivery: Any) -> Any:
    return delivery
