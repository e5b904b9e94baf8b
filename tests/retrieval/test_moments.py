from pathlib import Path

import numpy as np
import pytest

from reelscan.retrieval.moments import (
    Place,
    SearchHit,
    by_video,
    fold_duplicates,
    join_neighbours,
)


def hit(video, start, end, score):
    return SearchHit(
        video=video,
        start_seconds=start,
        end_seconds=end,
        score=score,
        path=Path(video),
        segment_ids=(round(100 * start),),
    )


def told(hits):
    return [(one.video, one.start_seconds, one.end_seconds, one.score) for one in hits]


def test_neighbours_that_both_answer_are_one_moment():
    hits = [hit("a", 4, 6, 0.9), hit("a", 2, 4, 0.89), hit("a", 6, 8, 0.5), hit("b", 2, 4, 0.4)]
    joined = join_neighbours(hits, usual=0.1)
    assert told(joined) == [("a", 2, 6, 0.9), ("a", 6, 8, 0.5), ("b", 2, 4, 0.4)]
    assert joined[0].segment_ids == (400, 200)


def test_what_lies_between_two_moments_joins_them():
    hits = [hit("a", 0, 2, 0.9), hit("a", 4, 6, 0.89), hit("a", 2, 4, 0.88)]
    assert told(join_neighbours(hits, usual=0.1)) == [("a", 0, 6, 0.9)]


def test_edges_of_a_moment_are_left_out_and_other_moments_are_not():
    hits = [hit("a", 4, 8, 0.9), hit("a", 5, 9, 0.6), hit("a", 7, 11, 0.5), hit("a", 20, 24, 0.4)]
    assert told(join_neighbours(hits, usual=0.1)) == [
        ("a", 4, 8, 0.9), ("a", 7, 11, 0.5), ("a", 20, 24, 0.4)
    ]  # fmt: skip


def test_what_does_not_stand_out_is_not_joined():
    hits = [hit("a", 0, 2, 0.30), hit("a", 2, 4, 0.299)]
    assert len(join_neighbours(hits, usual=0.31)) == 2
    assert len(join_neighbours(hits, usual=0.1)) == 1
    assert len(join_neighbours(hits, usual=0.29)) == 2


def test_what_looks_the_same_is_told_once():
    vectors = np.array([[3, 0], [0, 1], [1, 0.01], [0.02, 2], [1, 1]], np.float32)
    hits = [hit(name, 0, 2, 1.0 - place / 10) for place, name in enumerate("abcde")]
    folded = fold_duplicates(hits, vectors)
    assert [one.video for one in folded] == ["a", "b", "e"]
    assert folded[0].duplicates == (Place(video="c", start_seconds=0, end_seconds=2),)
    assert folded[1].duplicates == (Place(video="d", start_seconds=0, end_seconds=2),)
    assert folded[2].duplicates == ()


@pytest.mark.parametrize("limit", [None, 1])
def test_videos_come_in_the_order_of_their_best_moments(limit):
    hits = [hit("b", 0, 1, 0.9), hit("a", 0, 1, 0.8), hit("b", 4, 5, 0.7)]
    videos = by_video(hits, moments_per_video=limit)
    assert [(one.video, one.score) for one in videos] == [("b", 0.9), ("a", 0.8)]
    assert [len(one.moments) for one in videos] == ([2, 1] if limit is None else [1, 1])
