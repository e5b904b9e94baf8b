"""One sample of a corpus by its number, decoded. Batches: `shard_loader.py`.

Every random choice follows from (seed, pass, sample): who reads a sample, and when, do not matter.

Axes: T frames, 3 colours, S x S pixels.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reelscan.pretrain.clip_cache import ClipCache
from reelscan.pretrain.media_kind import MEDIA_SUFFIXES, media_suffix
from reelscan.pretrain.sample_order import stable_number
from reelscan.pretrain.shard_list import Corpus
from reelscan.pretrain.shard_sample import (
    DESCRIPTION_SUFFIX,
    Description,
    parse_description,
    sample_source,
)
from reelscan.pretrain.shard_store import ShardLostError, ShardStore
from reelscan.pretrain.skip_log import SkipLog, Skipped
from reelscan.pretrain.taught_features import TaughtFeatures, TaughtSample
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
    """One of them, drawn anew each pass."""
    sample_id: int
    """Below 2**63; the same for the same sample in every pass, in no other corpus unless asked
    for (`sample_ids`)."""
    source: str
    """Shard and key, for messages."""
    taught: TaughtSample | None = None
    """What a teacher sees in it, if that is at hand."""


class CorpusReader:
    """Reads and decodes the samples of a corpus.

    `decode`, `augment`: see their types. What a `VideoError` stops is skipped.
    `cache`: keeps results of `decode`, and its random choices with them; `augment` still sees each
    clip anew each pass.
    `sample_ids`: "unique" over all corpora, or "per_corpus" by the key in the corpus alone.
    `taught`: what a teacher sees, to be handed out with each clip.
    """

    def __init__(
        self,
        corpus: Corpus,
        store: ShardStore,
        *,
        decode: Decode,
        augment: Augment | None = None,
        seed: int = 0,
        cache: ClipCache | None = None,
        sample_ids: Literal["unique", "per_corpus"] = "unique",
        taught: TaughtFeatures | None = None,
    ) -> None:
        self.corpus = corpus
        self._store = store
        self._decode = decode
        self._augment = augment
        self._seed = seed
        self._cache = cache
        self._taught = taught
        self._ids_per_corpus = sample_ids == "per_corpus"

    def read(
        self, number: int, *, pass_number: int, skips: SkipLog, instead_of: int | None = None
    ) -> Sample | None:
        """Sample `number`, or None after a note in `skips` why there is none.

        `instead_of`: the sample whose place it takes; it then looks other than in its own place.
        """
        visit = (pass_number, -1 if instead_of is None else instead_of)
        shard, row = self.corpus.find(number)
        source = sample_source(shard.name, row.key, row.suffix)
        try:
            media, description_bytes = self._store.read(shard, row, pass_number=pass_number)
        except ShardLostError as error:
            skips.add(Skipped(reason="shard", source=shard.name, detail=str(error)))
            return None
        try:
            description = parse_description(description_bytes)
        except ValueError as error:
            place = sample_source(shard.name, row.key, DESCRIPTION_SUFFIX)
            skips.add(Skipped(reason="json", source=place, detail=str(error)))
            return None
        try:
            clip = self._clip(media, source, visit=(number, *visit))
        except VideoError as error:
            skips.add(Skipped(reason="video", source=source, detail=error.reason))
            return None
        return self._finished(clip, description, source, key=row.key, visit=(number, *visit))

    def _clip(self, media: bytes, source: str, *, visit: tuple[int, ...]) -> Tensor:
        if self._cache is None:
            return self._decoded(media, source, seed=self._number("decode", *visit))
        # By content, and with a seed that follows from it alone: what is kept must not depend on
        # which sample or pass came first.
        content = hashlib.blake2b(media, digest_size=16).hexdigest()
        clip = self._cache.get(content)
        if clip is None:
            clip = self._decoded(media, source, seed=stable_number(self._seed, content))
            self._cache.put(content, clip)
        return clip

    def _decoded(self, media: bytes, source: str, *, seed: int) -> Tensor:
        clip = self._decode(media, source, torch.Generator().manual_seed(seed))
        _check_clip(clip, "decode")
        return clip

    def _finished(
        self,
        clip: Tensor,
        description: Description,
        source: str,
        *,
        key: str,
        visit: tuple[int, ...],
    ) -> Sample:
        generator = torch.Generator().manual_seed(self._number("augment", *visit))
        captions = description.captions
        drawn = int(torch.randint(len(captions), (), generator=generator))
        if self._augment is not None:
            clip = self._augment(clip, generator)
            _check_clip(clip, "augment")
        ours = (key,) if self._ids_per_corpus else (self.corpus.name, source)
        return Sample(
            clip_uint8=clip,
            captions=captions,
            caption=captions[drawn],
            sample_id=stable_number(*ours),
            source=source,
            taught=None if self._taught is None else self._taught.read(visit[0]),
        )

    def _number(self, purpose: str, *visit: int) -> int:
        return stable_number(self._seed, purpose, self.corpus.name, *visit)


def _check_clip(clip: Tensor, by: str) -> None:
    if clip.dtype != torch.uint8 or clip.ndim != 4 or clip.shape[1] != 3:
        raise ValueError(
            f"{by} gave {clip.dtype} {tuple(clip.shape)}, but must give uint8 [T, 3, S, S]"
        )
