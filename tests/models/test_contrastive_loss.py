import pytest
import torch

from reelscan.models.losses import (
    clamp_temperature_,
    contrastive_loss,
    frame_similarity,
    sigmoid_loss,
)

BATCH, FRAMES, WIDTH = 8, 3, 6


@pytest.fixture
def leaves():
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(BATCH, FRAMES, WIDTH, generator=generator).requires_grad_(),
        torch.randn(BATCH, WIDTH, generator=generator).requires_grad_(),
        torch.tensor(0.2, requires_grad=True),
    )


@pytest.mark.parametrize("ids", [None, torch.tensor([4, 9, 4, 1, 9, 9, 0, 1])])
@pytest.mark.parametrize("processes", [2, 4])
def test_mean_over_processes_is_the_whole_batch(leaves, processes, ids):
    video, text, temperature = leaves
    whole = contrastive_loss(video, text, temperature=temperature, ids=ids)
    expected = torch.autograd.grad(whole, leaves)

    size = BATCH // processes
    losses = []
    for start in range(0, BATCH, size):
        local = slice(start, start + size)
        losses.append(
            contrastive_loss(
                video[local],
                text[local],
                temperature=temperature,
                ids=None if ids is None else ids[local],
                all_video=video,
                all_text=text,
                all_ids=ids,
                row_offset=start,
            )
        )
    split = torch.stack(losses).mean()
    torch.testing.assert_close(split, whole)
    torch.testing.assert_close(torch.autograd.grad(split, leaves), expected)


def test_published_gradients_are_weaker_for_encoders_than_for_the_temperature(leaves):
    video, text, temperature = leaves
    expected = torch.autograd.grad(contrastive_loss(video, text, temperature=temperature), leaves)
    losses = [
        contrastive_loss(
            video[local],
            text[local],
            temperature=temperature,
            all_video=video,
            all_text=text,
            row_offset=local.start,
            gathered_gradient="local_slice",
        )
        for local in (slice(0, 4), slice(4, 8))
    ]
    published = torch.autograd.grad(torch.stack(losses).mean(), leaves)
    torch.testing.assert_close(published[0], expected[0] / 2)
    torch.testing.assert_close(published[1], expected[1] / 2)
    torch.testing.assert_close(published[2], expected[2])


def test_aligned_pairs_lose_less_than_shuffled_ones():
    vectors = torch.eye(5)
    aligned = contrastive_loss(vectors, vectors, temperature=0.07)
    shuffled = contrastive_loss(vectors, vectors.roll(1, 0), temperature=0.07)
    assert aligned < 0.01 < 10 < shuffled


def test_samples_with_equal_ids_are_not_pushed_apart():
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = contrastive_loss(same, same, temperature=0.5, ids=torch.tensor([3, 3]))
    target_entropy = torch.tensor(2.0).log()
    torch.testing.assert_close(loss, target_entropy)


def test_frames_are_averaged_as_cosines():
    video = torch.tensor([[[100.0, 0.0], [0.0, 0.01]]])
    text = torch.tensor([[1.0, 0.0]])
    assert frame_similarity(video, text).item() == pytest.approx(0.5)
    assert frame_similarity(video, text, over_frames="max").item() == pytest.approx(1.0)


def test_similarity_stays_float32_under_autocast(leaves):
    video, text, _ = leaves
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = frame_similarity(video, text, temperature=0.01)
    torch.testing.assert_close(inside, frame_similarity(video, text, temperature=0.01))


def test_temperature_is_clamped_in_place_and_stays_trainable():
    temperature = torch.nn.Parameter(torch.tensor(0.9))
    clamp_temperature_(temperature)
    assert temperature.item() == 0.5
    temperature.data.fill_(-1)
    clamp_temperature_(temperature)
    assert temperature.item() == pytest.approx(0.001)
    assert temperature.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"all_video": torch.ones(16, WIDTH)}, "together"),
        ({"all_video": torch.ones(16, WIDTH), "all_text": torch.ones(15, WIDTH)}, "length"),
        ({"ids": torch.arange(7)}, "7 ids"),
        ({"row_offset": 8}, "row_offset is 8"),
        (
            {
                "all_video": torch.ones(16, WIDTH),
                "all_text": torch.ones(16, WIDTH),
                "row_offset": 9,
            },
            "row_offset is 9 for 8 local of 16",
        ),
        (
            {
                "all_video": torch.ones(16, WIDTH),
                "all_text": torch.ones(16, WIDTH),
                "ids": torch.arange(8),
            },
            "all_ids exactly if ids",
        ),
        ({"gathered_gradient": "none"}, "'none'.*'local_slice'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        contrastive_loss(
            torch.ones(BATCH, WIDTH), torch.ones(BATCH, WIDTH), temperature=1.0, **arguments
        )


def test_vectors_of_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 6\).*\(8, 5\)"):
        contrastive_loss(torch.ones(8, 6), torch.ones(8, 5), temperature=1.0)
    with pytest.raises(ValueError, match="'median'"):
        frame_similarity(torch.ones(8, 6), torch.ones(8, 6), over_frames="median")


def test_the_sigmoid_loss_judges_every_pair_on_its_own(leaves):
    video, text, temperature = leaves
    ids = torch.tensor([4, 9, 4, 1, 9, 9, 0, 1])
    loss = sigmoid_loss(video, text, temperature=temperature, bias=-1.5, ids=ids)
    expected = 0.0
    for row in range(BATCH):
        frames = torch.nn.functional.normalize(video[row], dim=-1)
        for column in range(BATCH):
            caption = torch.nn.functional.normalize(text[column], dim=-1)
            logit = (frames @ caption).mean() / temperature - 1.5
            chance = torch.sigmoid(logit)
            right = chance if ids[row] == ids[column] else 1 - chance
            expected = expected - right.log() / BATCH
    torch.testing.assert_close(loss, expected)


def test_the_mean_of_sigmoid_losses_over_processes_is_the_whole_batch(leaves):
    video, text, temperature = leaves
    whole = sigmoid_loss(video, text, temperature=temperature, bias=-1.5)
    losses = [
        sigmoid_loss(
            video[start : start + 2],
            text[start : start + 2],
            temperature=temperature,
            bias=-1.5,
            all_text=text,
            row_offset=start,
        )
        for start in range(0, BATCH, 2)
    ]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    torch.testing.assert_close(
        torch.autograd.grad(torch.stack(losses).mean(), leaves),
        torch.autograd.grad(whole, leaves),
    )


def test_the_sigmoid_loss_needs_what_belongs_together(leaves):
    video, text, temperature = leaves
    ids = torch.arange(BATCH)
    for wrong in ({"row_offset": 2}, {"all_ids": ids}, {"all_text": text, "all_ids": ids}):
        with pytest.raises(ValueError, match="all_"):
            sigmoid_loss(video, text, temperature=temperature, bias=0.0, **wrong)
