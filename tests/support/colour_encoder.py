"""An encoder that needs no weights: it sees colours, and texts are the colour words in them.

Embeddings know which colours occur; only the matching head knows in which order.
"""

from pathlib import Path

import torch
from torch import Tensor

from reelscan.models.encoder import TextTokens
from reelscan.models.preprocessing import Preprocessing
from reelscan.video.encode import write_video

PALETTE = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
FRAMES_PER_SECOND = 8
_COLOURS = torch.tensor(list(PALETTE.values()), dtype=torch.float32)


class ColourEncoder:
    """A deterministic `Encoder`; E is the number of colours."""

    embed_dim = len(PALETTE)

    def __init__(self, fingerprint: str = "colours-1") -> None:
        self.fingerprint = fingerprint
        self.preprocessing = Preprocessing(frames=4, size=16)
        self.clips_seen = 0

    def encode_video(self, frames_uint8: Tensor) -> Tensor:
        return self.encode_frames(frames_uint8).mean(dim=1)

    def encode_frames(self, frames_uint8: Tensor) -> Tensor:
        self.clips_seen += len(frames_uint8)
        return self._frame_vectors(frames_uint8)

    def encode_text(self, texts: list[str]) -> Tensor:
        words = torch.stack([self._words(text).sum(dim=0) for text in texts])
        return torch.nn.functional.normalize(words + 1e-6, dim=-1)

    def _frame_vectors(self, frames_uint8: Tensor) -> Tensor:
        """[B, T, E]: how much of each frame is nearest to each colour, of length 1."""
        self.preprocessing.check_frames(frames_uint8, any_length=True)
        pixels = frames_uint8.float().movedim(2, -1).flatten(2, 3)
        nearest = torch.cdist(pixels, _COLOURS.expand(len(pixels), 1, -1, -1)).argmin(dim=-1)
        shares = torch.nn.functional.one_hot(nearest, len(PALETTE)).float().mean(dim=2)
        return torch.nn.functional.normalize(shares, dim=-1)

    def _words(self, text: str) -> Tensor:
        """[L, E]: the colour words in their order; a text without any gets one empty row."""
        names = list(PALETTE)
        found = [names.index(word) for word in text.lower().split() if word in PALETTE]
        return torch.eye(len(names))[found] if found else torch.zeros(1, len(names))


class ColourMatcher(ColourEncoder):
    """A deterministic `MatchingEncoder`: +1 a frame whose colour the text has there."""

    can_match = True

    def video_tokens(self, frames_uint8: Tensor) -> Tensor:
        return self._frame_vectors(frames_uint8)

    def text_tokens(self, texts: list[str]) -> TextTokens:
        words = [self._words(text) for text in texts]
        lengths = torch.tensor([len(one) for one in words])
        hidden = torch.nn.utils.rnn.pad_sequence(words, batch_first=True, padding_value=9.0)
        return TextTokens(
            hidden=hidden, attention_mask=torch.arange(hidden.shape[1]) < lengths[:, None]
        )

    def match(self, text_tokens: TextTokens, video_tokens: Tensor) -> Tensor:
        logits = []
        for hidden, mask, frames in zip(
            text_tokens.hidden, text_tokens.attention_mask, video_tokens, strict=True
        ):
            words = hidden[mask]
            expected = words[torch.arange(len(frames)) * len(words) // len(frames)]
            logits.append((expected * frames).sum())
        return torch.stack(logits)


def write_colours(path: Path, colours: str, *, seconds_each: float = 1.0, size: int = 48) -> Path:
    """A video that shows each of the colours, named in one string, for `seconds_each`."""
    frames = [
        torch.tensor(PALETTE[colour], dtype=torch.uint8).view(3, 1, 1).expand(3, size, size)
        for colour in colours.split()
        for _ in range(round(seconds_each * FRAMES_PER_SECOND))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, torch.stack(frames), fps=FRAMES_PER_SECOND)
    return path
