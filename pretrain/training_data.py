"""The batches of a run: from shards to normalised clips and token ids on the device.

Axes: B clips, T frames, 3 colours, S x S pixels.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from reelscan.models.clip_vit import TeacherOutput
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.pretrain.clip_cache import ClipCache
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.objective import TrainingBatch
from reelscan.pretrain.pretrain_config import DataConfig, PretrainConfig
from reelscan.pretrain.sample_order import BatchOrder, CorpusOrder, KindOrder
from reelscan.pretrain.shard_cache import ShardCache
from reelscan.pretrain.shard_list import Corpus, open_corpus
from reelscan.pretrain.shard_loader import Batch, LookAhead, ShardLoader
from reelscan.pretrain.shard_reader import ClipDecoder, CorpusReader
from reelscan.pretrain.shard_store import Retries, ShardStore
from reelscan.pretrain.skip_log import Skipped
from reelscan.pretrain.taught_features import TaughtFeatures
from reelscan.video.transforms import random_flip, random_resized_crop, resize


class ClipSource(Protocol):
    """Where a run gets its batches from: the same one again for the same step and process."""

    @property
    def unreadable_samples(self) -> int:
        """Samples left out so far because they could not be read."""

    def steps_in(self, epochs: int) -> int:
        """Steps that so many epochs take, the same in every process."""

    def batches(self, step: int) -> Iterator[Batch]:
        """The batches of this process from step number `step` on, without end."""


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
    """Batches of any number of shard sets: videos mixed by weight, images mixed by weight, and
    batches of videos and of images in random order."""

    def __init__(self, loader: ShardLoader, order: BatchOrder) -> None:
        self._loader = loader
        self._order = order

    @property
    def unreadable_samples(self) -> int:
        return self._loader.skips.counts.total()

    def steps_in(self, epochs: int) -> int:
        return self._order.batches_in(epochs)

    def batches(self, step: int) -> Iterator[Batch]:
        return self._loader.batches(step)


def open_shards(
    config: PretrainConfig, processes: Processes, *, skip_list: Path | None = None
) -> ShardSource:
    """The shards of this process.

    `skip_list`: file to which what cannot be read is added, a line of json each. Raises ValueError
    if no shards are given, an index cannot be read, or a kind has less than a batch.
    """
    data, vision = config.data, config.model.vision
    if not data.shards and not data.image_shards:
        raise ValueError("data.shards is empty; give the index file (NAME.index.json) of a set")
    retries = Retries(times=data.shard_retries)
    given = (
        (data.shards, data.weights, data.taught, vision.frames),
        (data.image_shards, data.image_weights, data.image_taught, 1),
    )
    kinds = [
        _Kind(
            corpora=[open_corpus(index, retries=retries) for index in indexes],
            weights=weights or (1.0,) * len(indexes),
            taught=taught,
            frames=frames,
        )
        for indexes, weights, taught, frames in given
        if indexes
    ]
    order = _order(kinds, config, processes)
    cache = _cache(kinds, data)
    loader = ShardLoader(
        _readers(kinds, config, ShardStore(cache=cache, retries=retries)),
        order,
        batch_size=data.batch_size,
        rank=processes.rank,
        workers=data.workers,
        seed=config.run.seed,
        max_unreadable_fraction=data.max_unreadable_fraction,
        on_skip=_appender(skip_list) if skip_list is not None else None,
        look_ahead=_look_ahead(kinds, data, cache, global_batch=data.batch_size * processes.count),
        parts=config.parallel.accumulate,
    )
    return ShardSource(loader, order)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """Videos, or images."""

    corpora: Sequence[Corpus]
    weights: Sequence[float]
    taught: Sequence[Path]
    """For each corpus the features of a teacher; empty for none."""
    frames: int
    """Of a clip."""


def _order(kinds: Sequence[_Kind], config: PretrainConfig, processes: Processes) -> BatchOrder:
    data, seed = config.data, config.run.seed
    global_batch = data.batch_size * processes.count
    orders = [
        KindOrder(
            [
                CorpusOrder(
                    corpus.name,
                    follows=[rows.follows for rows in corpus.rows],
                    weight=weight,
                    seed=seed,
                    shuffle_shards=data.shuffle_shards,
                )
                for corpus, weight in zip(kind.corpora, kind.weights, strict=True)
            ],
            seed=seed,
            kind=number,
        )
        for number, kind in enumerate(kinds)
    ]
    for order, kind in zip(orders, kinds, strict=True):
        if order.seen(1) < global_batch:
            names = ", ".join(corpus.name.rpartition("-")[0] for corpus in kind.corpora)
            raise ValueError(
                f"an epoch of {names} has {order.seen(1)} samples, fewer than the {global_batch} "
                "of a step in all processes: choose a smaller batch_size or a larger weight"
            )
    return BatchOrder(orders, global_batch=global_batch, seed=seed)


def _readers(
    kinds: Sequence[_Kind], config: PretrainConfig, store: ShardStore
) -> list[list[CorpusReader]]:
    data, size = config.data, config.model.vision.image_size
    cache = ClipCache(data.cache_bytes) if data.cache_bytes > 0 else None
    return [
        [
            CorpusReader(
                corpus,
                store,
                decode=ClipDecoder(
                    frames=kind.frames,
                    frame_size=data.decode_size or size,
                    sampling=data.sampling,
                ),
                augment=_view(data, size=size),
                seed=config.run.seed,
                cache=cache,
                sample_ids=data.sample_ids,
                taught=TaughtFeatures(folder, corpus, frames=kind.frames, size=size)
                if folder is not None
                else None,
            )
            for corpus, folder in zip_longest(kind.corpora, kind.taught)
        ]
        for kind in kinds
    ]


def _cache(kinds: Sequence[_Kind], data: DataConfig) -> ShardCache | None:
    """Raises ValueError if the shards that are shuffled together do not fit in the cache."""
    if data.shard_cache is None:
        return None
    needed = _bytes_in_use(kinds, data)
    if needed > data.shard_cache_bytes:
        raise ValueError(
            f"shard_cache_bytes is {data.shard_cache_bytes}, but the shards that are shuffled "
            f"together take {needed} bytes and would be fetched again and again: give more bytes, "
            f"or lower shuffle_shards ({data.shuffle_shards})"
        )
    return ShardCache(data.shard_cache, max_bytes=data.shard_cache_bytes)


def _bytes_in_use(kinds: Sequence[_Kind], data: DataConfig) -> int:
    """Of the remote shards that are shuffled together, at most."""
    return sum(
        corpus.window_bytes(max(data.shuffle_shards, 1))
        for kind in kinds
        for corpus in kind.corpora
        if corpus.is_remote
    )


def _look_ahead(
    kinds: Sequence[_Kind], data: DataConfig, cache: ShardCache | None, *, global_batch: int
) -> LookAhead | None:
    """Half of what is shuffled together, if the cache has room for the next shards as well."""
    remote = [corpus for kind in kinds for corpus in kind.corpora if corpus.is_remote]
    if cache is None or not remote or data.shard_cache_bytes < 2 * _bytes_in_use(kinds, data):
        return None
    samples = min(
        corpus.sample_count * max(data.shuffle_shards, 1) // len(corpus.shards) for corpus in remote
    )
    return LookAhead(cache=cache, batches=max(1, samples // (2 * global_batch)))


def _appender(path: Path) -> Callable[[Skipped], None]:
    def append(skipped: Skipped) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(skipped), ensure_ascii=False) + "\n")

    return append


def to_training_batch(
    batch: Batch, *, tokenizer: Tokenizer, preprocessing: Preprocessing, device: torch.device
) -> TrainingBatch:
    """Moves, normalises and tokenizes; captions are padded to the longest of the batch."""
    text = tokenizer(batch.captions, max_tokens=preprocessing.max_text_tokens, pad_to_longest=True)
    return TrainingBatch(
        clips=preprocessing.normalise(_moved(batch.clips_uint8, device)),
        text=text.to(device),
        sample_ids=batch.sample_ids.to(device),
        taught=None if batch.taught is None else _taught_on(batch.taught, device),
    )


def _taught_on(taught: TeacherOutput, device: torch.device) -> TeacherOutput:
    return TeacherOutput(features=taught.features.to(device), attention=taught.attention.to(device))


def _view(data: DataConfig, *, size: int) -> RandomView:
    return RandomView(
        size=size, crop_scale=data.crop_scale, crop_ratio=data.crop_ratio, flip=data.flip
    )


def _moved(clips_uint8: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        return clips_uint8.pin_memory().to(device, non_blocking=True)
    return clips_uint8
