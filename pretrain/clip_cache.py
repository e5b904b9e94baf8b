"""Decoded clips kept in the memory of a process."""

from torch import Tensor


class ClipCache:
    """Clips by content until they fill `max_bytes`. None is ever thrown out: with a new order each
    pass, no clip is more likely to be asked for than another."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clips: dict[str, Tensor] = {}

    def get(self, content: str) -> Tensor | None:
        """A copy, or None."""
        clip = self._clips.get(content)
        return None if clip is None else clip.clone()

    def put(self, content: str, clip: Tensor) -> None:
        """Keeps a copy if there is room."""
        if content not in self._clips and self._bytes + clip.nbytes <= self._max_bytes:
            self._clips[content] = clip.clone()
            self._bytes += clip.nbytes
