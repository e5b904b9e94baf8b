"""Which FAISS index serves a collection: chosen from its size and the memory it may take.

The most exact kind that fits is taken. Up to some size every vector is compared. Beyond, k-means
gathers vectors into inverted lists and a query looks into the nearest ones: whole vectors while
they fit into memory, then 8-bit ones, then product-quantised ones, the last two only to find
candidates, which are scored again with the stored vectors. HNSW is not offered: it cannot remove,
takes several times longer to build, and with inverted lists at 2 sqrt(N) the goals are met.
N vectors, E embedding width.
"""

import math
from dataclasses import dataclass

_LIST_OVERHEAD_BYTES = 8
"""An id beside each vector."""
_PRODUCT_QUANTISER_FEWEST_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """How large an index may be and how well it should find."""

    memory_bytes: int = 4 * 2**30
    """What the index file may take, which is also what it takes of memory when all is in use."""
    exact_bytes: int = 64 * 2**20
    """Up to this many bytes of vectors, all are compared: 32,768 of 512, measured at 9 ms a query
    on one core. Inverted lists take a tenth of that, and may miss something."""
    recall_at_10: float = 0.97
    """What lists to look into and candidates to score are chosen for, measured at building."""
    recall_at_128: float = 0.975
    compact_in_background: bool = True
    """Make the index file again by itself once much has changed; False: only when told to, for
    adding millions at once."""

    def __post_init__(self) -> None:
        if self.memory_bytes < 1 or self.exact_bytes < 0:
            raise ValueError(
                f"memory_bytes is {self.memory_bytes}, exact_bytes {self.exact_bytes}; "
                "give at least 1 and 0"
            )
        for name, recall in (
            ("recall_at_10", self.recall_at_10),
            ("recall_at_128", self.recall_at_128),
        ):
            if not 0 < recall <= 1:
                raise ValueError(f"{name} is {recall}; give a share above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class IndexKind:
    """A kind of FAISS index for N vectors."""

    name: str
    """flat, ivf-flat, ivf-sq8 or ivf-pq."""
    factory: str
    """As `faiss.index_factory` takes it."""
    lists: int
    """Inverted lists; 0: every vector is compared."""
    exact_scores: bool
    """Whether it holds whole vectors, so that its scores are final."""

    @property
    def can_learn_from(self) -> int:
        """How many sampled vectors are enough to train it."""
        return 40 * self.lists


def choose_kind(vectors: int, *, embed_dim: int, settings: IndexSettings) -> IndexKind:
    """The kind for N = `vectors`; raises ValueError when none fits into the memory."""
    if vectors * embed_dim * 4 <= settings.exact_bytes:
        return IndexKind(name="flat", factory="IDMap,Flat", lists=0, exact_scores=True)
    lists = max(1, round(2 * math.sqrt(vectors)))
    for name, code, code_bytes in _codes(embed_dim):
        needed = vectors * (code_bytes + _LIST_OVERHEAD_BYTES) + lists * embed_dim * 4
        if needed <= settings.memory_bytes:
            return IndexKind(
                name=name,
                factory=f"IVF{lists},{code}",
                lists=lists,
                exact_scores=code == "Flat",
            )
    raise ValueError(
        f"{vectors} vectors need an index of at least {needed / 2**30:.2f} GiB, and "
        f"{settings.memory_bytes / 2**30:.2f} GiB are allowed: give it more, as with "
        "`reelscan index rebuild COLLECTION --memory 8GiB`"
    )


def _codes(embed_dim: int) -> list[tuple[str, str, int]]:
    """Name, code and bytes of a vector, most exact first."""
    codes = [("ivf-flat", "Flat", 4 * embed_dim), ("ivf-sq8", "SQ8", embed_dim)]
    for parts in (embed_dim // 4, embed_dim // 8, embed_dim // 16):
        if parts >= _PRODUCT_QUANTISER_FEWEST_BYTES and embed_dim % parts == 0:
            # "np": without learning an order of codes that only Hamming filters use.
            codes.append(("ivf-pq", f"PQ{parts}np", parts))
    return codes
