import random

import pytest

from reelscan.pretrain.demo_corpus.config import full_corpus, small_corpus
from reelscan.pretrain.demo_corpus.scene import (
    APPEARS,
    DISAPPEARS,
    Meaning,
    ObjectMeaning,
    Scene,
    changed_colour,
    compositions,
    direction_partner,
    draw_meaning,
    order_partner,
)


def scene(*programs: tuple[str | None, ...]) -> Scene:
    looks = (("circle", "red", "plain"), ("star", "blue", "striped"))
    objects = tuple(
        ObjectMeaning(shape=shape, colour=colour, texture=texture, program=program)
        for (shape, colour, texture), program in zip(looks, programs, strict=False)
    )
    return Scene(base=Meaning(objects=objects), seed=1)


def programs(partner: Scene | None) -> list[tuple[str | None, ...]]:
    assert partner is not None
    return [thing.program for thing in partner.meaning.objects]


def test_a_move_backwards_goes_the_other_way() -> None:
    partner = direction_partner(scene(("moves left",), ("spins",)))
    assert programs(partner) == [("moves right",), ("spins",)]


def test_undirected_scenes_have_no_direction_partner() -> None:
    assert direction_partner(scene(("spins",), ("stays still",))) is None


def test_a_change_of_colour_cannot_be_played_backwards() -> None:
    assert direction_partner(scene(("moves up",), ("changes colour to green",))) is None


def test_what_changes_its_order_too_is_no_direction_partner() -> None:
    assert direction_partner(scene(("moves up", "spins"))) is None


def test_there_and_back_swaps_its_halves() -> None:
    partner = order_partner(scene(("moves left", "moves right"), ("blinks", None)))
    assert programs(partner) == [("moves right", "moves left"), ("blinks", None)]
    assert partner is not None and partner.playback == "halves swapped"


def test_undirected_phases_change_places_by_playing_backwards() -> None:
    partner = order_partner(scene(("spins", "blinks"), ("stays still", "spins")))
    assert programs(partner) == [("blinks", "spins"), ("spins", "stays still")]
    assert partner is not None and partner.playback == "reversed"


@pytest.mark.parametrize(
    "program", [("moves left", "moves up"), ("spins", "moves left"), ("grows", None)]
)
def test_no_order_partner_where_frames_would_differ(program: tuple[str | None, ...]) -> None:
    assert order_partner(scene(program)) is None


def test_compositions_count_later_colours_and_both_directions() -> None:
    meaning = scene(("moves left", "changes colour to green")).meaning
    assert compositions(meaning) == {
        ("red", "circle"),
        ("green", "circle"),
        ("circle", "moves left / moves right"),
        ("circle", "changes colour"),
    }


@pytest.mark.parametrize("config", [small_corpus(), full_corpus()], ids=["small", "full"])
def test_drawn_meanings_make_sense(config) -> None:  # type: ignore[no-untyped-def]
    generator = random.Random(0)
    for _ in range(2000):
        meaning = draw_meaning(generator, config=config)
        assert len({thing.shape for thing in meaning.objects}) == len(meaning.objects)
        assert len({thing.colour for thing in meaning.objects}) == len(meaning.objects)
        for phase in range(meaning.phases):
            assert any(thing.program[phase] for thing in meaning.objects)
        for thing in meaning.objects:
            check_program(thing)


def check_program(thing: ObjectMeaning) -> None:
    """Nothing acts while absent, repeats itself, or turns to the colour it has."""
    present, colour, last = thing.program[0] not in (None, APPEARS), thing.colour, None
    for action in thing.program:
        if action is None:
            continue
        assert action != last
        assert present != (action == APPEARS)
        present, last = action != DISAPPEARS, action
        assert changed_colour(action) != colour
        colour = changed_colour(action) or colour
    assert any(thing.program)
