"""Smaller copies of videos with keyframes close together, which decode several times faster."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.video.encode import write_video
from reelscan.video.errors import VideoError
from reelscan.video.probe import probe
from reelscan.video.windows import stream_windows

KEYFRAME_SECONDS = 0.5
WINDOW_SECONDS = 1.0
MAX_FPS = 60
MAX_FRAME_BYTES = 2_000_000_000


def reencoded(data: bytes, *, short_side: int, name: str) -> bytes:
    """`data` as an H.264 mp4 of that short side in pixels (never enlarged), without sound.

    The frame rate becomes the nearest whole one, at most 60. All small frames are in memory at
    once, so a video for which these exceed 2 GB is refused. Raises VideoError.
    """
    info = probe(data, name=name)
    height, width = _small_size(info.height, info.width, short_side)
    fps = min(max(round(info.fps), 1), MAX_FPS)
    windows = stream_windows(
        data,
        window_seconds=WINDOW_SECONDS,
        stride_seconds=WINDOW_SECONDS,
        frames=round(fps * WINDOW_SECONDS),
        frame_size=None,
        name=name,
    )
    parts: list[Tensor] = []
    for window in windows:
        # The last window is shorter but holds as many frames: keep as many as its time is worth.
        wanted = max(1, round(fps * (window.end_seconds - window.start_seconds)))
        frames = window.clip.frames_uint8
        kept = torch.linspace(0, len(frames) - 1, min(wanted, len(frames))).round().long()
        parts.append(_resized(frames[kept], height, width))
        if sum(part.nbytes for part in parts) > MAX_FRAME_BYTES:
            raise VideoError(name, "is too long to be re-encoded: cut it or keep the original")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.mp4"
        write_video(path, torch.cat(parts), fps=fps, keyframe_seconds=KEYFRAME_SECONDS)
        return path.read_bytes()


def _small_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width in even numbers, as H.264 with halved colour wants them."""
    scale = min(1.0, short_side / min(height, width))
    return tuple(max(2, 2 * round(side * scale / 2)) for side in (height, width))  # type: ignore[return-value]


def _resized(frames_uint8: Tensor, height: int, width: int) -> Tensor:
    """[T, 3, H, W] -> [T, 3, height, width], uint8."""
    if frames_uint8.shape[-2:] == (height, width):
        return frames_uint8
    return functional.interpolate(
        frames_uint8, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
