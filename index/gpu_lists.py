"""Learning and assigning inverted lists on a GPU, for an index that a CPU then serves.

Nearly all of the time of building goes into finding each vector's nearest list centre. Where FAISS
was built for GPUs (`faiss-gpu-cu13-cuvs`, the extra `gpu`) that is done there; the index itself is
the same CPU index either way. N vectors, E embedding width.
"""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

_FAISS: Any = faiss


def why_not_on_gpu() -> str | None:
    """What keeps FAISS from using a GPU; None if nothing does."""
    if not hasattr(faiss, "StandardGpuResources"):
        return "the installed faiss has no GPU support (pip install 'reelscan[gpu]')"
    if _FAISS.get_num_gpus() == 0:
        return "faiss finds no GPU"
    return None


def centre_finder(embed_dim: int) -> Any:
    """An empty flat index on a GPU where there is one, else on the CPU."""
    flat = faiss.IndexFlatIP(embed_dim)
    if why_not_on_gpu() is not None:
        return flat
    resources = _FAISS.StandardGpuResources()
    placed = _FAISS.index_cpu_to_gpu(resources, 0, flat)
    # The index uses the resources for as long as it lives.
    placed.resources_of_ours = resources
    return placed


def nearest_lists(finder: Any, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """The list [N] of each vector [N, E]; `finder` holds the lists' centres."""
    found: NDArray[np.int64] = finder.search(vectors, 1)[1].ravel()
    return found


def make_room(index: Any, sizes: NDArray[np.int64]) -> None:
    """Let each list of an empty IVF index take so many vectors without growing."""
    for number, size in enumerate(sizes.tolist()):
        index.invlists.resize(number, size)
        index.invlists.resize(number, 0)


def add_assigned(
    index: Any,
    vectors: NDArray[np.float32],
    segment_ids: NDArray[np.int64],
    lists: NDArray[np.int64],
) -> None:
    """Add vectors [N, E] to the lists [N] of an IVF index."""
    parts = (vectors, segment_ids, np.ascontiguousarray(lists))
    index.add_core(len(vectors), *map(_FAISS.swig_ptr, parts))
