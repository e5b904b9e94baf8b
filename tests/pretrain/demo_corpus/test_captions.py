"""Reads captions back with a parser of its own: every sentence must give exactly its meaning."""

import random
import re
from dataclasses import dataclass, field

import pytest

from reelscan.pretrain.demo_corpus import captions as told
from reelscan.pretrain.demo_corpus.config import (
    COLOURS,
    SHAPES,
    CorpusConfig,
    full_corpus,
    small_corpus,
)
from reelscan.pretrain.demo_corpus.scene import (
    STILL,
    Meaning,
    ObjectMeaning,
    Scene,
    colour_change,
    direction_partner,
    draw_meaning,
    order_partner,
)

TEXTURE_OF = {
    word.split()[-1]: texture for texture, words in told.TEXTURE_WORDS.items() for word in words
}
PHRASES = (
    [(action, verb) for action, verbs in told.VERBS.items() for verb in verbs]
    + [(STILL, verb) for verb in (*told.STILL_VERBS, *told.STOP_VERBS)]
    + [
        (colour_change(colour), (f"{now} {colour}", f"{being} {colour}"))
        for now, being in told.COLOUR_VERBS
        for colour in COLOURS
    ]
)
FINITE = {verb[0]: action for action, verb in PHRASES}
GERUND = {verb[1]: action for action, verb in PHRASES}


def test_no_phrase_stands_for_two_actions() -> None:
    assert len(FINITE) == len(GERUND) == len(PHRASES)


@dataclass
class Reader:
    """Words without punctuation, as a tokenizer leaves them."""

    words: list[str]
    at: int = 0
    looks: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Shape to (colour, texture)."""

    def sees(self, text: str) -> bool:
        wanted = text.split()
        return self.words[self.at : self.at + len(wanted)] == wanted

    def takes(self, text: str) -> bool:
        found = self.sees(text)
        self.at += len(text.split()) if found else 0
        return found

    def takes_any(self, phrases: dict[str, str]) -> str | None:
        """The meaning of the longest phrase that comes next."""
        for phrase in sorted(phrases, key=len, reverse=True):
            if self.takes(phrase):
                return phrases[phrase]
        return None

    def subject(self) -> str:
        if self.takes("it"):
            (only,) = self.looks
            return only
        known = self.takes("the")
        assert known or self.takes("a") or self.takes("an"), self.rest()
        texture, colour, shape = "plain", None, None
        while shape is None:
            word = self.words[self.at]
            self.at += 1
            if word in SHAPES:
                shape = word
            elif word in COLOURS:
                colour = word
            else:
                texture = TEXTURE_OF.get(word, word)
        if self.takes("with"):
            texture = TEXTURE_OF[self.words[self.at]]
            self.at += 1
        if known:
            assert colour in (None, self.looks[shape][0])
        else:
            assert shape not in self.looks and colour is not None
            self.looks[shape] = (colour, texture)
        return shape

    def clause(self) -> dict[str, str]:
        shape = self.subject()
        action = self.takes_any(GERUND) if self.takes("is") else self.takes_any(FINITE)
        assert action is not None, self.rest()
        return {shape: action}

    def clauses(self) -> dict[str, str]:
        found = self.clause()
        while not (self.sees("and then") or self.sees("and afterwards")) and (
            self.takes("and") or self.takes("while") or self.takes("as")
        ):
            found |= self.clause()
        return found

    def rest(self) -> str:
        return " ".join(self.words[self.at :])

    def phases(self) -> list[dict[str, str]]:
        if self.takes("we see") or self.takes("there is"):
            return [self.shown()]
        if self.takes("while"):
            return [self.clause() | self.clause()]
        for word in ("before", "after"):
            if self.takes(word):
                action = self.takes_any(GERUND)
                if action is not None:
                    main = self.clause()
                    side = dict.fromkeys(main, action)
                else:
                    side = self.clauses()
                    main = self.clauses()
                return [main, side] if word == "before" else [side, main]
        self.takes("first")
        found = [self.clauses()]
        while self.at < len(self.words):
            found = self.continued(found)
        return found

    def shown(self) -> dict[str, str]:
        found: dict[str, str] = {}
        while True:
            shape = self.subject()
            action = self.takes_any(GERUND)
            assert action is not None
            found[shape] = action
            if not self.takes("and"):
                return found

    def continued(self, before: list[dict[str, str]]) -> list[dict[str, str]]:
        if self.takes("before"):
            return [*before, self.next_events(GERUND)]
        if self.takes("after that") or self.takes("then"):
            return [*before, self.next_events(FINITE)]
        if self.takes("and then") or self.takes("and afterwards"):
            return [*before, self.next_events(FINITE)]
        assert self.takes("after") and len(before) == 1, self.rest()
        return [self.next_events(GERUND), *before]

    def next_events(self, elided: dict[str, str]) -> dict[str, str]:
        """Clauses, or a verb alone whose subject is the only object."""
        action = self.takes_any(elided)
        return self.clauses() if action is None else dict.fromkeys(self.looks, action)


def read(caption: str) -> Meaning:
    reader = Reader(re.sub(r"[,.;:]", "", caption.lower()).split())
    phases = reader.phases()
    assert reader.at == len(reader.words), f"{caption!r} goes on with {reader.rest()!r}"
    objects = [
        ObjectMeaning(
            shape=shape,
            colour=colour,
            texture=texture,
            program=tuple(phase.get(shape) for phase in phases),
        )
        for shape, (colour, texture) in reader.looks.items()
    ]
    return Meaning(objects=tuple(sorted(objects, key=lambda thing: thing.shape)))


@pytest.mark.parametrize("config", [small_corpus(), full_corpus()], ids=["small", "full"])
def test_every_caption_determines_the_meaning(config: CorpusConfig) -> None:
    generator = random.Random(0)
    for _ in range(400):
        meaning = draw_meaning(generator, config=config)
        for caption in told.captions(meaning, 8, generator):
            assert read(caption) == meaning, caption


def test_captions_of_partners_differ() -> None:
    generator = random.Random(1)
    checked = 0
    for _ in range(2000):
        base = Scene(base=draw_meaning(generator, config=full_corpus()), seed=0)
        for partner in (direction_partner(base), order_partner(base)):
            if partner is not None:
                checked += 1
                assert read(told.caption(partner.meaning, generator)) == partner.meaning
                assert partner.meaning != base.meaning
    assert checked > 200


def test_paraphrases_differ_and_change_the_order_of_telling() -> None:
    star = ObjectMeaning(
        shape="star", colour="red", texture="plain", program=("moves up", "stays still")
    )
    found = told.captions(Meaning(objects=(star,)), 20, random.Random(0))
    assert len(set(found)) == 20
    starts = {caption.split()[0] for caption in found}
    assert {"a", "before", "after"} <= starts


def test_captions_follow_the_generator() -> None:
    meaning = draw_meaning(random.Random(3), config=full_corpus())
    assert told.captions(meaning, 5, random.Random(4)) == told.captions(
        meaning, 5, random.Random(4)
    )


def test_static_captions_name_every_object_and_no_motion() -> None:
    looks = [("striped", "blue", "circle"), ("plain", "orange", "star")]
    found = told.static_captions(looks, 10, random.Random(0))
    assert found[0] == "a striped blue circle and an orange star"
    assert len(set(found)) == 10
    verbs = {phrase.split()[0] for phrase in (*FINITE, *GERUND)}
    for caption in found:
        words = set(caption.split())
        assert {"blue", "circle", "orange", "star"} <= words
        assert not words & verbs


def test_an_empty_frame_has_no_static_caption() -> None:
    with pytest.raises(ValueError, match="another frame"):
        told.static_captions([], 1, random.Random(0))
