"""Features of videos and texts on disk, by the fingerprint of what made them.

    CACHE/files.sqlite                    video files that were looked at
    CACHE/ENCODER/videos/ab/KEY.safetensors   vector [E], tokens [N, C] where asked for
    CACHE/ENCODER/texts/ab/KEY.safetensors    vectors [Q, E]; hidden [sum of L, C] and lengths [Q]
    CACHE/ENCODER/pairs/KEY.logits        matching logits so far, see `pair_journal.py`

Every file is written beside its place and moved there, so it is whole or absent; one that is
damaged counts as absent. E embedding width, N video tokens, Q texts, L text tokens, C width.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reelscan.models.atomic_file import replacing
from reelscan.models.encoder import Encoder

# To be raised when decoding or resizing changes what an unchanged encoder sees.
FEATURES_VERSION = 1
_FREE_BYTES_KEPT = 1 << 30


def default_cache() -> Path:
    """Where features are kept: $REELSCAN_CACHE, or reelscan in the user's cache folder."""
    told = os.environ.get("REELSCAN_CACHE")
    if told:
        return Path(told)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "reelscan" / "features"


@dataclass(frozen=True, kw_only=True)
class TextStates:
    """Hidden states of some texts, without padding."""

    hidden: Tensor
    """[sum of L, C]"""
    lengths: Tensor
    """int64 [Q]: each text's L"""


class FeatureCache:
    """The features of one encoder."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.folder = folder / _encoder_key(encoder)
        self._text_length = encoder.preprocessing.max_text_tokens
        for part in ("videos", "texts", "pairs"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)

    def video_key(self, sha256: str, *, end_seconds: float | None) -> str:
        """Names the features of a file's content, of which the part up to `end_seconds` is seen."""
        return _hash([sha256, end_seconds])

    def text_key(self, texts: Sequence[str]) -> str:
        """Names the features of these texts in this order."""
        return _hash([list(texts), self._text_length])

    def has_video(self, key: str, *, tokens: bool) -> bool:
        """Whether the vector, and the tokens if wanted, are there and readable."""
        names = _names_in(self._path("videos", key))
        return "vector" in names and (not tokens or "tokens" in names)

    def put_video(self, key: str, vector: Tensor, tokens: Tensor | None) -> None:
        """Keep a vector [E] and tokens [N, C]; raises ValueError when the disk is full."""
        features = {"vector": vector} if tokens is None else {"vector": vector, "tokens": tokens}
        self._write(self._path("videos", key), features)

    def video_vector(self, key: str) -> Tensor:
        """[E]"""
        return _read(self._path("videos", key), "vector").clone()

    def video_tokens(self, key: str) -> Tensor:
        """[N, C], memory-mapped."""
        return _read(self._path("videos", key), "tokens")

    def has_texts(self, key: str, *, states: bool) -> bool:
        """Whether the vectors, and the hidden states if wanted, are there and readable."""
        names = _names_in(self._path("texts", key))
        return "vectors" in names and (not states or "hidden" in names)

    def put_texts(self, key: str, vectors: Tensor, states: TextStates | None) -> None:
        """Keep vectors [Q, E] and hidden states; raises ValueError when the disk is full."""
        features = {"vectors": vectors}
        if states is not None:
            features |= {"hidden": states.hidden, "lengths": states.lengths}
        self._write(self._path("texts", key), features)

    def text_vectors(self, key: str) -> Tensor:
        """[Q, E]"""
        return _read(self._path("texts", key), "vectors").clone()

    def text_states(self, key: str) -> TextStates:
        """Hidden states, memory-mapped."""
        path = self._path("texts", key)
        return TextStates(hidden=_read(path, "hidden"), lengths=_read(path, "lengths").clone())

    def pairs_path(self, described: Sequence[object]) -> Path:
        """Where the logits of the pairs that this describes are kept."""
        return self.folder / "pairs" / f"{_hash(list(described))}.logits"

    def _path(self, part: str, key: str) -> Path:
        return self.folder / part / key[:2] / f"{key}.safetensors"

    def _write(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        path.parent.mkdir(exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < needed + _FREE_BYTES_KEPT:
            raise ValueError(
                f"{self.folder} has {free / 1e9:.1f} GB free, of which 1 GB is left alone: name "
                "another folder for features (--cache), or free some; what is done is kept"
            )
        with replacing(path) as temporary:
            save_file({name: one.contiguous() for name, one in tensors.items()}, temporary)


def _encoder_key(encoder: Encoder) -> str:
    # A GPU computes in another precision, so its features are not mixed with those of the CPU.
    device = getattr(encoder, "device", torch.device("cpu")).type
    return _hash([FEATURES_VERSION, encoder.fingerprint, repr(encoder.preprocessing), device])[:24]


def _hash(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _names_in(path: Path) -> set[str]:
    """What a feature file holds; one that is damaged is removed."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (FileNotFoundError, SafetensorError):
        with suppress(FileNotFoundError):
            path.unlink()
        return set()


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def states_of(hidden: Tensor, attention_mask: Tensor) -> TextStates:
    """[Q, L, C] and its mask [Q, L], true at tokens, without the padding."""
    mask = attention_mask.bool()
    return TextStates(hidden=hidden[mask], lengths=mask.sum(1).to(torch.int64))


@contextmanager
def mapped_states(cache: FeatureCache, keys: Sequence[str]) -> Iterator[TextStates]:
    """The hidden states of all these texts in one memory-mapped file, which nobody else sees."""
    lengths: list[Tensor] = []
    with tempfile.TemporaryFile(dir=cache.folder) as file:
        dtype, width = torch.float32, 0
        for key in keys:
            states = cache.text_states(key)
            dtype, width = states.hidden.dtype, states.hidden.shape[1]
            lengths.append(states.lengths)
            file.write(states.hidden.contiguous().view(torch.uint8).numpy().data)
        file.flush()
        content = torch.from_numpy(np.memmap(file, np.uint8, "c"))
        yield TextStates(hidden=content.view(dtype).view(-1, width), lengths=torch.cat(lengths))
