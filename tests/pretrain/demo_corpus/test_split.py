from dataclasses import replace

import pytest

from reelscan.pretrain.demo_corpus.config import CorpusConfig, full_corpus, small_corpus
from reelscan.pretrain.demo_corpus.scene import INVERSE, behaviours, compositions
from reelscan.pretrain.demo_corpus.split import Split, split_scenes

CONFIGS = {
    "small": small_corpus(train_videos=800),
    "full": full_corpus(train_videos=3000, test_videos=400),
}


@pytest.fixture(scope="module", params=CONFIGS)
def split(request: pytest.FixtureRequest) -> Split:
    return split_scenes(CONFIGS[request.param])


def test_test_compositions_never_occur_in_training(split: Split) -> None:
    for scene in split.train:
        assert not compositions(scene.meaning) & split.held_out
    for scene in split.test:
        assert compositions(scene.meaning) & split.held_out


def test_every_held_out_composition_is_tested(split: Split) -> None:
    tested = frozenset().union(*(compositions(scene.meaning) for scene in split.test))
    assert split.held_out <= tested


def test_every_attribute_of_the_test_occurs_in_training(split: Split) -> None:
    def attributes(scenes: tuple) -> set[str]:  # type: ignore[type-arg]
        things = [thing for scene in scenes for thing in scene.meaning.objects]
        looks = {word for thing in things for word in (thing.shape, thing.colour, thing.texture)}
        return looks | {action for thing in things for action in thing.program if action}

    assert attributes(split.test) <= attributes(split.train)


def test_no_two_test_clips_mean_the_same(split: Split) -> None:
    assert len({scene.meaning for scene in split.test}) == len(split.test)


def test_training_pairs_lie_side_by_side(split: Split) -> None:
    assert 0.5 * len(split.train) < 2 * split.train_pairs < 0.7 * len(split.train)
    for number in range(split.train_pairs):
        first, second = split.train[2 * number : 2 * number + 2]
        assert (first.base, first.seed) == (second.base, second.seed)
        assert first.meaning != second.meaning


def test_pairs_hold_the_same_frames_in_another_order(split: Split) -> None:
    paired = [number for pair in split.pairs for number in (pair.first, pair.second)]
    assert len(set(paired)) == len(paired) >= 0.3 * len(split.test)
    for pair in split.pairs:
        first, second = split.test[pair.first], split.test[pair.second]
        assert (first.base, first.seed) == (second.base, second.seed)
        assert first.playback != second.playback
        assert first.meaning != second.meaning
        for one, other in zip(first.meaning.objects, second.meaning.objects, strict=True):
            assert (one.colour, one.texture, one.shape) == (
                other.colour,
                other.texture,
                other.shape,
            )
            before, after = behaviours(one.program), behaviours(other.program)
            if pair.kind == "order":
                assert before == after[::-1]
            else:
                assert all(b in (a, INVERSE[a]) for a, b in zip(before, after, strict=True))


def test_both_kinds_of_pairs_are_there(split: Split) -> None:
    kinds = [pair.kind for pair in split.pairs]
    assert abs(kinds.count("order") - kinds.count("direction")) <= 1


def test_the_split_follows_the_seed() -> None:
    config = small_corpus(train_videos=20, test_videos=20)
    assert split_scenes(config) == split_scenes(config)
    assert split_scenes(config).test != split_scenes(replace(config, seed=1)).test


def test_knobs_with_too_few_different_scenes_are_refused() -> None:
    tight = CorpusConfig(
        train_videos=1,
        test_videos=500,
        textures=1,
        colours=3,
        shapes=3,
        actions=4,
        objects=1,
        phases=1,
    )
    with pytest.raises(ValueError, match="fewer test_videos"):
        split_scenes(tight)
