import json

import numpy as np
import pytest
from colour_encoder import ColourEncoder, ColourMatcher, write_colours

from reelscan.retrieval.evaluate import evaluate
from reelscan.retrieval.evaluation_report import BrokenVideosError
from reelscan.retrieval.order_pairs import VideoPair, order_accuracy

CAPTIONS = {
    "red-blue.mp4": ["red blue", "first red then blue"],
    "blue-red.mp4": ["blue red"],
    "green.mp4": "green",
    "sub/white.mp4": "all white",
}


@pytest.fixture
def root(tmp_path):
    for video, caption in CAPTIONS.items():
        text = caption if isinstance(caption, str) else caption[0]
        write_colours(tmp_path / video, text.removeprefix("all "))
    annotations = [{"video": video, "caption": caption} for video, caption in CAPTIONS.items()]
    (tmp_path / "test.json").write_text(json.dumps(annotations))
    return tmp_path


def run(root, encoder=None, **settings):
    encoder = encoder or ColourMatcher()
    return evaluate(encoder, root / "test.json", video_root=root, **settings)


def test_embeddings_find_the_colours_but_not_their_order(root):
    report = run(root)
    assert report.reranked is None
    assert report.left_out == ()
    metrics = report.embedding.text_to_video
    assert (metrics.queries, metrics.candidates) == (5, 4)
    assert metrics.recall_at_1 == 40.0
    assert metrics.recall_at_5 == 100.0
    assert metrics.mean_rank == pytest.approx((2 + 2 + 2 + 1 + 1) / 5)
    assert (report.embedding.video_to_text.queries, report.embedding.video_to_text.candidates) == (
        4,
        5,
    )


def test_the_matching_head_finds_the_order(root):
    report = run(root, rerank_top=3)
    assert report.reranked.text_to_video.recall_at_1 == 100.0
    assert report.reranked.video_to_text.recall_at_1 == 100.0
    assert report.scores.reranked.text_to_video.min() == -100.0


@pytest.mark.parametrize("settings", [{"batch_size": 1, "workers": 3}, {"batch_size": 3}])
def test_batches_and_threads_do_not_change_the_scores(root, settings):
    expected, found = run(root, rerank_top=3).scores, run(root, rerank_top=3, **settings).scores
    assert found.videos == expected.videos
    np.testing.assert_array_equal(found.similarity, expected.similarity)
    np.testing.assert_array_equal(found.reranked.text_to_video, expected.reranked.text_to_video)


def test_scores_serve_the_order_pairs(root):
    scores = run(root, rerank_top=128).scores
    pairs = [VideoPair(kind="sequence", videos=("red-blue.mp4", "blue-red.mp4"))]
    for matrix, percent in ((scores.similarity, 0.0), (scores.reranked.text_to_video, 100.0)):
        report = order_accuracy(
            pairs, matrix, videos=scores.videos, caption_video=scores.text_video
        )
        assert report.overall.percent == percent


def test_chance_stands_beside_the_result(root):
    chance = run(root).chance
    assert chance.text_to_video.recall_at_1 == 25.0
    assert chance.video_to_text.recall_at_1 == pytest.approx((40 + 3 * 20) / 4)


def test_captions_can_be_joined(root):
    report = run(root, join_captions=True)
    assert report.scores.texts[0] == "red blue first red then blue"
    assert report.embedding.text_to_video.queries == 4


def test_only_the_beginning_can_be_looked_at(root):
    scores = run(root, max_seconds=1.0).scores
    red = scores.texts.index("red blue")
    np.testing.assert_allclose(scores.similarity[red], [2**-0.5, 2**-0.5, 0, 0], atol=1e-5)
    longer = run(root, max_seconds=60.0).scores
    np.testing.assert_array_equal(longer.similarity, run(root).scores.similarity)


def test_missing_and_broken_videos_are_listed_before_anything_is_embedded(root):
    (root / "green.mp4").unlink()
    (root / "sub" / "white.mp4").write_bytes(b"no video")
    encoder = ColourEncoder()
    with pytest.raises(BrokenVideosError) as caught:
        run(root, encoder)
    assert [one.video for one in caught.value.broken] == ["green.mp4", "sub/white.mp4"]
    assert "2 of 4 videos" in str(caught.value)
    assert "green.mp4: there is no such file" in str(caught.value)
    assert "leave_out_broken" in str(caught.value)
    assert encoder.clips_seen == 0


def test_broken_videos_can_be_left_out_with_their_captions(root):
    (root / "red-blue.mp4").unlink()
    report = run(root, leave_out_broken=True, rerank_top=5)
    assert [one.video for one in report.left_out] == ["red-blue.mp4"]
    assert report.scores.texts == ("blue red", "green", "all white")
    assert report.scores.text_video == (0, 1, 2)
    assert report.reranked.text_to_video.recall_at_1 == 100.0


def test_videos_that_open_but_do_not_decode_are_found_too(root, monkeypatch):
    import reelscan.retrieval.embed_set as module
    from reelscan.video.errors import VideoError

    whole = module.read_whole

    def breaking(source, **settings):
        if source.name in ("red-blue.mp4", "green.mp4"):
            raise VideoError(settings["name"], "no frame can be decoded")
        return whole(source, **settings)

    monkeypatch.setattr(module, "read_whole", breaking)
    with pytest.raises(BrokenVideosError) as caught:
        run(root)
    assert {one.video for one in caught.value.broken} == {"red-blue.mp4", "green.mp4"}
    report = run(root, leave_out_broken=True, rerank_top=5)
    assert {one.video for one in report.left_out} == {"red-blue.mp4", "green.mp4"}
    assert report.scores.videos == ("blue-red.mp4", "sub/white.mp4")
    assert report.reranked.text_to_video.recall_at_1 == 100.0


def test_leaving_everything_out_is_no_evaluation(root):
    for video in CAPTIONS:
        (root / video).unlink()
    with pytest.raises(BrokenVideosError, match="4 of 4"):
        run(root, leave_out_broken=True)


def test_an_encoder_without_matching_head_cannot_rerank(root):
    with pytest.raises(ValueError, match=r"ColourEncoder has no matching head"):
        run(root, ColourEncoder(), rerank_top=128)


class BrokenEncoder(ColourEncoder):
    def encode_video(self, frames_uint8):
        return super().encode_video(frames_uint8) * float("nan")


def test_nan_is_an_error(root):
    with pytest.raises(ValueError, match="NaN"):
        run(root, BrokenEncoder())


def test_progress_reaches_the_total_in_each_stage(root):
    seen = []
    run(root, rerank_top=2, on_progress=seen.append)
    last = {one.stage: (one.done, one.total) for one in seen}
    assert list(last) == [
        *("checking videos", "embedding videos", "embedding texts", "matching pairs"),
    ]
    assert all(done == total > 0 for done, total in last.values())


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 0},
        {"workers": 0},
        {"rerank_top": 0},
        {"max_seconds": 0.0},
        {"score_rule": "best"},
    ],
)
def test_bad_settings_are_refused_before_any_work(root, bad):
    encoder = ColourMatcher()
    with pytest.raises(ValueError, match=next(iter(bad))):
        run(root, encoder, **bad)
    assert encoder.clips_seen == 0


def test_the_space_for_features_is_checked(root, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(ValueError, match="--cache"):
        run(root, cache_folder=tmp_path / "features")
