import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reelscan.models.losses import draw_masking, mask_tokens, masked_language_loss

PAD, CLS, SEP, MASK, VOCAB = 0, 2, 3, 4, 1000


def texts(rows=200, words=20):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCAB, (rows, words), generator=generator)
    ends = (torch.full((rows, 1), CLS), torch.full((rows, 1), SEP), torch.full((rows, 3), PAD))
    return torch.cat([ends[0], ids, *ends[1:]], 1)


def mask(input_ids, *, probability=0.5, seed=1):
    return mask_tokens(
        input_ids,
        pad_id=PAD,
        cls_id=CLS,
        mask_id=MASK,
        vocab_size=VOCAB,
        probability=probability,
        generator=torch.Generator().manual_seed(seed),
    )


def test_padding_and_start_are_never_asked_the_end_may_be():
    input_ids = texts()
    masked = mask(input_ids, probability=1.0)
    asked = masked.labels != -100
    assert asked.equal((input_ids != PAD) & (input_ids != CLS))
    assert masked.labels[asked].equal(input_ids[asked])
    assert masked.input_ids[~asked].equal(input_ids[~asked])


def test_half_is_asked_of_which_80_10_10():
    input_ids = texts()
    masked = mask(input_ids)
    eligible = (input_ids != PAD) & (input_ids != CLS)
    asked = masked.labels != -100
    assert asked.sum() / eligible.sum() == pytest.approx(0.5, abs=0.03)
    shown, truth = masked.input_ids[asked], input_ids[asked]
    assert (shown == MASK).float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (shown == truth).float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_masking_repeats_with_the_generator():
    input_ids = texts()
    assert mask(input_ids).input_ids.equal(mask(input_ids).input_ids)
    assert not mask(input_ids).input_ids.equal(mask(input_ids, seed=2).input_ids)


def test_probability_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"1\.5.*0 to 1"):
        draw_masking(torch.Size([2, 3]), vocab_size=VOCAB, probability=1.5)


def test_loss_and_gradients_are_those_of_all_logits_but_only_asked_ones_exist():
    head = nn.Linear(8, 50)
    hidden = torch.randn(2, 6, 8, requires_grad=True)
    labels = torch.full((2, 6), -100)
    labels[0, 2], labels[1, 4], labels[1, 5] = 7, 49, 0
    seen = []

    def watched(states):
        seen.append(tuple(states.shape))
        return head(states)

    loss = masked_language_loss(hidden, labels, head=watched)
    full = F.cross_entropy(head(hidden).flatten(0, 1), labels.flatten())
    assert seen == [(3, 8)]
    torch.testing.assert_close(loss, full)
    torch.testing.assert_close(
        torch.autograd.grad(loss, [hidden, head.weight]),
        torch.autograd.grad(full, [hidden, head.weight]),
    )


def test_nothing_asked_is_no_loss_and_no_gradient():
    head = nn.Linear(8, 50)
    hidden = torch.randn(2, 6, 8, requires_grad=True)
    loss = masked_language_loss(hidden, torch.full((2, 6), -100), head=head)
    loss.backward()
    assert loss.item() == 0
    assert (hidden.grad == 0).all()
    assert (head.weight.grad == 0).all()


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 6, 8\).*\(2, 5\)"):
        masked_language_loss(
            torch.zeros(2, 6, 8), torch.zeros(2, 5, dtype=torch.int64), head=nn.Linear(8, 4)
        )
