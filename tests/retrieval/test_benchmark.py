import dataclasses

import pytest

from reelscan.retrieval.benchmark import BENCHMARKS, Benchmark, find_benchmark, how_to_get

PROTOCOL = {
    "msrvtt": (1000, 1000, False, None, 32),
    "didemo": (1003, 1003, True, 30.0, 64),
    "activitynet": (4917, 4917, True, None, 150),
    "lsmdc": (1000, 1000, False, None, 96),
    "msvd": (670, 27763, False, None, 64),
    "vatex": (1500, 15000, False, None, 64),
}


@pytest.mark.parametrize("name", PROTOCOL)
def test_each_benchmark_has_its_protocol(name):
    one = find_benchmark(name)
    videos, texts, joined, seconds, tokens = PROTOCOL[name]
    assert videos in one.video_counts and texts in one.text_counts
    assert (one.join_captions, one.max_seconds, one.max_text_tokens) == (joined, seconds, tokens)
    assert one.frames == 8
    assert one.name == name and one.licence and one.videos_from and one.annotation_names


def test_every_benchmark_is_tested_here():
    assert list(BENCHMARKS) == list(PROTOCOL)


def test_published_results_are_those_of_the_paper():
    best = find_benchmark("msvd").published[-1]
    assert best.model == "VideoMamba-M 25M"
    assert best.text_to_video == (42.0, 71.6, 81.2)
    assert best.video_to_text == (62.7, 82.8, 87.6)
    assert find_benchmark("vatex").published == ()


@pytest.mark.parametrize(
    ("typed", "meant"), [("ANET", "activitynet"), ("msrvtt_1ka", "msrvtt"), ("DiDeMo", "didemo")]
)
def test_other_spellings_are_understood(typed, meant):
    assert find_benchmark(typed).name == meant


@pytest.mark.parametrize(
    ("typed", "meant"), [("msrvt", "msrvtt"), ("lsdmc", "lsmdc"), ("activity", "activitynet")]
)
def test_a_mistyped_name_is_corrected(typed, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        find_benchmark(typed)


def test_how_to_get_tells_files_sources_and_places():
    told = how_to_get(find_benchmark("didemo"))
    for part in ("1,003 or 1,004", "LocalizingMoments", "DIR/didemo_ret_test.json", '["...", '):
        assert part in told


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="max_seconds is 0"):
        Benchmark(name="x", title="x", split="x", max_seconds=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        find_benchmark("msvd").name = "other"
