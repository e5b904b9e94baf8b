import json

import numpy as np
import pytest

from reelscan.retrieval.order_pairs import VideoPair, order_accuracy, read_pairs

VIDEOS = ["a", "b", "c", "d"]
PAIRS = [
    VideoPair(kind="direction", videos=("a", "b")),
    VideoPair(kind="sequence", videos=("c", "d")),
]


def test_each_caption_is_compared_with_the_twin_only():
    similarity = np.array(
        [
            [0.5, 0.4, 9.0, 9.0],  # caption of a: right, though c and d score more
            [0.3, 0.4, 0.0, 0.0],  # another caption of a: wrong
            [0.3, 0.4, 0.0, 0.0],  # caption of b: right
            [0.0, 0.0, 0.7, 0.7],  # caption of c: a tie is no preference
            [0.0, 0.0, 0.1, 0.2],  # caption of d: right
        ]
    )
    report = order_accuracy(PAIRS, similarity, videos=VIDEOS, caption_video=[0, 0, 1, 2, 3])
    assert report.by_kind["direction"].percent == pytest.approx(200 / 3)
    assert report.by_kind["sequence"].percent == 50.0
    assert (report.overall.captions, report.overall.correct) == (5, 3)
    assert report.skipped_pairs == 0


def test_pairs_with_an_unscored_video_are_counted_out():
    report = order_accuracy(
        PAIRS, np.array([[1.0, 0.0], [0.0, 1.0]]), videos=["a", "b"], caption_video=[0, 1]
    )
    assert (report.overall.percent, report.skipped_pairs) == (100.0, 1)
    with pytest.raises(ValueError, match="none of the 1 pairs"):
        order_accuracy(PAIRS[1:], np.eye(2), videos=["a", "b"], caption_video=[0, 1])


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="shape"):
        order_accuracy(PAIRS, np.eye(3), videos=VIDEOS, caption_video=[0, 1, 2])
    with pytest.raises(ValueError, match="NaN"):
        order_accuracy(PAIRS, np.full((1, 4), np.nan), videos=VIDEOS, caption_video=[0])


def test_pairs_are_read(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"kind": "direction", "videos": ["a", "b"]}]))
    assert read_pairs(path) == PAIRS[:1]


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "x"},
        [{"kind": "x", "videos": ["a"]}],
        [{"kind": "x", "videos": ["a", "a"]}],
        [{"videos": ["a", "b"]}],
        [["a", "b"]],
    ],
)
def test_another_form_of_pairs_is_refused_showing_the_right_one(tmp_path, content):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r'"videos": \["a\.mp4", "b\.mp4"\]'):
        read_pairs(path)
