"""Which frame of a segment answers a query best, from one bit a number.

A segment's vector is the mean of its frames'. What a frame differs by is kept as its signs and its
mean size, so T frames take T * (E / 8 + 4) bytes. T frames, E embedding width.
"""

import numpy as np
from numpy.typing import NDArray

_SIZE = np.dtype("<f4")


def pack_frames(vectors: NDArray[np.float32]) -> bytes | None:
    """Codes of the frames [T, E] of one segment; None where there is one frame only."""
    if len(vectors) < 2:
        return None
    differences = vectors - vectors.mean(axis=0)
    sizes = np.abs(differences).mean(axis=1).astype(_SIZE)
    signs: bytes = np.packbits(differences > 0, axis=1).tobytes()
    return bytes(sizes.tobytes()) + signs


def best_frame(codes: bytes, query: NDArray[np.float32]) -> tuple[int, int]:
    """(place of the frame with the highest product with `query` [E], number of frames T)."""
    width = len(query)
    frames = len(codes) // (_SIZE.itemsize + (width + 7) // 8)
    sizes = np.frombuffer(codes, _SIZE, count=frames)
    bits = np.frombuffer(codes, np.uint8, offset=frames * _SIZE.itemsize).reshape(frames, -1)
    signs = np.unpackbits(bits, axis=1, count=width).astype(np.float32) * 2 - 1
    return int(np.argmax(sizes * (signs @ query))), frames
