from dataclasses import replace

import pytest

from reelscan.pretrain.demo_corpus.config import full_corpus, small_corpus


@pytest.mark.parametrize(
    "change",
    [
        {"width": 65},
        {"seconds": 2.1},
        {"seconds": 0.5},
        {"colours": 9},
        {"objects": 0},
        {"background_strength": 1.5},
        {"captions_per_video": 0},
    ],
)
def test_impossible_knobs_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="choose"):
        replace(small_corpus(), **change)  # type: ignore[arg-type]


def test_the_fingerprint_tells_configurations_apart() -> None:
    assert small_corpus().fingerprint == small_corpus().fingerprint
    different = {small_corpus(), small_corpus(seed=1), full_corpus()}
    assert len({config.fingerprint for config in different}) == 3


def test_small_clips_have_sixteen_frames() -> None:
    assert small_corpus().frames == 16
