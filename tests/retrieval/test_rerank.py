import numpy as np
import pytest
import torch

from reelscan.models.encoder import TextTokens
from reelscan.models.preprocessing import Preprocessing
from reelscan.retrieval.rerank import rerank


class TableMatcher:
    """Looks the logits [Q, V] up: a clip's pixels name its video, a text is its number."""

    fingerprint = "table"
    preprocessing = Preprocessing(frames=1, size=2)
    embed_dim = 1

    can_match = True

    def __init__(self, logits):
        self.logits = torch.as_tensor(logits)
        self.matched = []

    def encode_video(self, frames_uint8):
        raise NotImplementedError

    def encode_text(self, texts):
        raise NotImplementedError

    def video_tokens(self, frames_uint8):
        return frames_uint8[:, 0, 0, 0, 0].float().view(-1, 1, 1)

    def text_tokens(self, texts):
        numbers = torch.tensor([float(text) for text in texts]).view(-1, 1, 1)
        padded = torch.cat([numbers, torch.full_like(numbers, -1.0)], dim=1)
        return TextTokens(hidden=padded, attention_mask=torch.tensor([[1, 0]] * len(texts)))

    def match(self, text_tokens, video_tokens):
        assert text_tokens.attention_mask.all(), "padding was kept"
        texts = text_tokens.hidden[:, 0, 0].long()
        videos = video_tokens[:, 0, 0].long()
        self.matched += list(zip(texts.tolist(), videos.tolist(), strict=True))
        return self.logits[texts, videos]


def run(logits, similarity, **settings):
    queries, videos = similarity.shape
    clips = torch.arange(videos, dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 1, 3, 2, 2)
    matcher = TableMatcher(logits)
    scores = rerank(
        matcher,
        similarity,
        texts=[str(number) for number in range(queries)],
        video_batches=torch.split(clips, 4),
        **settings,
    )
    return scores, matcher


SIMILARITY = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.1]], np.float32)
LOGITS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)


def test_only_candidates_of_either_direction_are_matched_and_each_once():
    scores, matcher = run(LOGITS, SIMILARITY, top=1)
    assert scores.text_to_video.tolist() == [[1, -100, -100], [4, -100, -100]]
    assert scores.video_to_text.tolist() == [[1, -100], [-100, 5], [3, -100]]
    assert sorted(matcher.matched) == [(0, 0), (0, 2), (1, 0), (1, 1)]


def test_adding_the_similarity_keeps_the_embedding_order_behind_the_candidates():
    scores, _ = run(LOGITS, SIMILARITY, top=1, score_rule="matching+similarity")
    np.testing.assert_allclose(
        scores.text_to_video, [[1.9, -99.9, -99.5], [4.8, -99.8, -99.9]], rtol=1e-6
    )
    np.testing.assert_allclose(
        scores.video_to_text, [[1.9, -99.2], [-99.9, 5.2], [3.5, -99.9]], rtol=1e-6
    )


def test_equal_similarities_choose_the_first():
    scores, _ = run(LOGITS, np.zeros((2, 3), np.float32), top=1)
    assert scores.text_to_video.tolist() == [[1, -100, -100], [4, -100, -100]]


def test_progress_counts_pairs():
    seen = []
    run(LOGITS, SIMILARITY, pairs_at_once=1, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(number, 6) for number in range(1, 7)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"top": 0}, "top"), ({"pairs_at_once": 0}, "pairs"), ({"score_rule": "best"}, "matching")],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        run(LOGITS, SIMILARITY, **settings)


def test_logits_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="not finite"):
        run(LOGITS * np.nan, SIMILARITY)


@pytest.mark.parametrize("videos", [2, 4])
def test_videos_that_do_not_fit_the_similarity_are_refused(videos):
    clips = torch.zeros(videos, 1, 3, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="video_batches hold"):
        rerank(TableMatcher(LOGITS), SIMILARITY, texts=["0", "1"], video_batches=[clips])
    with pytest.raises(ValueError, match="shape"):
        rerank(TableMatcher(LOGITS), SIMILARITY, texts=["0"], video_batches=[clips])
