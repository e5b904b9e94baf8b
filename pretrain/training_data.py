"""The batches of a run: from shards to normalised clips and token ids on the device.

Axes: B clips, T frames, 3 colours, S x S pixels.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.objective import TrainingBatch
from reelscan.pretrain.pretrain_config import DataConfig, PretrainConfig
from reelscan.pretrain.shard_loader import Batch, ShardLoader, make_loader
from reelscan.pretrain.shard_reader import ClipDecoder, ShardDataset
from reelscan.video.transforms import random_flip, random_resized_crop, resize


class ClipSource(Protocol):
    """Where a run gets its batches from: the same ones again for the same epoch and process."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, the same in every process."""

    @property
    def unreadable_samples(self) -> int:
        """Samples left out so far because they could not be read."""

    def batches(self, epoch: int, *, skip: int) -> Iterator[Batch]:
        """The batches of an epoch after the first `skip`."""


@dataclass(frozen=True, kw_only=True)
class RandomView:
    """The augmentation of a clip: one random crop and one mirroring for all of its frames."""

    size: int
    """Side of the square result in pixels."""
    crop_scale: tuple[float, float]
    """See `DataConfig`."""
    crop_ratio: tuple[float, float]
    """See `DataConfig`."""
    flip: bool
    """See `DataConfig`."""

    def __call__(self, clip_uint8: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 [T, 3, H, W] -> uint8 [T, 3, size, size]."""
        if self.crop_scale == (1.0, 1.0):
            view = resize(clip_uint8, self.size)
        else:
            view = random_resized_crop(
                clip_uint8,
                self.size,
                scale=self.crop_scale,
                ratio=self.crop_ratio,
                generator=generator,
            )
        return random_flip(view, generator=generator) if self.flip else view


class ShardSource:
    """Batches of several shard sets, mixed in random order; every batch comes from one set."""

    def __init__(self, loaders: Sequence[ShardLoader], *, seed: int) -> None:
        self._loaders = loaders
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        return sum(len(loader) for loader in self._loaders)

    @property
    def unreadable_samples(self) -> int:
        return sum(loader.skips.counts.total() for loader in self._loaders)

    def batches(self, epoch: int, *, skip: int) -> Iterator[Batch]:
        for loader in self._loaders:
            loader.set_epoch(epoch)
        # All processes draw the same order, so that they see images, or videos, at the same time.
        order = [which for which, loader in enumerate(self._loaders) for _ in range(len(loader))]
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        return islice(_mixed([iter(loader) for loader in self._loaders], order), skip, None)


def _mixed(streams: Sequence[Iterator[Batch]], order: Sequence[int]) -> Iterator[Batch]:
    for which in order:
        yield next(streams[which])
    for stream in streams:
        # Only at its end does a loader know all that was unreadable.
        assert next(stream, None) is None, "a loader gives as many batches as its length says"


def open_shards(config: PretrainConfig, processes: Processes) -> ShardSource:
    """The shards of this process. Raises ValueError if none are given or a set is too small."""
    data, vision = config.data, config.model.vision
    if not data.shards and not data.image_shards:
        raise ValueError("data.shards is empty; give the index file (NAME.index.json) of a set")
    frames = [vision.frames] * len(data.shards) + [1] * len(data.image_shards)
    loaders = [
        _open_set(path, frames=count, size=vision.image_size, config=config, processes=processes)
        for path, count in zip((*data.shards, *data.image_shards), frames, strict=True)
    ]
    return ShardSource(loaders, seed=config.run.seed)


def to_training_batch(
    batch: Batch, *, tokenizer: Tokenizer, preprocessing: Preprocessing, device: torch.device
) -> TrainingBatch:
    """Moves, normalises and tokenizes; captions are padded to the longest of the batch."""
    text = tokenizer(batch.captions, max_tokens=preprocessing.max_text_tokens, pad_to_longest=True)
    return TrainingBatch(
        clips=preprocessing.normalise(_moved(batch.clips_uint8, device)),
        text=text.to(device),
        sample_ids=batch.sample_ids.to(device),
    )


def _open_set(
    path: Path, *, frames: int, size: int, config: PretrainConfig, processes: Processes
) -> ShardLoader:
    data = config.data
    dataset = ShardDataset(
        path,
        decode=ClipDecoder(
            frames=frames, frame_size=data.decode_size or size, sampling=data.sampling
        ),
        augment=_view(data, size=size),
        seed=config.run.seed,
        cache_bytes=data.cache_bytes,
        sample_ids=data.sample_ids,
        rank=processes.rank,
        world_size=processes.count,
    )
    return make_loader(dataset, batch_size=data.batch_size, workers=data.workers)


def _view(data: DataConfig, *, size: int) -> RandomView:
    return RandomView(
        size=size, crop_scale=data.crop_scale, crop_ratio=data.crop_ratio, flip=data.flip
    )


def _moved(clips_uint8: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return clips_uint8.pin_memory().to(device, non_blocking=True)
    return clips_uint8
