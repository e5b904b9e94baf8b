"""Batches of a `ShardDataset`, decoded in worker processes.

Axes: B clips, T frames, 3 colours, S x S pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from reelscan.pretrain.shard_reader import Sample, ShardDataset
from reelscan.pretrain.skip_log import SkipLog


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples for one step."""

    clips_uint8: Tensor
    """[B, T, 3, S, S]."""
    captions: list[str]
    """B, one drawn from those of each clip."""
    sample_ids: Tensor
    """int64 [B]."""


@dataclass(frozen=True, kw_only=True)
class _Delivery:
    """What a worker hands over."""

    batch: Batch | None
    skips: SkipLog


class _Batches(IterableDataset[_Delivery]):
    """Batches of one worker, with what was skipped on the way."""

    def __init__(
        self, dataset: ShardDataset, *, batch_size: int, drop_last: bool, workers: int
    ) -> None:
        self.dataset = dataset
        self._batch_size = batch_size
        self._drop_last = drop_last
        self._workers = max(workers, 1)
        sizes = [shard.samples for shard in dataset.corpus.shards]
        self.per_epoch: int | None = None
        """Batches an epoch of this process; None if that is not fixed."""
        if drop_last and None not in sizes:
            total = sum(size for size in sizes if size is not None)
            self.per_epoch = total // (batch_size * dataset.world_size)

    def __iter__(self) -> Iterator[_Delivery]:
        # The epoch is read here, not at the first batch: by then it may be the next one.
        worker = get_worker_info()
        return self._deliveries(self.dataset.epoch, worker.id if worker else 0)

    def _deliveries(self, epoch: int, worker: int) -> Iterator[_Delivery]:
        if self.per_epoch is None:
            samples = self.dataset.samples(epoch=epoch, worker=worker, workers=self._workers)
            limit = None
        else:
            samples = self._laps(epoch, worker)
            limit = self._shares(epoch, self.per_epoch)[worker]
        for _ in range(limit) if limit is not None else count():
            batch = list(islice(samples, self._batch_size))
            if not batch or (len(batch) < self._batch_size and self._drop_last):
                break
            yield self._delivery(_collate(batch))
        yield self._delivery(None)

    def _delivery(self, batch: Batch | None) -> _Delivery:
        skips, self.dataset.skips = self.dataset.skips, SkipLog()
        return _Delivery(batch=batch, skips=skips)

    def _laps(self, epoch: int, worker: int) -> Iterator[Sample]:
        """Without end: after the shards of this worker, those of its process, again and again."""
        for lap in count():
            found = False
            for sample in self.dataset.samples(
                epoch=epoch, worker=worker, workers=self._workers, lap=lap
            ):
                found = True
                yield sample
            if lap > 0 and not found:
                raise ValueError(
                    f"process {self.dataset.rank} found nothing in {self.dataset.corpus.name}; "
                    f"left out: {self.dataset.skips.summary()}"
                )

    def _shares(self, epoch: int, batches: int) -> list[int]:
        """How many of the batches each worker gives, in proportion to the samples it has."""
        samples = [
            sum(shard.samples or 0 for shard in shards)
            for shards in (
                self.dataset.shards_of(epoch, worker=worker, workers=self._workers)
                for worker in range(self._workers)
            )
        ]
        if sum(samples) == 0:
            raise ValueError(f"no shard of process {self.dataset.rank} holds a sample")
        ideal = [batches * own / sum(samples) for own in samples]
        shares = [int(share) for share in ideal]
        by_remainder = sorted(range(len(ideal)), key=lambda worker: shares[worker] - ideal[worker])
        for worker in by_remainder[: batches - sum(shares)]:
            shares[worker] += 1
        return shares


class ShardLoader(DataLoader[_Delivery]):
    """Batches of a `ShardDataset`; made by `make_loader`.

    With an index and `drop_last`, every epoch has `len(loader)` batches in every process: who has
    fewer samples reads some twice, who has more leaves some out this time. Otherwise
    an epoch is one pass and has no known length.
    """

    def __init__(self, batches: _Batches, *, workers: int) -> None:
        self.skips = SkipLog()
        """What was left out in the epochs read to their end, by all workers."""
        super().__init__(
            batches,
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            worker_init_fn=_start_worker,
            generator=torch.Generator().manual_seed(batches.dataset.seed),
            persistent_workers=workers > 0,
        )
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Call before each epoch."""
        self._batches.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        if self._batches.per_epoch is None:
            raise TypeError("without an index or drop_last, the number of batches is not known")
        return self._batches.per_epoch

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        delivered = 0
        for delivery in super().__iter__():
            self.skips.merge(delivery.skips)
            if delivery.batch is not None:
                delivered += 1
                yield delivery.batch
        if delivered == 0:
            raise ValueError(f"the shards gave no batch; left out: {self.skips.summary()}")


def make_loader(
    dataset: ShardDataset, *, batch_size: int, workers: int = 0, drop_last: bool = True
) -> ShardLoader:
    """Batches of one size, decoded in `workers` processes of one thread each (0: in this one).

    Without `drop_last`, each worker's last batch may be smaller. Raises ValueError if a process
    would be left without a shard or a full batch.
    """
    if batch_size < 1 or workers < 0:
        raise ValueError(f"batch_size is {batch_size} (at least 1), workers {workers} (at least 0)")
    shards = len(dataset.corpus.shards)
    if shards < dataset.world_size:
        raise ValueError(
            f"{shards} shards for {dataset.world_size} processes, but each needs one of its own: "
            "write the corpus with fewer samples_per_shard"
        )
    batches = _Batches(dataset, batch_size=batch_size, drop_last=drop_last, workers=workers)
    if batches.per_epoch == 0:
        raise ValueError(
            f"the corpus has fewer than {batch_size} samples for each of {dataset.world_size} "
            "processes: choose a smaller batch_size or drop_last=False"
        )
    if batches.per_epoch is None and drop_last and dataset.world_size > 1:
        raise ValueError("shards without an index give processes different numbers of batches")
    return ShardLoader(batches, workers=workers)


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
