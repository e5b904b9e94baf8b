import pytest
import torch

from reelscan.models.losses import alignment_loss


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 5, 8, generator=generator)


@pytest.mark.parametrize("kind", ["l2", "mse", "smooth_l1"])
def test_length_of_the_features_does_not_count(features, kind):
    loss = alignment_loss(features, 3 * features, kind=kind)
    assert loss == pytest.approx(0, abs=1e-5)
    assert alignment_loss(features, -features, kind=kind) > 0.05


def test_opposite_features_are_at_distance_four(features):
    assert alignment_loss(features, -features).item() == pytest.approx(4, abs=1e-5)


def test_teacher_gets_no_gradient(features):
    student = torch.ones_like(features, requires_grad=True)
    teacher = features.clone().requires_grad_()
    alignment_loss(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_half_precision_features_give_a_float32_loss(features):
    loss = alignment_loss(features.bfloat16(), -features.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(4, abs=1e-5)


def test_features_of_other_tokens_are_refused(features):
    with pytest.raises(ValueError, match=r"\(2, 3, 5, 8\).*\(2, 3, 4, 8\)"):
        alignment_loss(features, features[:, :, :4])


def test_unknown_kind_is_refused(features):
    with pytest.raises(ValueError, match=r"'cosine'.*'smooth_l1'"):
        alignment_loss(features, features, kind="cosine")
