"""Example pictures and clips that people drop: a vector is kept of each, the file is not.

E embedding width.
"""

import secrets
import threading
from collections import OrderedDict

import numpy as np
import torch
from numpy.typing import NDArray

from reelscan.models.encoder import Encoder
from reelscan.retrieval.serve.isolated_decoder import IsolatedDecoder


class Uploads:
    """The vectors of the latest uploads by a name that cannot be guessed."""

    def __init__(self, encoder: Encoder, decoder: IsolatedDecoder, *, kept: int = 2000) -> None:
        self._encoder = encoder
        self._decoder = decoder
        self._kept = kept
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, content: bytes) -> tuple[str, int]:
        """(name, frames looked at); raises VideoError if it is no picture or video."""
        frames = self._decoder.frames_of(content)
        vector = self._encoder.encode_video(frames[None])[0]
        # A video's vector is a mean, shorter than 1; length 1 makes its scores comparable.
        unit = torch.nn.functional.normalize(vector, dim=0).numpy()
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._vectors[name] = unit
            while len(self._vectors) > self._kept:
                self._vectors.popitem(last=False)
        return name, len(frames)

    def vector(self, name: str) -> NDArray[np.float32]:
        """[E], of length 1; raises ValueError for one that is not kept."""
        with self._lock:
            if name not in self._vectors:
                raise ValueError("this example is no longer kept: upload it again")
            self._vectors.move_to_end(name)
            return self._vectors[name]
