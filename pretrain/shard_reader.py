"""Reads shards for training: in another order each epoch, decoded. Batches: `shard_loader.py`.

Every random choice follows from (seed, epoch) and the sample; only the order of the samples also
depends on the number of workers and processes.

Axes: T frames, 3 colours, S x S pixels.
"""

import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from reelscan.pretrain.media_kind import MEDIA_SUFFIXES, media_suffix
from reelscan.pretrain.shard_list import Shard, list_shards, open_shard
from reelscan.pretrain.shard_sample import RawSample
from reelscan.pretrain.shard_tar import read_samples, sample_source
from reelscan.pretrain.skip_log import SkipLog, Skipped
from reelscan.video.decode import read_clip
from reelscan.video.errors import VideoError

Decode = Callable[[bytes, str, torch.Generator], Tensor]
"""(encoded video or image, name for messages, generator) -> uint8 [T, 3, S, S]."""
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""(uint8 [T, 3, S, S], generator) -> uint8 [T, 3, S, S]."""


@dataclass(frozen=True, kw_only=True)
class ClipDecoder:
    """The usual `decode`: frames of a fixed number and size."""

    frames: int = 8
    """Frames a clip."""
    frame_size: int = 224
    """Side of the square frames in pixels."""
    sampling: str = "middle"
    """How `read_clip` chooses frames; "random" draws them from the generator."""

    def __call__(self, media: bytes, name: str, generator: torch.Generator) -> Tensor:
        if media_suffix(media) is None:
            # A playlist in place of a video would name files of its own choice.
            raise VideoError(name, f"is none of {', '.join(MEDIA_SUFFIXES)} by its content")
        clip = read_clip(
            media,
            frames=self.frames,
            frame_size=self.frame_size,
            sampling=self.sampling,
            generator=generator,
            name=name,
        )
        return clip.frames_uint8


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A decoded clip with its captions."""

    clip_uint8: Tensor
    """[T, 3, S, S]."""
    captions: tuple[str, ...]
    """All of them, at least one."""
    caption: str
    """One of them, drawn anew each epoch."""
    sample_id: int
    """Below 2**63; the same for the same sample in every epoch, in no other corpus unless asked
    for (`sample_ids`)."""
    source: str
    """Shard and key, for messages."""


class ShardDataset(IterableDataset[Sample]):
    """One pass over the shards of this process and worker, in the order of the current epoch.

    `shards`: a `NAME.index.json` or a list of tar files (see `list_shards`, also for `corpus` and
    `allow_pipe`).
    `decode`, `augment`: see their types. What a `VideoError` stops is skipped; see `skips`.
    `shuffle_samples`, `shuffle_bytes`: a buffer that samples are drawn from; it spans shards and is
    full when it holds that many samples or encoded bytes. Neighbours of one group stay together.
    `cache_bytes`: above 0, results of `decode` are kept in memory, in each worker up to this many
    bytes, and its random choices with them; `augment` still sees each clip anew each epoch. Every
    worker then keeps its shards over the epochs.
    `sample_ids`: "unique" over all corpora, or "per_corpus" by the key in the corpus alone.
    `rank`, `world_size`: number of this process and count of processes; by default those of
    torch.distributed, if it is in use. Shards are dealt to processes, then to workers.
    """

    def __init__(
        self,
        shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        decode: Decode | None = None,
        augment: Augment | None = None,
        corpus: str | None = None,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_samples: int = 1_000,
        shuffle_bytes: int = 256_000_000,
        cache_bytes: int = 0,
        sample_ids: Literal["unique", "per_corpus"] = "unique",
        allow_pipe: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self.corpus = list_shards(shards, corpus=corpus, allow_pipe=allow_pipe)
        self.seed = seed
        self.rank, self.world_size = _place(rank, world_size)
        self.skips = SkipLog()
        """Skips of this process; those of workers arrive at the `ShardLoader`."""
        if shuffle and (shuffle_samples < 1 or shuffle_bytes < 1):
            raise ValueError(
                f"shuffle_samples {shuffle_samples} and shuffle_bytes {shuffle_bytes} must be at "
                "least 1: to keep the order, say shuffle=False"
            )
        self._decode = decode if decode is not None else ClipDecoder()
        self._augment = augment
        self._ids_per_corpus = sample_ids == "per_corpus"
        self._shuffle = shuffle
        self._shuffle_samples = shuffle_samples
        self._shuffle_bytes = shuffle_bytes
        self._cache = _ClipCache(cache_bytes) if cache_bytes > 0 else None
        # Shared memory, so that workers that live on learn of the next epoch.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Call before each epoch, also with workers that live on."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        return self.samples(
            epoch=self.epoch,
            worker=worker.id if worker else 0,
            workers=worker.num_workers if worker else 1,
        )

    def samples(self, *, epoch: int, worker: int, workers: int, lap: int = 0) -> Iterator[Sample]:
        """One pass of one worker over its shards; laps after the first go over all those of its
        process, in other orders."""
        shards = self.shards_of(epoch, worker=worker, workers=workers)
        order = random.Random(_seed(self.seed, epoch, lap, worker, self.rank))
        if lap > 0:
            shards = self.shards_of(epoch, worker=0, workers=1)
            order.shuffle(shards)
        raw = self._raw_samples(shards)
        if self._shuffle:
            raw = _shuffled(
                raw,
                max_samples=self._shuffle_samples,
                max_bytes=self._shuffle_bytes,
                order=order,
            )
        for shard, sample in raw:
            source = sample_source(shard.name, sample.key, sample.suffix)
            clip = self._decoded(sample, source, visit=(epoch, lap))
            if clip is not None:
                yield self._finished(clip, sample, source, visit=(epoch, lap))

    def shards_of(self, epoch: int, *, worker: int, workers: int) -> list[Shard]:
        """The shards of one worker of this process in the order in which it reads them."""
        shards = list(self.corpus.shards)
        if self._shuffle and self._cache is None:
            random.Random(_seed(self.seed, epoch)).shuffle(shards)
        mine = shards[self.rank :: self.world_size][worker::workers]
        if self._shuffle and self._cache is not None:
            random.Random(_seed(self.seed, epoch)).shuffle(mine)
        return mine

    def _raw_samples(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, RawSample]]:
        for shard in shards:
            with open_shard(shard) as stream:
                for sample in self._samples_of(shard, stream):
                    yield shard, sample

    def _samples_of(self, shard: Shard, stream: BufferedReader) -> Iterator[RawSample]:
        found = skipped = 0

        def note(skip: Skipped) -> None:
            nonlocal skipped
            skipped += 1
            self.skips.add(skip)

        for sample in read_samples(stream, shard=shard.name, on_skip=note):
            found += 1
            yield sample
        # tarfile takes some damage for the end of the archive.
        if shard.samples is not None and found != shard.samples and not skipped:
            detail = f"gave {found} samples, but its index says {shard.samples}"
            self.skips.add(Skipped(reason="shard", source=shard.name, detail=detail))

    def _decoded(self, sample: RawSample, source: str, *, visit: tuple[int, int]) -> Tensor | None:
        """`visit`: epoch and lap."""
        if self._cache is None:
            return self._decode_or_skip(sample.media, source, seed=_seed(self.seed, source, *visit))
        # By content, and with a seed that follows from it alone: what is kept must not depend on
        # which sample or epoch came first.
        content = hashlib.blake2b(sample.media, digest_size=16).hexdigest()
        clip = self._cache.get(content)
        if clip is None:
            clip = self._decode_or_skip(sample.media, source, seed=_seed(self.seed, content))
            if clip is not None:
                self._cache.put(content, clip)
        return clip

    def _decode_or_skip(self, media: bytes, source: str, *, seed: int) -> Tensor | None:
        try:
            clip = self._decode(media, source, torch.Generator().manual_seed(seed))
        except VideoError as error:
            self.skips.add(Skipped(reason="video", source=source, detail=error.reason))
            return None
        _check_clip(clip, "decode")
        return clip

    def _finished(
        self, clip: Tensor, sample: RawSample, source: str, *, visit: tuple[int, int]
    ) -> Sample:
        seed = _seed(self.seed, "augment", source, *visit)
        generator = torch.Generator().manual_seed(seed)
        captions = sample.description.captions
        drawn = int(torch.randint(len(captions), (), generator=generator))
        if self._augment is not None:
            clip = self._augment(clip, generator)
            _check_clip(clip, "augment")
        return Sample(
            clip_uint8=clip,
            captions=captions,
            caption=captions[drawn],
            sample_id=(
                _seed(sample.key) if self._ids_per_corpus else _seed(self.corpus.name, source)
            ),
            source=source,
        )


class _ClipCache:
    """Clips by content until they fill `max_bytes`. None is ever thrown out: with a new order each
    epoch, no clip is more likely to be asked for than another."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clips: dict[str, Tensor] = {}

    def get(self, content: str) -> Tensor | None:
        clip = self._clips.get(content)
        return None if clip is None else clip.clone()

    def put(self, content: str, clip: Tensor) -> None:
        if self._bytes + clip.nbytes <= self._max_bytes:
            self._clips[content] = clip.clone()
            self._bytes += clip.nbytes


def _shuffled(
    samples: Iterator[tuple[Shard, RawSample]],
    *,
    max_samples: int,
    max_bytes: int,
    order: random.Random,
) -> Iterator[tuple[Shard, RawSample]]:
    """Draws from a buffer of samples; neighbours of one group are drawn together."""
    buffer: list[_Entry] = []
    held = waiting = 0
    for entry in _grouped(samples):
        buffer.append(entry)
        held += _bytes_of(entry)
        waiting += len(entry)
        while waiting >= max_samples or held >= max_bytes:
            drawn = _draw(buffer, order)
            held -= _bytes_of(drawn)
            waiting -= len(drawn)
            yield from drawn
    while buffer:
        yield from _draw(buffer, order)


_Entry = list[tuple[Shard, RawSample]]


def _grouped(samples: Iterator[tuple[Shard, RawSample]]) -> Iterator[_Entry]:
    """Runs of samples of one group; a sample of no group is a run of its own."""
    run: _Entry = []
    for shard, sample in samples:
        group = sample.description.group
        if run and (group is None or group != run[-1][1].description.group):
            yield run
            run = []
        run.append((shard, sample))
    if run:
        yield run


def _bytes_of(entry: _Entry) -> int:
    return sum(len(sample.media) for _, sample in entry)


def _draw(buffer: list[_Entry], order: random.Random) -> _Entry:
    place = order.randrange(len(buffer))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()


def _check_clip(clip: Tensor, by: str) -> None:
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(
            f"{by} gave {clip.dtype} {tuple(clip.shape)}, but must give uint8 [T, 3, S, S]"
        )


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ValueError("give both rank and world_size, or neither")
    if rank is None or world_size is None:
        joined = dist.is_available() and dist.is_initialized()
        return (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}, but must be 0 to {world_size - 1}")
    return rank, world_size


def _seed(*parts: int | str) -> int:
    """A number below 2**63 that depends on all parts and their order."""
    digest = hashlib.blake2b(repr(parts).encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
