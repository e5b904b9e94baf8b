"""Sentences for a clip: many for one meaning, never one for two meanings.

A sentence tells the look and every action of every object. What goes on is not said again: "a
striped blue circle shrinks while a red star moves up; then the star stops". Punctuation carries no
meaning, because tokenizers drop it.
"""

import random
from dataclasses import dataclass

from reelscan.pretrain.demo_corpus.scene import (
    APPEARS,
    DISAPPEARS,
    STILL,
    Meaning,
    ObjectMeaning,
    changed_colour,
    is_sudden,
)

Verb = tuple[str, str]
"""(moves, moving)"""

VERBS: dict[str, tuple[Verb, ...]] = {
    "moves left": (
        ("moves left", "moving left"),
        ("goes to the left", "going to the left"),
        ("slides left", "sliding left"),
    ),
    "moves right": (
        ("moves right", "moving right"),
        ("goes to the right", "going to the right"),
        ("slides right", "sliding right"),
    ),
    "moves up": (("moves up", "moving up"), ("goes up", "going up"), ("rises", "rising")),
    "moves down": (
        ("moves down", "moving down"),
        ("goes down", "going down"),
        ("sinks", "sinking"),
    ),
    "circles clockwise": (
        ("circles clockwise", "circling clockwise"),
        ("moves in a circle clockwise", "moving in a circle clockwise"),
    ),
    "circles counterclockwise": (
        ("circles counterclockwise", "circling counterclockwise"),
        ("moves in a circle counterclockwise", "moving in a circle counterclockwise"),
    ),
    "grows": (("grows", "growing"), ("gets bigger", "getting bigger")),
    "shrinks": (("shrinks", "shrinking"), ("gets smaller", "getting smaller")),
    "spins": (("spins", "spinning"), ("rotates", "rotating")),
    "blinks": (("blinks", "blinking"), ("flashes", "flashing")),
    APPEARS: (("appears", "appearing"), ("shows up", "showing up")),
    DISAPPEARS: (("disappears", "disappearing"), ("vanishes", "vanishing")),
}
STILL_VERBS: tuple[Verb, ...] = (("stays still", "staying still"), ("does not move", "not moving"))
STOP_VERBS: tuple[Verb, ...] = (("stops", "stopping"), ("comes to rest", "coming to rest"))
COLOUR_VERBS: tuple[Verb, ...] = (("turns", "turning"), ("changes to", "changing to"))
TEXTURE_WORDS = {
    "striped": ("striped", "with stripes"),
    "dotted": ("dotted", "with dots"),
    "checkered": ("checkered", "with checks"),
}
"""Before the noun and after it; plain objects usually have neither."""
_JOINERS = (" while ", " and ", " as ")
_NEXT = (", then ", " and then ", "; after that ", ", and afterwards ")


@dataclass(frozen=True, kw_only=True)
class _Event:
    """An action that begins, in words."""

    thing: ObjectMeaning
    verb: Verb
    goes_on: bool
    """Whether "is moving" is as true as "moves"."""


def caption(meaning: Meaning, generator: random.Random) -> str:
    """One sentence that determines the meaning, in random words and order."""
    phases = [_events(meaning, phase, generator) for phase in range(meaning.phases)]
    teller = _Teller(generator, subjects=len(meaning.objects))
    if len(phases) == 1:
        return _tell_one_phase(phases[0], teller)
    if len(phases) == 2:
        return _tell_two_phases(phases[0], phases[1], teller)
    first = generator.choice(("", "first "))
    told = [teller.clauses(events) for events in phases]
    return first + told[0] + "".join(generator.choice(_NEXT) + later for later in told[1:])


def captions(meaning: Meaning, count: int, generator: random.Random) -> list[str]:
    """Up to `count` different sentences; fewer only if the meaning allows no more."""
    found: dict[str, None] = {}
    for _ in range(20 * count):
        found[caption(meaning, generator)] = None
        if len(found) == count:
            break
    return list(found)


def static_captions(
    looks: list[tuple[str, str, str]], count: int, generator: random.Random
) -> list[str]:
    """Up to `count` sentences for a frame that shows objects of these (texture, colour, shape).

    They tell nothing of time. The first is always of the same form and order.
    """
    if not looks:
        raise ValueError("a frame without a visible object has no caption; choose another frame")
    plainly = [_with_article(_look(*look, place=0)) for look in sorted(looks, key=lambda o: o[2])]
    found = {" and ".join(plainly): None}
    for _ in range(20 * count):
        if len(found) >= count:
            break
        order = generator.sample(looks, len(looks))
        named = [_with_article(_any_look(*look, generator)) for look in order]
        found[generator.choice(("", "a picture of ", "there is ")) + " and ".join(named)] = None
    return list(found)[:count]


def _tell_one_phase(events: list[_Event], teller: "_Teller") -> str:
    generator = teller.generator
    if len(events) == 2 and generator.random() < 0.2:
        return f"while {teller.clause(events[0])}, {teller.clause(events[1])}"
    if generator.random() < 0.2:
        shown = " and ".join(f"{teller.subject(event)} {event.verb[1]}" for event in events)
        return generator.choice(("we see ", "there is ")) + shown
    return teller.clauses(events)


def _tell_two_phases(first: list[_Event], second: list[_Event], teller: "_Teller") -> str:
    """Half of the sentences in the order of time, a quarter each with "before" and "after"."""
    generator = teller.generator
    if teller.subjects == 1 and generator.random() < 0.3:
        return _tell_one_object(first[0], second[0], teller)
    form = generator.randrange(8)
    teller.may_progress = form > 3
    if form == 0:
        return f"before {teller.clauses(second)}, {teller.clauses(first)}"
    if form == 1:
        return f"{teller.clauses(first)} before {teller.clauses(second)}"
    if form == 2:
        return f"after {teller.clauses(first)}, {teller.clauses(second)}"
    if form == 3:
        return f"{teller.clauses(second)} after {teller.clauses(first)}"
    start = generator.choice(("", "", "first "))
    return start + teller.clauses(first) + generator.choice(_NEXT) + teller.clauses(second)


def _tell_one_object(first: _Event, second: _Event, teller: "_Teller") -> str:
    """Shorter forms that name the only object once."""
    subject = teller.subject(first)
    return teller.generator.choice(
        (
            f"{subject} {first.verb[0]} and then {second.verb[0]}",
            f"{subject} {first.verb[0]} before {second.verb[1]}",
            f"{subject} {second.verb[0]} after {first.verb[1]}",
            f"after {first.verb[1]}, {subject} {second.verb[0]}",
            f"before {second.verb[1]}, {subject} {first.verb[0]}",
        )
    )


class _Teller:
    """Names objects in full when the sentence first mentions them, briefly afterwards."""

    def __init__(self, generator: random.Random, *, subjects: int) -> None:
        self.generator = generator
        self.subjects = subjects
        self.may_progress = True
        """Whether "is moving" may stand for "moves"; it reads badly with "before" and "after"."""
        self._mentioned: set[str] = set()

    def clauses(self, events: list[_Event]) -> str:
        """All that begins in one phase."""
        told = self.clause(events[0])
        for event in events[1:]:
            told += self.generator.choice(_JOINERS) + self.clause(event)
        return told

    def clause(self, event: _Event) -> str:
        """Subject and verb."""
        progressive = self.may_progress and event.goes_on and self.generator.random() < 0.2
        verb = f"is {event.verb[1]}" if progressive else event.verb[0]
        return f"{self.subject(event)} {verb}"

    def subject(self, event: _Event) -> str:
        """What the object is called at this point of the sentence."""
        thing = event.thing
        if thing.shape not in self._mentioned:
            self._mentioned.add(thing.shape)
            return _with_article(
                _any_look(thing.texture, thing.colour, thing.shape, self.generator)
            )
        if self.subjects == 1:
            return "it"
        if any(action and changed_colour(action) for action in thing.program):
            return f"the {thing.shape}"
        return self.generator.choice((f"the {thing.shape}", f"the {thing.colour} {thing.shape}"))


def _events(meaning: Meaning, phase: int, generator: random.Random) -> list[_Event]:
    """What begins in a phase, in random order."""
    things = generator.sample(meaning.objects, len(meaning.objects))
    return [
        _Event(
            thing=thing,
            verb=generator.choice(_verbs(action, thing.program, phase)),
            goes_on=not is_sudden(action) and (action != STILL or phase == 0),
        )
        for thing in things
        if (action := thing.program[phase]) is not None
    ]


def _verbs(action: str, program: tuple[str | None, ...], phase: int) -> tuple[Verb, ...]:
    if action == STILL:
        return STOP_VERBS if phase > 0 else STILL_VERBS
    colour = changed_colour(action)
    if colour is not None:
        return tuple((f"{now} {colour}", f"{being} {colour}") for now, being in COLOUR_VERBS)
    return VERBS[action]


def _any_look(texture: str, colour: str, shape: str, generator: random.Random) -> str:
    return _look(texture, colour, shape, place=generator.choice((0, 0, 1, 2)))


def _look(texture: str, colour: str, shape: str, *, place: int) -> str:
    """Words for a look; `place` puts the texture before the colour, before or after the shape."""
    if texture not in TEXTURE_WORDS:
        return f"plain {colour} {shape}" if place == 2 else f"{colour} {shape}"
    before, after = TEXTURE_WORDS[texture]
    forms = (
        f"{before} {colour} {shape}",
        f"{colour} {before} {shape}",
        f"{colour} {shape} {after}",
    )
    return forms[place]


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
