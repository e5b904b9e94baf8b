"""Where the objects of a scene are, how large, how turned and whether seen, frame by frame.

Lengths are fractions of the shorter side of the frame here, and pixels in `Track`. x goes right,
y down, angles clockwise. Axes: T frames, N candidate layouts.
"""

from dataclasses import dataclass
from math import log, tau

import numpy as np
from numpy.typing import NDArray

from reelscan.pretrain.demo_corpus.config import CorpusConfig
from reelscan.pretrain.demo_corpus.scene import (
    ABSENT,
    APPEARS,
    BLINKS,
    DISAPPEARS,
    SPINS,
    Meaning,
    ObjectMeaning,
    Scene,
    behaviours,
    changed_colour,
    is_sudden,
)

Floats = NDArray[np.float64]

_DIRECTIONS = {
    "moves left": (-1.0, 0.0),
    "moves right": (1.0, 0.0),
    "moves up": (0.0, -1.0),
    "moves down": (0.0, 1.0),
}
_TURNS = {"circles clockwise": 1.0, "circles counterclockwise": -1.0}
_RESIZES = {"grows": 1.0, "shrinks": -1.0}
_GROWTH = log(2.2)
_SPIN_RADIANS_PER_SECOND = tau / 2
_BLINKS_PER_SECOND = 2
_ORBIT_RADIUS = 0.42
"""As a fraction of a move, so that a circle is about as wide as a move is long."""
_CANDIDATES = 16


@dataclass(frozen=True, kw_only=True)
class Track:
    """One object through the clip, in frames as played."""

    thing: ObjectMeaning
    """Look and program of the base meaning."""
    x: Floats
    """Centre in pixels, [T]."""
    y: Floats
    """Centre in pixels, [T]."""
    radius: Floats
    """Half the object's width in pixels, [T]."""
    angle: Floats
    """Radians, clockwise, [T]."""
    visible: NDArray[np.bool_]
    """[T]"""
    colours: tuple[str, ...]
    """Name of the colour in each of the T frames."""


@dataclass(frozen=True, kw_only=True)
class _Segment:
    """An action and the share of it that is done in each frame."""

    action: str
    progress: Floats
    """[T], 0 before, 1 after."""
    seconds: float
    """How long it takes."""


def tracks(scene: Scene, *, config: CorpusConfig) -> tuple[Track, ...]:
    """The objects of a scene, back to front."""
    generator = np.random.default_rng([scene.seed, 1])
    order = frame_order(scene, frames=config.frames)
    placed: list[Track] = []
    for index in generator.permutation(len(scene.base.objects)):
        thing = scene.base.objects[index]
        placed.append(_place(thing, scene.base, placed, generator=generator, config=config))
    return tuple(_reordered(track, order) for track in placed)


def frame_order(scene: Scene, *, frames: int) -> NDArray[np.int64]:
    """Which frame of the base scene is shown at each place of the clip, int64 [T]."""
    indices = np.arange(frames)
    if scene.playback == "reversed":
        return indices[::-1]
    return np.roll(indices, frames // 2) if scene.playback == "halves swapped" else indices


def visible_looks(placed: tuple[Track, ...], frame: int) -> list[tuple[str, str, str]]:
    """(texture, colour, shape) of the objects that are seen in a frame."""
    return [
        (track.thing.texture, track.colours[frame], track.thing.shape)
        for track in placed
        if track.visible[frame]
    ]


def _place(
    thing: ObjectMeaning,
    meaning: Meaning,
    others: list[Track],
    *,
    generator: np.random.Generator,
    config: CorpusConfig,
) -> Track:
    """Draws a layout in which the object stays in the frame and covers the others least."""
    segments = _segments(thing, config=config)
    unit = min(config.width, config.height)
    visible, colours = _visibility(thing, segments, config=config)
    crowd = 0.85 if len(meaning.objects) > 2 else 1.0
    size = config.object_size / 2 * crowd * _jitter(generator, config.size_jitter)
    radius = size * np.exp(_log_scale(segments, config=config))
    paths, discomfort = _candidate_paths(segments, radius, generator=generator, config=config)
    for other in others:
        centre = np.stack([other.x, other.y], axis=-1) / unit
        distance = np.linalg.norm(paths - centre, axis=-1)
        overlap = np.clip(0.95 * (radius + other.radius / unit) - distance, 0, None)
        discomfort += np.max(overlap * (visible & other.visible), axis=-1)
    path = paths[np.argmin(discomfort)] * unit
    return Track(
        thing=thing,
        x=path[:, 0],
        y=path[:, 1],
        radius=radius * unit,
        angle=_angle(segments, generator=generator, config=config),
        visible=visible,
        colours=colours,
    )


def _segments(thing: ObjectMeaning, *, config: CorpusConfig) -> list[_Segment]:
    """The actions of an object with their times; what goes on over phases is one segment."""
    done = behaviours(thing.program)
    time = (np.arange(config.frames) + 0.5) / config.frames
    found = []
    for phase, action in enumerate(thing.program):
        if action is None:
            continue
        end = phase + 1
        while end < len(done) and done[end] == action:
            end += 1
        start, length = phase / len(done), (end - phase) / len(done)
        progress = np.clip((time - start) / length, 0, 1)
        found.append(_Segment(action=action, progress=progress, seconds=length * config.seconds))
    return found


def _visibility(
    thing: ObjectMeaning, segments: list[_Segment], *, config: CorpusConfig
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Whether seen [T], and the colour in each frame."""
    first = behaviours(thing.program)[0]
    visible = np.full(config.frames, first not in (ABSENT, APPEARS))
    colours = np.full(config.frames, thing.colour, dtype=object)
    for segment in segments:
        happened = segment.progress >= 0.5
        if segment.action in (APPEARS, DISAPPEARS):
            visible[happened] = segment.action == APPEARS
        elif segment.action == BLINKS:
            cycles = max(1, round(_BLINKS_PER_SECOND * segment.seconds))
            visible &= np.cos(tau * cycles * segment.progress) > 0
        elif is_sudden(segment.action):
            colours[happened] = changed_colour(segment.action)
    return visible, tuple(colours)


def _log_scale(segments: list[_Segment], *, config: CorpusConfig) -> Floats:
    """Logarithm of the size [T], its extremes as far above as below zero."""
    scale = np.zeros(config.frames)
    for segment in segments:
        scale += _RESIZES.get(segment.action, 0.0) * _GROWTH * segment.progress
    span = float(np.ptp(scale))
    centred: Floats = (scale - (scale.max() + scale.min()) / 2) * min(1, _GROWTH / max(span, 1e-9))
    return centred


def _angle(
    segments: list[_Segment], *, generator: np.random.Generator, config: CorpusConfig
) -> Floats:
    """Radians [T]: nearly upright, turned either way by spinning."""
    angle = np.full(config.frames, generator.uniform(-0.15, 0.15))
    speed = _SPIN_RADIANS_PER_SECOND * _jitter(generator, config.speed_jitter)
    speed *= generator.choice((-1.0, 1.0))
    for segment in segments:
        if segment.action == SPINS:
            angle += speed * segment.seconds * segment.progress
    return angle


def _candidate_paths(
    segments: list[_Segment],
    radius: Floats,
    *,
    generator: np.random.Generator,
    config: CorpusConfig,
) -> tuple[Floats, Floats]:
    """Paths [N, T, 2] that stay in the frame, and how much shorter each is than drawn, [N]."""
    travel = config.travel * (1 + config.speed_jitter * generator.uniform(-1, 1, _CANDIDATES))
    start_angle = generator.uniform(0, tau, _CANDIDATES)[:, None]
    path = np.zeros((_CANDIDATES, config.frames, 2))
    for segment in segments:
        if segment.action in _DIRECTIONS:
            path += segment.progress[:, None] * _DIRECTIONS[segment.action]
        elif segment.action in _TURNS:
            angle = start_angle + _TURNS[segment.action] * tau * segment.progress
            path[..., 0] += _ORBIT_RADIUS * (np.cos(angle) - np.cos(start_angle))
            path[..., 1] += _ORBIT_RADIUS * (np.sin(angle) - np.sin(start_angle))
    path *= travel[:, None, None]
    extent = np.array([config.width, config.height]) / min(config.width, config.height)
    room = extent - 2 * radius.max()
    fit = np.minimum(1, (room / np.maximum(np.ptp(path, axis=1), 1e-9)).min(axis=1))
    path *= fit[:, None, None]
    free = room - np.ptp(path, axis=1)
    corner = radius.max() + free * generator.uniform(size=(_CANDIDATES, 2))
    path += (corner - path.min(axis=1))[:, None]
    return path, 1 - fit


def _jitter(generator: np.random.Generator, fraction: float) -> float:
    return 1 + fraction * generator.uniform(-1, 1)


def _reordered(track: Track, order: NDArray[np.int64]) -> Track:
    return Track(
        thing=track.thing,
        x=track.x[order],
        y=track.y[order],
        radius=track.radius[order],
        angle=track.angle[order],
        visible=track.visible[order],
        colours=tuple(track.colours[index] for index in order),
    )
