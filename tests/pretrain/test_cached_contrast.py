"""Parts of a batch against the whole batch at once, in float64 with dropout, masks and all."""

from dataclasses import replace

import pytest
import torch
from tiny_training import TINY_MODEL

from reelscan.models.losses import masked_language_loss
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.models.video_text import VideoTextModel
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.objective import Draws, Objective, TrainingBatch
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.step_options import ParallelConfig
from reelscan.pretrain.train_step import TrainStep, step_seed

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))
PARTS, SIZE = 3, 2
OFF = LossWeights(alignment=0.0, contrastive=1.0, matching=0.0, masked_language=0.0)


def build(losses: LossWeights, contrastive: str) -> tuple[Objective, TrainStep]:
    config = PretrainConfig(
        model=replace(TINY_MODEL, vision=replace(TINY_MODEL.vision, drop_path_rate=0.5)),
        data=DataConfig(batch_size=PARTS * SIZE, max_text_tokens=8),
        losses=losses,
        loss_options=LossOptions(contrastive=contrastive, sigmoid_bias=-2.0),
        mask=MaskConfig(kind="random", ratio=0.5),
        optimizer=OptimizerConfig(learning_rate=1e-15, clip_gradient_norm=None),
        parallel=ParallelConfig(accumulate=PARTS),
        run=RunConfig(device="cpu", seed=7),
        steps=4,
    )
    torch.manual_seed(0)
    words = [f"w{number}" for number in range(45)]
    objective = Objective(
        VideoTextModel(config.model),
        teacher=None,
        tokenizer=Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]),
        losses=losses,
        mask=config.mask,
        options=config.loss_options,
    ).double()
    objective.model.train()
    return objective, TrainStep(objective, config=config, processes=ALONE, total_steps=4)


def parts() -> list[TrainingBatch]:
    torch.manual_seed(1)
    return [
        TrainingBatch(
            clips=torch.randn(SIZE, 2, 3, 16, 16, dtype=torch.float64),
            text=TokenBatch(torch.randint(5, 50, (SIZE, 8)), torch.ones(SIZE, 8).bool()),
            sample_ids=torch.tensor([number, 10 - 5 * (number % 2)]),
        )
        for number in range(PARTS)
    ]


def gradients(objective: Objective) -> dict[str, torch.Tensor]:
    found = objective.trained_parameters()
    return {name: p.grad.clone() for name, p in found if p.grad is not None}


@pytest.mark.parametrize("contrastive", ["softmax", "sigmoid"])
def test_the_gradient_is_that_of_the_whole_batch(contrastive):
    """The reference keeps the activations of all parts and goes backward once."""
    objective, take_step = build(OFF, contrastive)
    assert objective.model.config.text.hidden_dropout_prob > 0
    outcome = take_step(parts(), 2, stop_requested=False)
    given = gradients(objective)

    objective.zero_grad(set_to_none=True)
    embedded = []
    for number, part in enumerate(parts()):
        torch.manual_seed(step_seed(7, 2, 0, number))
        embedded.append(objective.embed(part))
    loss = objective.contrast(
        torch.cat([part.video for part in embedded]),
        torch.cat([part.text for part in embedded]),
        torch.cat([part.sample_ids for part in parts()]),
    )
    loss.backward()
    assert outcome.losses["contrastive"] == pytest.approx(loss.item(), rel=1e-6)
    assert outcome.losses["total"] == outcome.losses["contrastive"]
    expected = gradients(objective)
    assert given.keys() == expected.keys() and len(expected) > 40
    for name, value in expected.items():
        torch.testing.assert_close(given[name], value, atol=1e-11, rtol=1e-10, msg=name)


def test_every_asked_token_counts_the_same_whatever_its_part():
    losses = replace(OFF, contrastive=0.0, masked_language=1.0)
    objective, take_step = build(losses, "softmax")
    outcome = take_step(parts(), 2, stop_requested=False)
    sums, count = 0.0, 0
    for number, part in enumerate(parts()):
        torch.manual_seed(step_seed(7, 2, 0, number))
        read = objective._read(part, Draws())
        hidden = objective.model.encode_text(read.masked.input_ids, part.text.attention_mask)
        fused = objective.model.fuse(hidden, part.text.attention_mask, read.vision.tokens)
        asked = int((read.masked.labels != -100).sum())
        loss = masked_language_loss(fused, read.masked.labels, head=objective.model.predict_tokens)
        sums, count = sums + loss.item() * asked, count + asked
    assert outcome.losses["masked_language"] == pytest.approx(sums / count, rel=1e-6)


def test_one_part_is_the_usual_step():
    objective, take_step = build(OFF, "softmax")
    whole = TrainingBatch(
        clips=torch.cat([part.clips for part in parts()]),
        text=TokenBatch(
            torch.cat([part.text.input_ids for part in parts()]),
            torch.cat([part.text.attention_mask for part in parts()]),
        ),
        sample_ids=torch.cat([part.sample_ids for part in parts()]),
    )
    outcome = take_step([whole], 2, stop_requested=False)
    torch.manual_seed(step_seed(7, 2, 0))
    assert outcome.losses["total"] == pytest.approx(objective(whole).total.item(), rel=1e-6)
