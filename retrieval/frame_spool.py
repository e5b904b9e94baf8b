"""Clips of many videos in a temporary file, so that they are decoded once and read twice.

T frames, S pixels.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class FrameSpool:
    """Room for `clips` clips of uint8 `clip_shape` [T, 3, S, S]; the file is gone after `close`.

    Raises ValueError when the disk has no room for them.
    """

    def __init__(
        self,
        clips: int,
        clip_shape: tuple[int, int, int, int],
        *,
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        self._clip_shape = clip_shape
        self._clip_bytes = int(np.prod(clip_shape))
        where, needed = Path(folder or tempfile.gettempdir()), clips * self._clip_bytes
        free = shutil.disk_usage(where).free
        if free < needed:
            raise ValueError(
                f"{where} has {free / 1e9:.1f} GB free, and the frames of {clips} videos need "
                f"{needed / 1e9:.1f} GB: name another scratch_folder"
            )
        self._file = tempfile.TemporaryFile(dir=where)  # noqa: SIM115 - closed by close()

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def put(self, place: int, frames_uint8: Tensor) -> None:
        """Keep one clip [T, 3, S, S]."""
        assert frames_uint8.shape == self._clip_shape and frames_uint8.dtype == torch.uint8
        self._file.seek(place * self._clip_bytes)
        self._file.write(frames_uint8.contiguous().numpy().tobytes())

    def batches(self, places: Sequence[int], *, batch_size: int) -> Iterator[Tensor]:
        """The clips of these places, uint8 [at most batch_size, T, 3, S, S] at a time."""
        for start in range(0, len(places), batch_size):
            some = places[start : start + batch_size]
            yield torch.stack([self._get(place) for place in some])

    def _get(self, place: int) -> Tensor:
        self._file.seek(place * self._clip_bytes)
        content = self._file.read(self._clip_bytes)
        return torch.from_numpy(np.frombuffer(content, np.uint8).copy()).view(self._clip_shape)
