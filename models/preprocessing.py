"""How a video and a text have to be prepared for a model; kept beside its weights.

Axes: B clips, T frames, H x W pixels.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Interpolation = Literal["nearest", "bilinear", "bicubic"]
Sampling = Literal["middle"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Plain values; those of the published zero-shot evaluation unless told otherwise."""

    frames: int = 8
    """Frames of a clip."""
    size: int = 224
    """Side of the square frames in pixels; the aspect ratio is not kept."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of red, green and blue, in the range 0 to 1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Of red, green and blue, in the range 0 to 1."""
    interpolation: Interpolation = "bicubic"
    """How frames are resized."""
    antialias: bool = False
    """Whether shrinking averages over all pixels that fall together."""
    sampling: Sampling = "middle"
    """Which frames are taken: the middle one of each of `frames` equal parts."""
    max_text_tokens: int = 32
    """Tokens of a text, [CLS] and [SEP] included; longer ones are cut."""

    def __post_init__(self) -> None:
        for name, smallest in (("frames", 1), ("size", 1), ("max_text_tokens", 3)):
            if getattr(self, name) < smallest:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; give a number of at least {smallest}"
                )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                f"mean {self.mean} and std {self.std} must hold three numbers each (red, green, "
                "blue), those of std above 0"
            )
        for name, allowed in (("interpolation", Interpolation), ("sampling", Sampling)):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; choose one of {list(get_args(allowed))}"
                )

    def check_frames(self, frames_uint8: Tensor, *, any_length: bool = False) -> None:
        """Raise ValueError unless these are uint8 [B, T, 3, size, size], T = `frames` or 1.

        `any_length` takes every T.
        """
        shape, size = list(frames_uint8.shape), self.size
        fits = len(shape) == 5 and shape[2:] == [3, size, size]
        fits = fits and (shape[1] >= 1 if any_length else shape[1] in (1, self.frames))
        if not fits or frames_uint8.dtype != torch.uint8:
            raise ValueError(
                f"frames are {frames_uint8.dtype} {shape}; this model takes torch.uint8 "
                f"[B, {self.frames} or 1, 3, {size}, {size}]: decode with frames={self.frames}, "
                f"frame_size={size}"
            )

    def normalise(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] -> float32 (x / 255 - mean) / std, on the same device."""
        mean, std = (
            torch.tensor(values, device=frames_uint8.device).view(3, 1, 1)
            for values in (self.mean, self.std)
        )
        return (frames_uint8.float() / 255 - mean) / std
