"""Batches of a run, decoded in worker processes, each batch or part of one by one of them.

Axes: B clips, T frames, 3 colours, S x S pixels.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from reelscan.models.clip_vit import TeacherOutput
from reelscan.pretrain.sample_order import BatchOrder, Draw
from reelscan.pretrain.shard_address import is_remote
from reelscan.pretrain.shard_cache import ShardCache
from reelscan.pretrain.shard_prefetch import ShardPrefetch
from reelscan.pretrain.shard_reader import CorpusReader, Sample
from reelscan.pretrain.shard_store import StoredShard
from reelscan.pretrain.skip_log import SkipLog, Skipped
from reelscan.pretrain.taught_features import TaughtSample, stack_taught

SAMPLES_BEFORE_JUDGING = 200
SAMPLES_REMEMBERED = 20_000

Delivered = TypeVar("Delivered")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples for one step."""

    clips_uint8: Tensor
    """[B, T, 3, S, S]."""
    captions: list[str]
    """B, one drawn from those of each clip."""
    sample_ids: Tensor
    """int64 [B]."""
    taught: TeacherOutput | None = None
    """What a teacher sees in the clips, if that is at hand."""

    def rows(self, rows: slice) -> "Batch":
        """A part of it."""
        taught = self.taught
        if taught is not None:
            patches = taught.attention.shape[1]
            attention = taught.attention.reshape(len(self.captions), -1, patches)[rows]
            taught = TeacherOutput(
                features=taught.features[:, rows], attention=attention.reshape(-1, patches)
            )
        return Batch(
            clips_uint8=self.clips_uint8[rows],
            captions=self.captions[rows],
            sample_ids=self.sample_ids[rows],
            taught=taught,
        )


def join_batches(parts: Sequence[Batch]) -> Batch:
    """One batch of several, at least one, in their order."""
    if len(parts) == 1:
        return parts[0]
    taught = [part.taught for part in parts if part.taught is not None]
    return Batch(
        clips_uint8=torch.cat([part.clips_uint8 for part in parts]),
        captions=[caption for part in parts for caption in part.captions],
        sample_ids=torch.cat([part.sample_ids for part in parts]),
        taught=TeacherOutput(
            features=torch.cat([each.features for each in taught], dim=1),
            attention=torch.cat([each.attention for each in taught]),
        )
        if taught
        else None,
    )


@dataclass(frozen=True, kw_only=True)
class LookAhead:
    """Remote shards are fetched before they are needed."""

    cache: ShardCache
    """Where they are kept."""
    batches: int
    """How many batches before."""


class TooManyUnreadableError(ValueError):
    """More samples could not be read than the run allows."""


@dataclass(frozen=True, kw_only=True)
class _Delivery:
    """What a worker hands over."""

    clips_uint8: Tensor | None
    """None if a place was left empty: neither its sample nor those after it can be read."""
    captions: list[str]
    sample_ids: list[int]
    """No tensor: handing one over costs more than making one."""
    taught: TeacherOutput | None
    missing: int
    """Places whose own sample could not be read."""
    skips: SkipLog


class ShardLoader:
    """The part of each global batch that falls to one process; see `batches`.

    `readers`: for each kind its corpora, as in `order`. `workers`: processes of one thread each
    that decode; 0 decodes in this one. A sample that cannot be read is replaced by one that comes
    next; above `max_unreadable_fraction` of the last ones (up to `SAMPLES_REMEMBERED`, at least
    `SAMPLES_BEFORE_JUDGING`) the run stops. `on_skip` is given what was left out, each thing once.
    `look_ahead`: None fetches remote shards when they are needed. `parts`, which divide the batch,
    are decoded each by another worker: a worker holds one part in memory, not a whole batch.
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
        look_ahead: LookAhead | None = None,
        parts: int = 1,
    ) -> None:
        assert batch_size % parts == 0, "checked in the configuration"
        self.skips = SkipLog()
        """What was left out so far, replacements that could not be read either included."""
        self._decoding = _DecodedBatches(readers)
        self._order = order
        self._places = range(rank * batch_size, (rank + 1) * batch_size)
        self._workers = workers
        self._seed = seed
        self._max_unreadable_fraction = max_unreadable_fraction
        self._on_skip = on_skip
        self._look_ahead = look_ahead
        self._parts = parts
        self._asked = self._missing = 0

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches from number `start` on, without end. Raises `TooManyUnreadableError`."""
        deliveries = decoding_workers(
            self._decoding, sampler=self._requests(start), workers=self._workers, seed=self._seed
        )
        while True:
            yield join_batches([self._part(next(deliveries)) for _ in range(self._parts)])

    def _part(self, delivery: _Delivery) -> Batch:
        return Batch(
            clips_uint8=self._accepted(delivery),
            captions=delivery.captions,
            sample_ids=torch.tensor(delivery.sample_ids, dtype=torch.int64),
            taught=delivery.taught,
        )

    def _requests(self, start: int) -> Iterator[list[Draw]]:
        if self._look_ahead is None:
            for number in count(start):
                yield from self._draws_of_parts(number)
            return
        with ShardPrefetch(self._look_ahead.cache) as prefetch:
            for number in count(start):
                later = self._order.draws(number + self._look_ahead.batches, places=self._places)
                prefetch.want(self._decoding.remote_shards(later))
                yield from self._draws_of_parts(number)

    def _draws_of_parts(self, number: int) -> Iterator[list[Draw]]:
        draws = self._order.draws(number, places=self._places)
        size = len(draws) // self._parts
        return (draws[start : start + size] for start in range(0, len(draws), size))

    def _accepted(self, delivery: _Delivery) -> Tensor:
        """Its clips, after taking note of what was left out."""
        for skipped in self.skips.merge(delivery.skips):
            if self._on_skip is not None:
                self._on_skip(skipped)
        if self._asked >= SAMPLES_REMEMBERED:
            # Half of what was: a disk that fails late must show as clearly as one that fails early.
            self._asked, self._missing = self._asked // 2, self._missing // 2
        self._asked += len(self._places) // self._parts
        self._missing += delivery.missing
        if delivery.clips_uint8 is None:
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
        return delivery.clips_uint8

    def _told(self) -> str:
        return (
            f"left out: {self.skips.summary()}. Check the shards with `reelscan shards verify`; "
            "a resumed run goes on from its last checkpoint"
        )


class _DecodedBatches(Dataset[_Delivery]):
    """Batches by the draws they are made of."""

    def __init__(self, readers: Sequence[Sequence[CorpusReader]]) -> None:
        self._readers = readers

    def remote_shards(self, draws: Sequence[Draw]) -> Iterator[tuple[StoredShard, int]]:
        """The shards of some draws that are not on a local disk, and the pass of each."""
        for draw in draws:
            shard, _ = self._readers[draw.kind][draw.corpus].corpus.find(draw.sample)
            if is_remote(shard.address):
                yield shard, draw.pass_number

    def __getitem__(self, draws: Sequence[Draw]) -> _Delivery:
        skips, batch, missing = SkipLog(), _BatchMemory(len(draws)), 0
        for draw in draws:
            reader = self._readers[draw.kind][draw.corpus]
            sample = reader.read(draw.sample, pass_number=draw.pass_number, skips=skips)
            if sample is None:
                missing += 1
                sample = _replacement(reader, draw, skips)
            if sample is None:
                break
            batch.add(sample)
        return batch.delivery(missing=missing, skips=skips)


class _BatchMemory:
    """A batch being filled. Each clip is copied to its place at once, in a worker into memory that
    the training process sees: pages that are new to a process cost more than the copying."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._clips: Tensor | None = None
        self._samples: list[tuple[str, int]] = []
        self._taught: list[TaughtSample] = []

    def add(self, sample: Sample) -> None:
        clip = sample.clip_uint8
        if self._clips is None:
            self._clips = _new_memory((self._size, *clip.shape))
        elif self._clips.shape[1:] != clip.shape:
            raise ValueError(
                f"clips of one batch have the shapes {tuple(self._clips.shape[1:])} and "
                f"{tuple(clip.shape)}: decode and augment must give one number of frames and one "
                "size"
            )
        self._clips[len(self._samples)] = clip
        self._samples.append((sample.caption, sample.sample_id))
        if sample.taught is not None:
            self._taught.append(sample.taught)

    def delivery(self, *, missing: int, skips: SkipLog) -> _Delivery:
        is_full = len(self._samples) == self._size
        return _Delivery(
            clips_uint8=self._clips if is_full else None,
            captions=[caption for caption, _ in self._samples],
            sample_ids=[sample_id for _, sample_id in self._samples],
            taught=stack_taught(self._taught) if self._taught else None,
            missing=missing,
            skips=skips,
        )


def _new_memory(shape: tuple[int, ...]) -> Tensor:
    """uint8, not initialised; shared in a worker."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _replacement(reader: CorpusReader, draw: Draw, skips: SkipLog) -> Sample | None:
    for number in draw.replacements:
        sample = reader.read(
            number, pass_number=draw.pass_number, skips=skips, instead_of=draw.sample
        )
        if sample is not None:
            return sample
    return None


def decoding_workers(
    dataset: Dataset[Delivered], *, sampler: Iterable[Any], workers: int, seed: int
) -> Iterator[Delivered]:
    """What the dataset gives for each of the sampler's values, in their order, made in processes of
    one thread each (0: in this one)."""
    return iter(
        DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(seed),
        )
    )


def _start_worker(worker: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def _unchanged(delivery: Any) -> Any:
    return delivery
