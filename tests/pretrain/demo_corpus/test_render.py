import random

import numpy as np
import pytest

from reelscan.pretrain.demo_corpus.config import (
    ACTIONS,
    COLOURS,
    SHAPES,
    TEXTURES,
    CorpusConfig,
    small_corpus,
)
from reelscan.pretrain.demo_corpus.motion import tracks, visible_looks
from reelscan.pretrain.demo_corpus.render import RGB, render
from reelscan.pretrain.demo_corpus.scene import (
    Meaning,
    ObjectMeaning,
    Scene,
    direction_partner,
    draw_meaning,
    order_partner,
)

EVERYTHING = CorpusConfig(
    textures=len(TEXTURES), colours=len(COLOURS), shapes=len(SHAPES), actions=len(ACTIONS)
)


def one_object(
    *program: str | None,
    shape: str = "circle",
    colour: str = "red",
    texture: str = "plain",
    seed: int = 0,
) -> Scene:
    thing = ObjectMeaning(shape=shape, colour=colour, texture=texture, program=program)
    return Scene(base=Meaning(objects=(thing,)), seed=seed)


def red_area(frames: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Pixels of a red object, bool [T, H, W]."""
    return (frames[:, 0] > 150) & (frames[:, 1] < 80) & (frames[:, 2] < 80)


def centres(frames: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Mean (x, y) of the red object in each frame."""
    return np.array([np.argwhere(seen)[:, ::-1].mean(axis=0) for seen in red_area(frames)])


def test_frames_are_rgb_bytes_of_the_configured_size() -> None:
    config = CorpusConfig(width=80, height=48, seconds=1.5)
    frames = render(one_object("spins", shape="star"), config=config)
    assert frames.shape == (12, 3, 48, 80) and frames.dtype == np.uint8


def test_the_same_scene_gives_the_same_frames() -> None:
    scene, config = one_object("moves up", seed=5), small_corpus()
    assert np.array_equal(render(scene, config=config), render(scene, config=config))
    assert not np.array_equal(
        render(scene, config=config), render(one_object("moves up", seed=6), config=config)
    )


@pytest.mark.parametrize(
    ("action", "axis", "sign"),
    [("moves left", 0, -1), ("moves right", 0, 1), ("moves up", 1, -1), ("moves down", 1, 1)],
)
def test_moves_span_two_fifths_of_the_frame(action: str, axis: int, sign: int) -> None:
    config = small_corpus()
    for seed in range(5):
        path = centres(render(one_object(action, seed=seed), config=config))
        steps = np.diff(path[:, axis]) * sign
        assert (steps > 0).all()
        assert steps.sum() > 0.38 * config.width
        assert np.ptp(path[:, 1 - axis]) < 1.5


@pytest.mark.parametrize(("action", "sign"), [("clockwise", 1), ("counterclockwise", -1)])
def test_circles_turn_the_named_way(action: str, sign: int) -> None:
    path = centres(render(one_object(f"circles {action}"), config=EVERYTHING))
    around = path - path.mean(axis=0)
    turned = np.diff(np.unwrap(np.arctan2(around[:, 1], around[:, 0])))
    assert (turned * sign > 0).all()
    assert 5.5 < abs(turned.sum()) < 6.3


def test_objects_grow_and_shrink_to_more_than_twice_their_width() -> None:
    grown = red_area(render(one_object("grows"), config=small_corpus())).sum(axis=(1, 2))
    shrunk = red_area(render(one_object("shrinks"), config=small_corpus())).sum(axis=(1, 2))
    assert grown[-1] > 3.5 * grown[0]
    assert shrunk[0] > 3.5 * shrunk[-1]


def test_sudden_actions_happen_in_the_middle_of_their_phase() -> None:
    shown = red_area(render(one_object("appears", "disappears"), config=EVERYTHING)).any(
        axis=(1, 2)
    )
    assert shown.tolist() == [False] * 4 + [True] * 8 + [False] * 4
    changed = red_area(render(one_object("changes colour to blue"), config=EVERYTHING))
    assert changed.any(axis=(1, 2)).tolist() == [True] * 8 + [False] * 8


def test_a_blinking_object_is_seen_half_of_the_time() -> None:
    shown = red_area(render(one_object("blinks"), config=small_corpus())).any(axis=(1, 2))
    assert shown.sum() == 8
    assert 6 <= np.abs(np.diff(shown.astype(int))).sum() <= 8


def test_what_stops_stays_where_it_is() -> None:
    path = centres(render(one_object("moves right", "stays still"), config=small_corpus()))
    assert path[7, 0] - path[0, 0] > 0.3 * 64
    assert np.ptp(path[8:], axis=0).max() < 0.6


def test_objects_stay_in_the_frame_and_mostly_apart() -> None:
    generator = random.Random(0)
    covered = []
    for seed in range(200):
        scene = Scene(base=draw_meaning(generator, config=small_corpus()), seed=seed)
        placed = tracks(scene, config=small_corpus())
        for track in placed:
            assert (track.x >= track.radius - 1e-6).all() and (track.y >= track.radius - 1e-6).all()
            assert (track.x <= 64 - track.radius + 1e-6).all()
            assert (track.y <= 64 - track.radius + 1e-6).all()
        if len(placed) == 2:
            one, other = placed
            distance = np.hypot(one.x - other.x, one.y - other.y)
            covered.append((distance < 0.7 * (one.radius + other.radius)).mean())
    assert np.mean(covered) < 0.05


def test_partners_show_the_same_frames() -> None:
    generator = random.Random(1)
    checked = {"direction": 0, "order": 0}
    while min(checked.values()) < 15:
        scene = Scene(
            base=draw_meaning(generator, config=EVERYTHING), seed=generator.getrandbits(31)
        )
        forward = render(scene, config=EVERYTHING)
        backward = direction_partner(scene)
        if backward is not None:
            checked["direction"] += 1
            assert np.array_equal(forward[::-1], render(backward, config=EVERYTHING))
        swapped = order_partner(scene)
        if swapped is not None:
            checked["order"] += 1
            other = render(swapped, config=EVERYTHING)
            assert sorted(f.tobytes() for f in forward) == sorted(f.tobytes() for f in other)


def test_swapped_halves_move_without_a_jump() -> None:
    scene = one_object("moves left", "moves right", seed=2)
    partner = order_partner(scene)
    assert partner is not None
    path = centres(render(partner, config=small_corpus()))
    assert (np.diff(path[:8, 0]) > 0).all() and (np.diff(path[8:, 0]) < 0).all()
    assert np.abs(np.diff(path[:, 0])).max() < 6


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_differ_from_each_other(shape: str) -> None:
    """Compared as silhouettes on an even background."""
    config = CorpusConfig(shapes=len(SHAPES), background_strength=0.0, size_jitter=0.0)
    areas = {
        other: red_area(render(one_object("stays still", shape=other), config=config))[0]
        for other in SHAPES
    }
    for other in set(SHAPES) - {shape}:
        union, common = areas[shape] | areas[other], areas[shape] & areas[other]
        assert common.sum() < 0.9 * union.sum()


def test_textures_mix_the_colour_with_dark() -> None:
    for texture in TEXTURES:
        scene = one_object("stays still", shape="square", texture=texture)
        red = render(scene, config=EVERYTHING)[0, 0] > 150
        share = red.sum() / (0.88 * 0.3 * 64) ** 2
        assert share > 0.8 if texture == "plain" else 0.35 < share < 0.85


def test_colours_are_far_apart() -> None:
    values = np.array(list(RGB.values()))
    apart = np.linalg.norm(values[:, None] - values[None], axis=-1)
    assert apart[~np.eye(len(values), dtype=bool)].min() > 0.3


def test_visible_looks_follow_the_moment() -> None:
    placed = tracks(one_object("changes colour to blue", "disappears"), config=EVERYTHING)
    assert visible_looks(placed, 0) == [("plain", "red", "circle")]
    assert visible_looks(placed, 5) == [("plain", "blue", "circle")]
    assert visible_looks(placed, 15) == []
