"""What a rendered clip also shows when it is played in another order or mirrored.

A clip backwards or with swapped halves, and its mirror image, have true captions of their own, so
every rendered clip is up to six, and those that differ in the order of frames alone are twins.
"""

from dataclasses import replace

from reelscan.pretrain.demo_corpus.scene import (
    Meaning,
    ObjectMeaning,
    Playback,
    Scene,
    changed_colour,
    order_partner,
)

PLAYBACKS: tuple[Playback, ...] = ("forward", "reversed", "halves swapped")
_MIRRORED = {
    "moves left": "moves right",
    "moves right": "moves left",
    "circles clockwise": "circles counterclockwise",
    "circles counterclockwise": "circles clockwise",
}


def played(scene: Scene) -> tuple[Meaning | None, Meaning | None, Meaning | None]:
    """What a forward scene means by `PLAYBACKS`; None where it means nothing else or nothing."""
    base = scene.base
    backwards = swapped = None
    actions = [action for thing in base.objects for action in thing.program if action]
    if not any(map(changed_colour, actions)):
        backwards = replace(scene, playback="reversed").meaning
    partner = order_partner(scene)
    if partner is not None and partner.playback == "halves swapped":
        swapped = partner.meaning
    backwards = None if backwards == base or not _can_be_told(backwards) else backwards
    return base, backwards, None if swapped in (base, backwards) else swapped


def _can_be_told(meaning: Meaning | None) -> bool:
    """Whether something begins in every phase, as captions need it."""
    if meaning is None:
        return False
    return all(any(phase) for phase in zip(*(t.program for t in meaning.objects), strict=True))


def mirrored(meaning: Meaning) -> Meaning:
    """What the mirror image shows: left for right, and circles the other way round."""
    return Meaning(objects=tuple(_mirrored(thing) for thing in meaning.objects))


def _mirrored(thing: ObjectMeaning) -> ObjectMeaning:
    program = tuple(_MIRRORED.get(action, action) if action else None for action in thing.program)
    return replace(thing, program=program)
