"""Which ids a FAISS search may return, and how many inverted lists it looks into."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

# The type stubs that come with FAISS lack the keyword arguments its Python layer adds.
_FAISS: Any = faiss


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A FAISS selector with the memory that it points into."""

    selector: Any
    keep_alive: Any


def all_but(gone: NDArray[np.int64]) -> Selection | None:
    """Every id except these; None if there are none to leave out."""
    if len(gone) == 0:
        return None
    batch = _FAISS.IDSelectorBatch(gone)
    return Selection(selector=_FAISS.IDSelectorNot(batch), keep_alive=batch)


class Allowed:
    """The ids that a search may return; the bits for FAISS are made once, whoever asks."""

    def __init__(self, segment_ids: NDArray[np.int64]) -> None:
        """`segment_ids` are ascending."""
        self.segment_ids = segment_ids

    def count_up_to(self, last: int) -> int:
        """How many of the ids are at most `last`."""
        return int(np.searchsorted(self.segment_ids, last, side="right"))

    def contains(self, segment_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For each of these whether it is allowed."""
        if len(self.segment_ids) == 0:
            return np.zeros(len(segment_ids), bool)
        places = np.searchsorted(self.segment_ids, segment_ids)
        places = np.minimum(places, len(self.segment_ids) - 1)
        same: NDArray[np.bool_] = self.segment_ids[places] == segment_ids
        return same

    @cached_property
    def selection(self) -> Selection:
        """A bit for each id: one look-up a row, however many are allowed."""
        allowed = np.zeros(int(self.segment_ids.max(initial=0)) + 1, bool)
        allowed[self.segment_ids] = True
        bits = np.packbits(allowed, bitorder="little")
        return Selection(selector=_FAISS.IDSelectorBitmap(bits), keep_alive=bits)


def search_parameters(*, lists: int, selection: Selection | None = None) -> Any:
    """For `index.search(..., params=)`; `lists` to look into, 0 for an index without lists."""
    selector = None if selection is None else selection.selector
    if lists:
        return _FAISS.SearchParametersIVF(sel=selector, nprobe=lists)
    return None if selector is None else _FAISS.SearchParameters(sel=selector)
