"""Which scenes are for training and which for testing, split by what occurs together.

Some colours of a shape and some actions of a shape never occur in training; every test scene shows
at least one such pair. Each colour, shape and action on its own occurs in training.
"""

import random
from dataclasses import dataclass
from typing import Literal

from reelscan.pretrain.demo_corpus.config import ACTIONS, COLOURS, SHAPES, CorpusConfig
from reelscan.pretrain.demo_corpus.scene import (
    CHANGES_COLOUR,
    STILL,
    Composition,
    Meaning,
    Scene,
    action_family,
    colour_change,
    compositions,
    direction_partner,
    draw_meaning,
    order_partner,
)

PairKind = Literal["order", "direction"]

_MOST_DRAWS = 50_000


@dataclass(frozen=True, kw_only=True)
class ScenePair:
    """Two test scenes of the same frames in another order."""

    kind: PairKind
    """Whether the order of two phases differs, or the direction of motion and change."""
    first: int
    """Number of the scene in `Split.test`, from 0."""
    second: int
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """All scenes of a corpus."""

    held_out: frozenset[Composition]
    """Pairs of attributes that only the test shows together."""
    train: tuple[Scene, ...]
    """Meanings may repeat. The first scenes are pairs that only time tells apart."""
    train_pairs: int
    """Number of these pairs."""
    test: tuple[Scene, ...]
    """No two of the same meaning."""
    pairs: tuple[ScenePair, ...]
    """Test scenes that only time tells apart."""


def split_scenes(config: CorpusConfig) -> Split:
    """Draws the scenes. Raises ValueError if the knobs allow too few different ones."""
    held_out = held_out_compositions(config)
    test, pairs = _draw_test(config, held_out)
    paired = round(config.train_videos * config.train_paired_fraction / 2)
    return Split(
        held_out=held_out,
        train=draw_train(config, held_out, pairs=paired),
        train_pairs=paired,
        test=test,
        pairs=pairs,
    )


def held_out_compositions(config: CorpusConfig) -> frozenset[Composition]:
    """The pairs kept for the test: equally many colours and kinds of action for every shape."""
    generator = random.Random(f"{config.seed} held out")
    names = {colour_change("") if a == CHANGES_COLOUR else a for a in ACTIONS[: config.actions]}
    families = sorted({action_family(name) for name in names} - {STILL})
    shapes = SHAPES[: config.shapes]
    colours = _allot(COLOURS[: config.colours], config, generator)
    actions = _allot(tuple(families), config, generator)
    return frozenset(
        {(colour, shape) for shape, taken in zip(shapes, colours, strict=True) for colour in taken}
        | {
            (shape, action)
            for shape, taken in zip(shapes, actions, strict=True)
            for action in taken
        }
    )


def _allot(
    attributes: tuple[str, ...], config: CorpusConfig, generator: random.Random
) -> list[list[str]]:
    """For every shape its share of the attributes, dealt in turn so that none is dealt to all."""
    shuffled = generator.sample(attributes, len(attributes))
    share = max(1, round(config.held_out_fraction * len(attributes)))
    return [
        [shuffled[(number * share + step) % len(attributes)] for step in range(share)]
        for number in range(config.shapes)
    ]


def draw_train(
    config: CorpusConfig, held_out: frozenset[Composition], *, pairs: int, part: int = 0
) -> tuple[Scene, ...]:
    """`config.train_videos` scenes without held-out pairs; first come `pairs` times two partners.

    Another `part` gives other scenes, so that several processes can draw at once.
    """
    generator = random.Random(f"{config.seed} train" + (f" {part}" if part else ""))
    scenes: list[Scene] = []
    kinds = _pair_kinds(config)
    while len(scenes) < 2 * pairs:
        kind = kinds[len(scenes) // 2 % len(kinds)]
        scene, partner = _draw_with_partner(config, generator=generator, kind=kind)
        if partner and not (compositions(scene.meaning) | compositions(partner.meaning)) & held_out:
            scenes += [scene, partner]
    while len(scenes) < config.train_videos:
        meaning = draw_meaning(generator, config=config)
        if not compositions(meaning) & held_out:
            scenes.append(Scene(base=meaning, seed=generator.getrandbits(31)))
    return tuple(scenes)


def _pair_kinds(config: CorpusConfig) -> tuple[PairKind, ...]:
    return ("direction", "order") if config.phases > 1 else ("direction",)


def _draw_with_partner(
    config: CorpusConfig, *, generator: random.Random, kind: PairKind | None
) -> tuple[Scene, Scene | None]:
    """A scene and its partner, if it has one of that kind."""
    phases = {"direction": 1, "order": 2, None: None}[kind]
    meaning = draw_meaning(generator, config=config, phases=phases)
    scene = Scene(base=meaning, seed=generator.getrandbits(31))
    match kind:
        case "direction":
            return scene, direction_partner(scene)
        case "order":
            return scene, order_partner(scene)
        case _:
            return scene, None


def _draw_test(
    config: CorpusConfig, held_out: frozenset[Composition]
) -> tuple[tuple[Scene, ...], tuple[ScenePair, ...]]:
    generator = random.Random(f"{config.seed} test")
    kinds = _pair_kinds(config)
    seen: set[Meaning] = set()
    groups: list[tuple[PairKind | None, tuple[Scene, ...]]] = []
    for number in range(round(config.test_videos * config.paired_fraction / 2)):
        wanted = kinds[number % len(kinds)]
        groups.append((wanted, _draw_new(config, held_out, seen, generator=generator, kind=wanted)))
    while len(seen) < config.test_videos:
        groups.append((None, _draw_new(config, held_out, seen, generator=generator, kind=None)))
    places = generator.sample(range(config.test_videos), config.test_videos)
    test: dict[int, Scene] = {}
    pairs = []
    for kind, scenes in groups:
        taken = [places.pop() for _ in scenes]
        test.update(zip(taken, scenes, strict=True))
        if kind is not None:
            pairs.append(ScenePair(kind=kind, first=taken[0], second=taken[1]))
    return tuple(test[place] for place in sorted(test)), tuple(pairs)


def _draw_new(
    config: CorpusConfig,
    held_out: frozenset[Composition],
    seen: set[Meaning],
    *,
    generator: random.Random,
    kind: PairKind | None,
) -> tuple[Scene, ...]:
    """A test scene, or two that are a pair, of meanings that are not yet among `seen`."""
    for _ in range(_MOST_DRAWS):
        scene, partner = _draw_with_partner(config, generator=generator, kind=kind)
        if not compositions(scene.base) & held_out:
            continue
        if kind is not None and partner is None:
            continue
        scenes = (scene,) if partner is None else (scene, partner)
        meanings = {each.meaning for each in scenes}
        if not meanings & seen and all(compositions(each) & held_out for each in meanings):
            seen |= meanings
            return scenes
    raise ValueError(
        f"these knobs allow too few different test scenes: found {len(seen)} of "
        f"{config.test_videos}; ask for fewer test_videos or for more attributes"
    )
