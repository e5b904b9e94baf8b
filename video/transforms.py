"""What is done to frames between decoding and a model.

Axes: ... any leading axes, T frames, H x W pixels; colours are RGB. Unless said otherwise frames
are uint8 [..., 3, H, W] and stay so.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Interpolation = Literal["nearest", "bilinear", "bicubic"]

_PIXELS_AT_ONCE = 1 << 22
_CROP_TRIES = 10


def resize(
    frames: Tensor,
    size: int | tuple[int, int],
    *,
    interpolation: Interpolation = "bicubic",
    antialias: bool = False,
) -> Tensor:
    """Resize to `size` pixels: a square's side, or (height, width). No aspect ratio is kept.

    Bicubic without antialias is what the published evaluation does. Computed in float32, then
    clamped to [0, 255] and rounded half to even.
    """
    _check_frames(frames)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size is {size}; give pixels of at least 1")
    if frames.shape[-2:] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    # Many large frames at once in float32 would take twelve bytes a pixel for all of them.
    at_once = max(1, _PIXELS_AT_ONCE // (flat.shape[-1] * flat.shape[-2]))
    parts = [
        _resized(flat[start : start + at_once], (height, width), interpolation, antialias)
        for start in range(0, len(flat), at_once)
    ]
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined.reshape(*frames.shape[:-2], height, width)


def _resized(
    frames: Tensor, size: tuple[int, int], interpolation: Interpolation, antialias: bool
) -> Tensor:
    if interpolation == "nearest":
        return F.interpolate(frames, size=size, mode="nearest-exact")
    smooth = F.interpolate(
        frames.float(), size=size, mode=interpolation, align_corners=False, antialias=antialias
    )
    return smooth.clamp_(0, 255).round_().to(torch.uint8)


def center_crop(frames: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The middle `size` pixels (a square's side, or (height, width)), as a view.

    Raises ValueError if the frames are smaller.
    """
    _check_frames(frames)
    height, width = (size, size) if isinstance(size, int) else size
    top, left = (frames.shape[-2] - height) // 2, (frames.shape[-1] - width) // 2
    if top < 0 or left < 0 or min(height, width) < 1:
        raise ValueError(
            f"a crop of {height} x {width} does not fit frames of {frames.shape[-2]} x "
            f"{frames.shape[-1]} pixels; resize them first, or crop at least 1 and at most that"
        )
    return frames[..., top : top + height, left : left + width]


def random_resized_crop(
    frames: Tensor,
    size: int | tuple[int, int],
    *,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    antialias: bool = False,
) -> Tensor:
    """Cut one random box from all frames, then resize it, bicubic, to `size`.

    `scale`: smallest and largest share of the area; `ratio`: of width to height, drawn on a
    logarithmic scale. A box that does not fit is drawn anew, at last the largest central one taken.
    """
    _check_frames(frames)
    if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(
            f"scale is {scale}, ratio {ratio}; give (smallest, largest), scale within (0, 1] and "
            "ratio above 0"
        )
    height, width = frames.shape[-2:]
    for _ in range(_CROP_TRIES):
        area = height * width * _uniform(scale[0], scale[1], generator)
        shape = math.exp(_uniform(math.log(ratio[0]), math.log(ratio[1]), generator))
        crop_height, crop_width = round(math.sqrt(area / shape)), round(math.sqrt(area * shape))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = _integer(height - crop_height + 1, generator)
            left = _integer(width - crop_width + 1, generator)
            box = frames[..., top : top + crop_height, left : left + crop_width]
            return resize(box, size, antialias=antialias)
    crop_height = min(height, max(1, round(width / ratio[0])))
    crop_width = min(width, max(1, round(height * ratio[1])))
    return resize(center_crop(frames, (crop_height, crop_width)), size, antialias=antialias)


def random_flip(frames: Tensor, *, generator: torch.Generator, probability: float = 0.5) -> Tensor:
    """Mirror all frames left to right, or none."""
    _check_frames(frames)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; give a number within [0, 1]")
    return frames.flip(-1) if _uniform(0, 1, generator) < probability else frames


def normalise(frames_uint8: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 (frames / 255 - mean) / std, both given for red, green and blue in [0, 1]."""
    _check_frames(frames_uint8)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            f"mean is {tuple(mean)}, std {tuple(std)}; give three numbers each, std above 0"
        )
    scaled = frames_uint8.float().div_(255)
    return scaled.sub_(scaled.new_tensor(mean)[:, None, None]).div_(
        scaled.new_tensor(std)[:, None, None]
    )


def _check_frames(frames: Tensor) -> None:
    if frames.dtype != torch.uint8 or frames.ndim < 3 or frames.shape[-3] != 3:
        raise ValueError(
            f"frames are {frames.dtype} {list(frames.shape)}; give torch.uint8 [..., 3, H, W]"
        )
    if frames.numel() == 0:
        raise ValueError(f"frames are {list(frames.shape)}; give at least one pixel")


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    # Drawn in double precision: float32 could round up to `high`.
    drawn = torch.rand((), dtype=torch.float64, generator=generator, device=generator.device)
    return low + (high - low) * float(drawn)


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator, device=generator.device))
