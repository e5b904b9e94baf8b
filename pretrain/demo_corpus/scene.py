"""What happens in a clip: its objects, what each does in every phase, and how meanings relate.

A clip is cut into one to three equal phases. An object's program holds one entry a phase: an
action that begins there, or None: it goes on as before (and is not there yet, if nothing came
before). A `Meaning` is all that captions tell; positions, speeds and background are not part of it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from reelscan.pretrain.demo_corpus.config import ACTIONS, COLOURS, SHAPES, TEXTURES, CorpusConfig

STILL = "stays still"
SPINS = "spins"
BLINKS = "blinks"
APPEARS = "appears"
DISAPPEARS = "disappears"
ABSENT = "is absent"
CHANGES_COLOUR = "changes colour"
_OPPOSITES = (
    ("moves left", "moves right"),
    ("moves up", "moves down"),
    ("circles clockwise", "circles counterclockwise"),
    ("grows", "shrinks"),
    (APPEARS, DISAPPEARS),
)
_UNDIRECTED = (STILL, SPINS, BLINKS, ABSENT)
INVERSE: dict[str, str] = {
    **dict(_OPPOSITES),
    **{second: first for first, second in _OPPOSITES},
    **{action: action for action in _UNDIRECTED},
}
"""What an action looks like when the clip runs backwards; a change of colour is not in it."""
_LOOPS = (STILL, BLINKS, "circles clockwise", "circles counterclockwise")
_SAME_WHEN_TURNED = ("circle", "ring")

Playback = Literal["forward", "reversed", "halves swapped"]
Composition = tuple[str, str]
"""(colour, shape) or (shape, family of actions)."""


@dataclass(frozen=True, kw_only=True, order=True)
class ObjectMeaning:
    """One object and what it does."""

    shape: str
    colour: str
    """At first; an action can change it."""
    texture: str
    program: tuple[str | None, ...]
    """Per phase the action that begins, or None."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """All that captions tell about a clip."""

    objects: tuple[ObjectMeaning, ...]
    """Sorted, with different shapes and colours."""

    @property
    def phases(self) -> int:
        """How many phases the clip has."""
        return len(self.objects[0].program)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A clip to render: two scenes of one base and seed hold the same frames in another order."""

    base: Meaning
    """What happens when the frames are played forward."""
    seed: int
    """Places, speeds and background follow from it."""
    playback: Playback = "forward"
    """Order of the frames."""

    @property
    def meaning(self) -> Meaning:
        """What happens as played."""
        if self.playback == "forward":
            return self.base
        partner = _time_reversed(self.base)
        if self.playback == "halves swapped":
            partner = _phases_swapped(self.base)
        assert partner is not None, "scenes are only played in an order that has a meaning"
        return partner


def colour_change(colour: str) -> str:
    """The action of turning to a colour."""
    return f"{CHANGES_COLOUR} to {colour}"


def changed_colour(action: str) -> str | None:
    """The colour an action ends in, None if it changes none."""
    prefix = f"{CHANGES_COLOUR} to "
    return action.removeprefix(prefix) if action.startswith(prefix) else None


def is_sudden(action: str) -> bool:
    """Whether the action happens at one moment, in the middle of its phase."""
    return action in (APPEARS, DISAPPEARS) or changed_colour(action) is not None


def action_family(action: str) -> str:
    """One name for an action and its opposite, or for all changes of colour."""
    if changed_colour(action) is not None:
        return CHANGES_COLOUR
    return " / ".join(sorted({action, INVERSE[action]}))


def behaviours(program: tuple[str | None, ...]) -> tuple[str, ...]:
    """What an object does in each phase, continuations spelled out."""
    done: list[str] = []
    for action in program:
        done.append(action if action is not None else _continued(done[-1] if done else ABSENT))
    return tuple(done)


def compositions(meaning: Meaning) -> frozenset[Composition]:
    """The pairs of attributes that occur together in one object."""
    found: set[Composition] = set()
    for thing in meaning.objects:
        found.add((thing.colour, thing.shape))
        for action in thing.program:
            if action is not None:
                found.add((thing.shape, action_family(action)))
                colour = changed_colour(action)
                found |= {(colour, thing.shape)} if colour else set()
    return frozenset(found)


def direction_partner(scene: Scene) -> Scene | None:
    """The scene backwards, if that differs from it in directions of motion or change alone."""
    reverse = _time_reversed(scene.base)
    if reverse is None or reverse == scene.base or scene.playback != "forward":
        return None
    for there, back in zip(scene.base.objects, reverse.objects, strict=True):
        phases = zip(behaviours(there.program), behaviours(back.program), strict=True)
        if any(second not in (first, INVERSE[first]) for first, second in phases):
            return None
    return replace(scene, playback="reversed")


def order_partner(scene: Scene) -> Scene | None:
    """A scene of the same frames whose two phases come in the other order, if there is one.

    Either both phases look the same backwards, or the scene ends as it begins, so that its halves
    can be swapped.
    """
    swapped = _phases_swapped(scene.base)
    if swapped is None or swapped == scene.base or scene.playback != "forward":
        return None
    programs = [behaviours(thing.program) for thing in scene.base.objects]
    if all(action in _UNDIRECTED for program in programs for action in program):
        return replace(scene, playback="reversed")
    if all(_returns(first, second) for first, second in programs):
        return replace(scene, playback="halves swapped")
    return None


def draw_meaning(
    generator: random.Random, *, config: CorpusConfig, phases: int | None = None
) -> Meaning:
    """A random meaning within the knobs of `config`; something happens in every phase."""
    phases = phases or generator.randint(1, config.phases)
    count = generator.randint(1, config.objects)
    shapes = generator.sample(SHAPES[: config.shapes], count)
    colours = generator.sample(COLOURS[: config.colours], count)
    textures = generator.choices(TEXTURES[: config.textures], k=count)
    while True:
        objects = tuple(
            ObjectMeaning(
                shape=shape,
                colour=colour,
                texture=texture,
                program=_draw_program(
                    generator, phases=phases, look=(texture, colour, shape), config=config
                ),
            )
            for shape, colour, texture in zip(shapes, colours, textures, strict=True)
        )
        if _is_eventful(objects) and _colours_stay_apart(objects):
            return Meaning(objects=tuple(sorted(objects, key=lambda thing: thing.shape)))


def _draw_program(
    generator: random.Random, *, phases: int, look: tuple[str, str, str], config: CorpusConfig
) -> tuple[str | None, ...]:
    """Per phase an action that is possible there, or None."""
    texture, colour, shape = look
    available = [
        action
        for action in ACTIONS[: config.actions]
        if action != SPINS or texture != TEXTURES[0] or shape not in _SAME_WHEN_TURNED
    ]
    comes_later = phases > 1 and APPEARS in available and generator.random() < 0.15
    program: list[str | None] = []
    last = ABSENT
    for phase in range(phases):
        if comes_later if phase == 0 else generator.random() < 0.5:
            action = None
        elif phase > 0 and last in (ABSENT, DISAPPEARS):
            action = APPEARS
        else:
            excluded = () if phase == 0 else (_continued(last), APPEARS)
            action = generator.choice([a for a in available if a not in excluded])
        if action == CHANGES_COLOUR:
            colour = generator.choice([c for c in COLOURS[: config.colours] if c != colour])
            action = colour_change(colour)
        program.append(action)
        last = action if action is not None else _continued(last)
    return tuple(program)


def _is_eventful(objects: tuple[ObjectMeaning, ...]) -> bool:
    """Whether something begins in every phase, every object is seen, and not all stand still."""
    programs = [thing.program for thing in objects]
    begun = all(any(phase) for phase in zip(*programs, strict=True))
    return (
        begun
        and all(map(any, programs))
        and any({*program} - {None, STILL} for program in programs)
    )


def _colours_stay_apart(objects: tuple[ObjectMeaning, ...]) -> bool:
    """Whether no object takes a colour that another has, had or takes."""
    shown = []
    for thing in objects:
        later = {changed_colour(action) for action in thing.program if action is not None}
        shown.append({thing.colour, *later} - {None})
    return sum(map(len, shown)) == len(set().union(*shown))


def _continued(action: str) -> str:
    """What an object does in the phase after, if nothing new begins."""
    if action == DISAPPEARS:
        return ABSENT
    return STILL if is_sudden(action) else action


def _returns(first: str, second: str) -> bool:
    """Whether an object is after two phases as it was before them."""
    if first in _LOOPS and second in _LOOPS:
        return True
    return first not in _UNDIRECTED and INVERSE.get(first) == second


def _time_reversed(meaning: Meaning) -> Meaning | None:
    """What happens when the clip runs backwards; None if a change of colour has no inverse."""
    programs = [behaviours(thing.program) for thing in meaning.objects]
    if any(action not in INVERSE for program in programs for action in program):
        return None
    return _rearranged(meaning, lambda program: tuple(INVERSE[b] for b in reversed(program)))


def _phases_swapped(meaning: Meaning) -> Meaning | None:
    """The two phases in the other order; None unless there are two."""
    if meaning.phases != 2:
        return None
    return _rearranged(meaning, lambda program: (program[1], program[0]))


def _rearranged(
    meaning: Meaning, rearrange: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> Meaning:
    objects = tuple(
        replace(thing, program=_program_of(rearrange(behaviours(thing.program))))
        for thing in meaning.objects
    )
    return replace(meaning, objects=objects)


def _program_of(per_phase: tuple[str, ...]) -> tuple[str | None, ...]:
    """The inverse of `behaviours`: what merely goes on becomes None."""
    before = (ABSENT, *(per_phase[:-1]))
    return tuple(
        None if action == _continued(last) else action
        for last, action in zip(before, per_phase, strict=True)
    )
