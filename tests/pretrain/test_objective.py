from dataclasses import replace

import pytest
import torch

from reelscan.models.bert import BertConfig
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.objective import Objective, TrainingBatch
from reelscan.pretrain.pretrain_config import LossWeights, MaskConfig

VISION = VideoMambaConfig(
    image_size=32, patch_size=8, frames=4, depth=2, width=48, alignment_width=24
)
MODEL = VideoTextConfig(
    vision=VISION,
    text=BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=4,
        fusion_layer=2,
        encoder_width=48,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    embed_dim=20,
)
TEACHER = ClipVisionConfig(image_size=32, patch_size=8, width=32, layers=3, heads=4, output_dim=24)
ALL = LossWeights()
NO_TEACHER = LossWeights(alignment=0.0)


def small_tokenizer() -> Tokenizer:
    words = [f"w{number}" for number in range(95)]
    return Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])


def objective(
    *, losses=ALL, mask=None, teacher: ClipVisionConfig | None = TEACHER, model=MODEL, seed=0
) -> Objective:
    torch.manual_seed(seed)
    return Objective(
        VideoTextModel(model),
        teacher=None if teacher is None else ClipVision(teacher),
        tokenizer=small_tokenizer(),
        losses=losses,
        mask=mask or MaskConfig(kind="none"),
    )


def batch(*, clips=4, frames=4, seed=1, ids=None) -> TrainingBatch:
    torch.manual_seed(seed)
    captions = [f"w{number} w{number + 1} w{number + 2}" for number in range(clips)]
    return TrainingBatch(
        clips=torch.randn(clips, frames, 3, 32, 32),
        text=small_tokenizer()(captions, max_tokens=8),
        sample_ids=torch.arange(clips) if ids is None else torch.tensor(ids),
    )


@pytest.mark.parametrize(
    ("kind", "per_frame_even"),
    [
        ("random", False),
        ("tube", True),
        ("clip_row", False),
        ("frame_row", True),
        ("attention", True),
    ],
)
def test_each_mask_hides_its_share_and_trains(kind, per_frame_even):
    step = objective(mask=MaskConfig(kind=kind, ratio=0.75))
    given = batch()
    mask = step._draw_mask(given.clips, step._teach(given.clips))
    assert mask.shape == (4, 65) and not mask[:, 0].any()
    assert mask.sum(1).tolist() == [48] * 4
    per_frame = mask[:, 1:].view(4, 4, 16).sum(2)
    assert not per_frame_even or bool((per_frame == 12).all())
    parts = step(given)
    parts.total.backward()
    assert torch.isfinite(parts.total)
    assert step.model.vision_encoder.patch_embed.proj.weight.grad.abs().sum() > 0


def test_the_teacher_learns_nothing_and_stays_in_evaluation_mode():
    step = objective(mask=MaskConfig(kind="attention", ratio=0.5))
    step.model.train()
    step(batch()).total.backward()
    assert all(parameter.grad is None for parameter in step.teacher.parameters())
    assert not step.teacher.training


def test_losses_that_are_off_are_zero_and_leave_their_weights_alone():
    losses = LossWeights(contrastive=0.0, matching=0.0, masked_language=0.0)
    step = objective(losses=losses, mask=MaskConfig(kind="attention", ratio=0.5))
    parts = step(batch())
    parts.total.backward()
    assert parts.total == parts.alignment > 0
    assert parts.contrastive == parts.matching == parts.masked_language == 0
    assert all(parameter.grad is None for parameter in step.model.text_encoder.parameters())


def test_the_total_is_the_weighted_sum():
    weights = LossWeights(alignment=0.5, contrastive=2.0, matching=3.0, masked_language=0.25)
    parts = objective(losses=weights)(batch())
    expected = (
        0.5 * parts.alignment
        + 2 * parts.contrastive
        + 3 * parts.matching
        + 0.25 * parts.masked_language
    )
    torch.testing.assert_close(parts.total.detach(), expected)


def test_alignment_compares_the_visible_tokens_with_their_own_features():
    """A student that repeats the teacher's features at its visible tokens has no loss."""
    step = objective(mask=MaskConfig(kind="random", ratio=0.5))
    given = batch()
    taught = step._teach(given.clips)
    mask = step._draw_mask(given.clips, None)
    vision = step.model.encode_vision(given.clips, mask, keep_temporal=False)
    rows = [
        [taught.features[0, clip, token] for token in range(65) if not mask[clip, token]]
        for clip in range(4)
    ]
    copied = torch.stack([torch.stack(row) for row in rows])[None]
    loss = step._alignment(replace(vision, alignment=copied), taught, mask)
    assert loss.item() == pytest.approx(0.0, abs=1e-5)


def test_a_batch_of_one_thing_has_no_negatives_and_still_trains():
    parts = objective(losses=NO_TEACHER)(batch(ids=[7, 7, 7, 7]))
    parts.total.backward()
    assert torch.isfinite(parts.total)


def test_images_train_as_clips_of_one_frame():
    parts = objective(mask=MaskConfig(kind="attention", ratio=0.5))(batch(frames=1))
    assert torch.isfinite(parts.total)


def test_the_same_seed_draws_the_same_masks_negatives_and_tokens():
    step = objective(mask=MaskConfig(kind="attention", ratio=0.5))
    given = batch()
    totals = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        totals.append(step(given).total.item())
    assert totals[0] == totals[1] != totals[2]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"output_dim": 16}, "output_dim: 16"),
        ({"patch_size": 16}, "patches of a frame: 2 x 2"),
        ({"return_layers": 2}, "return_layers: 2"),
        ({"class_feature": False}, "class_feature: False"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(change, what):
    with pytest.raises(ValueError, match=what):
        objective(teacher=replace(TEACHER, **change))
