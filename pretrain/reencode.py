"""Smaller copies of videos with keyframes close together, which decode several times faster.

Axes: T frames, H x W pixels.
"""

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.video.encode import encode_video
from reelscan.video.errors import VideoError
from reelscan.video.probe import probe
from reelscan.video.windows import Window, stream_windows

KEYFRAME_SECONDS = 0.5
FRAMES_AT_ONCE = 8
MAX_FPS = 60.0
MAX_FRAME_BYTES = 2_000_000_000


def reencoded(data: bytes, *, short_side: int, name: str) -> bytes:
    """`data` as an H.264 mp4 of that short side in pixels (never enlarged), without sound.

    Frames come at the mean rate of the video, at most 60 a second. All small frames are in memory
    at once, so a video for which these exceed 2 GB is refused. Raises VideoError.
    """
    info = probe(data, name=name)
    scale = min(1.0, short_side / min(info.height, info.width))
    height, width = _even(info.height * scale), _even(info.width * scale)
    fps = min(info.fps, MAX_FPS)
    windows = stream_windows(
        data,
        window_seconds=FRAMES_AT_ONCE / fps,
        stride_seconds=FRAMES_AT_ONCE / fps,
        frames=FRAMES_AT_ONCE,
        frame_size=None,
        name=name,
    )
    parts = []
    small_bytes = 0
    for window in windows:
        parts.append(_resized(_frames_by_time(window, fps), height, width))
        small_bytes += parts[-1].nbytes
        if small_bytes > MAX_FRAME_BYTES:
            raise VideoError(name, "is too long to be re-encoded: cut it or keep the original")
    try:
        return encode_video(torch.cat(parts), fps=fps, keyframe_seconds=KEYFRAME_SECONDS)
    except ValueError as error:
        raise VideoError(name, f"cannot be re-encoded: {error}") from error


def _even(side: float) -> int:
    """As H.264 wants it, whose colours have half the resolution."""
    return max(2, 2 * round(side / 2))


def _frames_by_time(window: Window, fps: float) -> Tensor:
    """As many frames as the time is worth: the last window is shorter but has as many."""
    frames = window.clip.frames_uint8
    wanted = round(fps * (window.end_seconds - window.start_seconds))
    kept = torch.linspace(0, len(frames) - 1, min(max(wanted, 1), len(frames)))
    return frames[kept.round().long()]


def _resized(frames_uint8: Tensor, height: int, width: int) -> Tensor:
    """[T, 3, H, W] -> [T, 3, height, width], uint8."""
    if frames_uint8.shape[-2:] == (height, width):
        return frames_uint8
    return functional.interpolate(
        frames_uint8, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
