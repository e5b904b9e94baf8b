"""Which ids a FAISS search may return, and how many inverted lists it looks into."""

from dataclasses import dataclass
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


def only(among: NDArray[np.int64]) -> Selection:
    """These ids (ascending): a bit for each id, so one look-up a row however many they are."""
    allowed = np.zeros(int(among[-1]) + 1 if len(among) else 1, bool)
    allowed[among] = True
    bits = np.packbits(allowed, bitorder="little")
    return Selection(selector=_FAISS.IDSelectorBitmap(bits), keep_alive=bits)


def search_parameters(*, lists: int, selection: Selection | None = None) -> Any:
    """For `index.search(..., params=)`; `lists` to look into, 0 for an index without lists."""
    selector = None if selection is None else selection.selector
    if lists:
        return _FAISS.SearchParametersIVF(sel=selector, nprobe=lists)
    return None if selector is None else _FAISS.SearchParameters(sel=selector)
