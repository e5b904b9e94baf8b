import pytest
import torch
from torch.nn import functional as F

from reelscan.models.losses import (
    Negatives,
    draw_negatives,
    hard_negative_weights,
    matching_loss,
    matching_pairs,
    uniform_negative_weights,
)

IDS = torch.tensor([3, 7, 3, 1])


def test_weights_are_the_softmax_over_other_ids():
    similarity = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    weights = hard_negative_weights(similarity, IDS)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert (weights[IDS[:, None] == IDS[None, :]] == 0).all()
    torch.testing.assert_close(weights[0, [1, 3]], similarity[0, [1, 3]].softmax(0))


def test_without_ids_only_the_sample_itself_is_excluded():
    weights = hard_negative_weights(torch.zeros(3, 3))
    torch.testing.assert_close(weights, (1 - torch.eye(3)) / 2)


def test_positives_that_take_all_of_the_softmax_leave_negatives_to_draw():
    similarity = 1000 * torch.eye(3) + torch.tensor([0.0, 1.0, 3.0])
    published = hard_negative_weights(similarity, exclude="after_softmax")
    assert published.sum() == 0
    ours = hard_negative_weights(similarity)
    torch.testing.assert_close(ours[0, 1:], torch.tensor([1.0, 3.0]).softmax(0))
    assert draw_negatives(ours).exists.all()


@pytest.mark.parametrize("exclude", ["before_softmax", "after_softmax"])
@pytest.mark.parametrize("size", [1, 3])
def test_without_any_other_id_only_the_positives_count(exclude, size):
    ids = torch.full((size,), 5)
    weights = hard_negative_weights(torch.randn(size, size), ids, exclude=exclude)
    drawn = draw_negatives(weights)
    assert drawn.rows.tolist() == list(range(size))
    assert not drawn.exists.any()

    logits = torch.randn(3 * size, 2, requires_grad=True)
    loss = matching_loss(logits, matching_pairs(drawn, drawn))
    expected = F.cross_entropy(logits[:size], torch.ones(size, dtype=torch.int64))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[size:] == 0).all()


def test_one_sample_without_negatives_does_not_silence_the_others():
    drawn = Negatives(torch.tensor([1, 1]), torch.tensor([True, False]))
    pairs = matching_pairs(drawn, drawn)
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    losses = F.cross_entropy(logits, pairs.labels, reduction="none")
    torch.testing.assert_close(matching_loss(logits, pairs), losses[[0, 1, 2, 4]].mean())


def test_draws_follow_the_weights():
    weights = torch.tensor([0.0, 0.1, 0.3, 0.6]).expand(20_000, 4)
    drawn = draw_negatives(weights, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn.rows, minlength=4) / 20_000
    torch.testing.assert_close(shares, weights[0], atol=0.015, rtol=0)
    assert shares[0] == 0


def test_draws_repeat_with_the_generator():
    weights = uniform_negative_weights(torch.arange(50))
    first, again = (
        draw_negatives(weights, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert first.rows.equal(again.rows)
    other = draw_negatives(weights, generator=torch.Generator().manual_seed(4))
    assert not first.rows.equal(other.rows)


def test_uniform_weights_exclude_equal_ids():
    weights = uniform_negative_weights(IDS)
    assert weights.tolist() == [[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]]


def test_pairs_are_positive_then_negative_video_then_negative_text():
    every = torch.tensor([True, True])
    pairs = matching_pairs(
        Negatives(torch.tensor([1, 0]), every), Negatives(torch.tensor([0, 1]), every)
    )
    assert pairs.video_rows.tolist() == [0, 1, 1, 0, 0, 1]
    assert pairs.text_rows.tolist() == [0, 1, 0, 1, 0, 1]
    assert pairs.labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert pairs.counts.tolist() == [1] * 6


def test_no_gradient_reaches_the_similarity():
    similarity = torch.randn(3, 3, requires_grad=True)
    assert not hard_negative_weights(similarity).requires_grad


def test_shapes_and_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\).*square"):
        hard_negative_weights(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="each of 3 samples"):
        hard_negative_weights(torch.zeros(3, 3), torch.arange(4))
    with pytest.raises(ValueError, match="'never'"):
        hard_negative_weights(torch.zeros(3, 3), exclude="never")
    drawn = draw_negatives(uniform_negative_weights(torch.arange(2)))
    with pytest.raises(ValueError, match=r"\(4, 2\).*\[6, 2\]"):
        matching_loss(torch.zeros(4, 2), matching_pairs(drawn, drawn))
