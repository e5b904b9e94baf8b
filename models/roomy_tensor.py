"""Tensors that may be larger than the memory at hand: large ones lie in a temporary file."""

import os
import shutil
import sys
import tempfile
from math import prod

import torch
from torch import Tensor

MEMORY_BYTES = 512 * 2**20
"""Tensors up to this size lie in memory."""


def roomy_tensor(
    shape: tuple[int, ...], dtype: torch.dtype, *, device: torch.device | str = "cpu"
) -> Tensor:
    """An uninitialised tensor: on the device if it is small, else mapped from a file on the CPU.

    The file lies in the system's temporary folder (TMPDIR), has no name any more, and is gone with
    the tensor or the process. Its pages in memory are the system's to write out and drop. Raises
    OSError where the folder has no room.
    """
    size_bytes = prod(shape) * dtype.itemsize
    if size_bytes <= MEMORY_BYTES:
        return torch.empty(shape, dtype=dtype, device=device)
    with tempfile.NamedTemporaryFile(prefix="reelscan-") as file:
        _reserve(file.fileno(), size_bytes)
        flat = torch.from_file(file.name, shared=True, size=prod(shape), dtype=dtype)
    return flat.view(shape)


def _reserve(descriptor: int, size_bytes: int) -> None:
    """All of it now: a full disk met later would end the process with a signal."""
    try:
        if sys.platform == "linux":
            os.posix_fallocate(descriptor, 0, size_bytes)
        else:
            os.truncate(descriptor, size_bytes)
    except OSError as error:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        raise OSError(
            f"{folder} has no room for {size_bytes / 1e9:.1f} GB ({free / 1e9:.1f} GB are free, "
            f"{error.strerror}): set TMPDIR to another folder, or read shorter clips (clip_frames)"
        ) from error
