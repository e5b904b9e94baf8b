"""Where the samples of a shard lie, in arrays: millions of them fit in memory, and processes share
them, which Python objects with their counters cannot be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from reelscan.pretrain.media_kind import MEDIA_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where the content of one file of a sample lies in its shard."""

    offset: int
    """First byte, counted from the start of the shard."""
    size: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class IndexedSample:
    """One sample of a shard."""

    key: str
    """Name of the sample, the same number in all of its members."""
    caption_count: int
    """At least 1."""
    suffix: str
    """Kind of the media, one of `MEDIA_SUFFIXES`."""
    media: Member
    description: Member
    follows: bool = False
    """Belongs to the group of the sample before it in the shard, and stays with it."""


class SampleRows(Sequence[IndexedSample]):
    """The samples of one shard, made into objects when they are asked for."""

    def __init__(self, samples: Sequence[IndexedSample]) -> None:
        self._keys = np.array([sample.key.encode("utf-8") for sample in samples], dtype=np.bytes_)
        self._numbers: NDArray[np.int64] = np.array(
            [
                (
                    sample.caption_count,
                    MEDIA_SUFFIXES.index(sample.suffix),
                    sample.media.offset,
                    sample.media.size,
                    sample.description.offset,
                    sample.description.size,
                )
                for sample in samples
            ],
            dtype=np.int64,
        ).reshape(-1, 6)
        self.follows: NDArray[np.bool_] = np.array([sample.follows for sample in samples], bool)
        """bool [samples]: see `IndexedSample.follows`; never true of the first."""
        self.follows[:1] = False

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> IndexedSample: ...
    @overload
    def __getitem__(self, place: slice) -> list[IndexedSample]: ...
    def __getitem__(self, place: int | slice) -> IndexedSample | list[IndexedSample]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        captions, suffix, *places = self._numbers[place].tolist()
        return IndexedSample(
            key=self._keys[place].decode("utf-8"),
            caption_count=captions,
            suffix=MEDIA_SUFFIXES[suffix],
            media=Member(offset=places[0], size=places[1]),
            description=Member(offset=places[2], size=places[3]),
            follows=bool(self.follows[place]),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
