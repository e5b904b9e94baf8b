import numpy as np
import pytest

from reelscan.retrieval.dual_softmax import dual_softmax


def test_it_ranks_as_the_product_of_both_softmaxes():
    similarity = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32) / 5
    exponents = np.exp(similarity.astype(np.float64) / 0.1)
    product = exponents / exponents.sum(1, keepdims=True) * exponents / exponents.sum(0)
    found = dual_softmax(similarity, temperature=0.1)
    assert (found.argsort(axis=1) == product.argsort(axis=1)).all()
    # The logarithm, but for one constant a query.
    differences = found - np.log(product)
    np.testing.assert_allclose(differences - differences[:, :1], 0, atol=1e-4)


def test_a_video_that_all_texts_like_counts_for_less():
    similarity = np.array([[0.5, 0.49], [0.5, 0.1], [0.5, 0.1]], np.float32)
    assert similarity[0].argmax() == 0
    assert dual_softmax(similarity)[0].argmax() == 1


def test_large_scores_do_not_overflow():
    found = dual_softmax(np.array([[30.0, -30.0], [1.0, 2.0]], np.float32))
    assert np.isfinite(found).all()


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature is 0"):
        dual_softmax(np.zeros((1, 1), np.float32), temperature=0)
