"""Draws a scene: smooth-edged textured shapes over a drifting background.

A shape is the set of points where its signed distance is below zero; half a pixel on either side
of the edge is blended. Axes: T frames, H x W pixels, S x S pixels around an object.
"""

from math import ceil, cos, pi, sin, sqrt, tau
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reelscan.pretrain.demo_corpus.config import CorpusConfig
from reelscan.pretrain.demo_corpus.motion import Track, frame_order, tracks
from reelscan.pretrain.demo_corpus.scene import Scene

Floats = NDArray[np.floating[Any]]

RGB = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.12, 0.62, 0.18),
    "blue": (0.15, 0.28, 0.92),
    "yellow": (0.95, 0.88, 0.12),
    "white": (0.97, 0.97, 0.97),
    "purple": (0.58, 0.16, 0.72),
    "orange": (0.98, 0.52, 0.05),
    "cyan": (0.15, 0.85, 0.88),
}
_DARK = 0.22
"""Brightness of the second tone of a texture."""
_REACH = 1.3
"""No shape goes further than this from its centre, in units of its radius."""


def render(scene: Scene, *, config: CorpusConfig) -> NDArray[np.uint8]:
    """The frames of a scene, uint8 [T, 3, H, W] (RGB)."""
    generator = np.random.default_rng([scene.seed, 2])
    placed = tracks(scene, config=config)
    largest = max(float(track.radius.max()) for track in placed)
    pad = 2 * (ceil(_REACH * largest) + 1)
    canvas = np.zeros(
        (config.frames, 3, config.height + 2 * pad, config.width + 2 * pad), dtype=np.float32
    )
    picture = canvas[:, :, pad : pad + config.height, pad : pad + config.width]
    order = frame_order(scene, frames=config.frames)
    _draw_background(picture, order, generator=generator, config=config)
    for track in placed:
        brightness = 1 + 0.06 * float(generator.uniform(-1, 1))
        _paint(canvas, track, pad=pad, brightness=brightness)
    return (picture * 255 + 0.5).astype(np.uint8)


def _paint(canvas: Floats, track: Track, *, pad: int, brightness: float) -> None:
    """Blends an object into the frames where it is seen; `canvas` is [T, 3, H + 2 pad, ...]."""
    frames = np.flatnonzero(track.visible)
    if not len(frames):
        return
    reach = ceil(_REACH * float(track.radius.max())) + 1
    left = np.floor(track.x[frames]).astype(int) - reach
    top = np.floor(track.y[frames]).astype(int) - reach
    u, v = _local_grid(track, frames, left=left, top=top, side=2 * reach + 1)
    radius = track.radius[frames].astype(np.float32)[:, None, None]
    alpha = np.clip(0.5 - _distance(track.thing.shape, u, v) * radius, 0, 1)[:, None]
    tone = _DARK + (1 - _DARK) * _texture(track.thing.texture, u, v, radius)[:, None]
    base = np.array([RGB[track.colours[frame]] for frame in frames], dtype=np.float32)
    ink = tone * (brightness * base).clip(0, 1)[:, :, None, None] * alpha
    for place, frame in enumerate(frames):
        rows = slice(top[place] + pad, top[place] + pad + alpha.shape[2])
        columns = slice(left[place] + pad, left[place] + pad + alpha.shape[3])
        window = canvas[frame, :, rows, columns]
        window *= 1 - alpha[place]
        window += ink[place]


def _local_grid(
    track: Track,
    frames: NDArray[np.int64],
    *,
    left: NDArray[np.int64],
    top: NDArray[np.int64],
    side: int,
) -> tuple[Floats, Floats]:
    """Pixel centres around the object in its own turned and scaled axes, each [T, S, S]."""
    steps = np.arange(side) + 0.5
    dx = ((left - track.x[frames])[:, None] + steps)[:, None, :]
    dy = ((top - track.y[frames])[:, None] + steps)[:, :, None]
    scale = 1 / track.radius[frames][:, None, None]
    cosine = np.cos(track.angle[frames])[:, None, None] * scale
    sine = np.sin(track.angle[frames])[:, None, None] * scale
    u, v = dx * cosine + dy * sine, dy * cosine - dx * sine
    return u.astype(np.float32), v.astype(np.float32)


def _distance(shape: str, u: Floats, v: Floats) -> Floats:
    """Signed distance to the outline in units of the radius, negative inside; v points down."""
    x, y = np.abs(u), np.abs(v)
    distance: Floats
    match shape:
        case "circle":
            distance = np.hypot(u, v) - 1
        case "square":
            distance = np.maximum(x, y) - 0.88
        case "triangle":
            distance = np.maximum(0.866 * x - 0.5 * v, v) - 0.62
        case "star":
            distance = _star_distance(u, v)
        case "cross":
            distance = np.minimum(np.maximum(x - 1.08, y - 0.38), np.maximum(x - 0.38, y - 1.08))
        case "ring":
            distance = np.abs(np.hypot(u, v) - 0.76) - 0.29
        case "heart":
            lobes = np.hypot(x - 0.42, v + 0.42) - 0.6
            distance = np.minimum(lobes, (x + y) / sqrt(2) - 0.6)
        case "moon":
            distance = np.maximum(np.hypot(u, v) - 1.08, 0.85 - np.hypot(u - 0.55, v))
        case _:
            raise AssertionError(f"{shape} is not among the shapes of the corpus")
    return distance


def _star_distance(u: Floats, v: Floats) -> Floats:
    """Distance to the edge from tip to notch, the plane folded onto half of one of five points."""
    tip, notch, half = 1.28, 0.55, pi / 5
    angle = np.abs(np.mod(np.arctan2(u, -v) + half, 2 * half) - half)
    distance = np.hypot(u, v)
    edge_x, edge_y = notch * cos(half) - tip, notch * sin(half)
    length = sqrt(edge_x**2 + edge_y**2)
    x, y = distance * np.cos(angle) - tip, distance * np.sin(angle)
    edge: Floats = (x * edge_y - y * edge_x) / length
    return edge


def _texture(texture: str, u: Floats, v: Floats, radius: Floats) -> Floats:
    """1 where the texture shows the colour, 0 where its dark tone; [T, S, S]."""
    distance: Floats
    match texture:
        case "plain":
            return np.ones_like(u)
        case "striped":
            distance = np.sin(v * (tau / 0.66)) * (0.66 / tau)
        case "dotted":
            across, down = (np.mod(axis / 0.64, 1) - 0.5 for axis in (u, v))
            distance = np.hypot(across, down) * 0.64 - 0.2
        case "checkered":
            distance = np.sin(u * (pi / 0.52)) * np.sin(v * (pi / 0.52)) * (0.52 / pi)
        case _:
            raise AssertionError(f"{texture} is not among the textures of the corpus")
    blended: Floats = np.clip(0.5 + distance * radius, 0, 1)
    return blended


def _draw_background(
    picture: Floats,
    order: NDArray[np.int64],
    *,
    generator: np.random.Generator,
    config: CorpusConfig,
) -> None:
    """Fills `picture` [T, 3, H, W] with drifting noise, stripes or a gradient.

    Waves that travel a whole number of their lengths in a clip: the end meets the beginning, so
    frames can be played backwards or with swapped halves without a jump.
    """
    kind = generator.choice(("noise", "stripes", "gradient"))
    waves = 7 if kind == "noise" else 1
    shortest, longest = {"noise": (0.2, 0.7), "stripes": (0.16, 0.3), "gradient": (1.5, 2.5)}[kind]
    spread = 1.3 if kind == "noise" else 0.0
    direction = generator.uniform(0, tau) + generator.uniform(-spread, spread, waves)
    length = generator.uniform(shortest, longest, waves) * min(config.width, config.height)
    start = generator.uniform(0, tau, waves)
    cycles = generator.integers(1, 3, waves)
    grey = generator.uniform(0.36, 0.48) + generator.uniform(-0.04, 0.04, 3)
    tint = config.background_strength * (1 + generator.uniform(-0.5, 0.5, 3))
    steps = np.stack([np.cos(direction), np.sin(direction)]) * (tau / length)
    across = np.multiply.outer(steps[0], np.arange(config.width)) + start[:, None]
    down = np.multiply.outer(steps[1], np.arange(config.height))
    phase = (across[:, None, :] + down[:, :, None]).astype(np.float32).reshape(waves, -1)
    turn = tau * np.outer((order + 0.5) / config.frames, cycles)
    in_time = np.concatenate([np.cos(turn), np.sin(turn)], axis=1).astype(np.float32)
    wave = in_time @ np.concatenate([np.cos(phase), np.sin(phase)])
    wave = np.tanh(3 * wave) if kind == "stripes" else wave / np.float32(sqrt(waves))
    wave = wave.reshape(config.frames, config.height, config.width)
    for channel in range(3):
        drawn = wave * np.float32(tint[channel]) + np.float32(grey[channel])
        np.clip(drawn, 0, 1, out=picture[:, channel])
