"""A training step and a short run on fixed data, by one process or by two with half a batch each.

Run by test_distributed.py; writes loss and gradients to FOLDER/COUNT-RANK.safetensors and the run
to FOLDER/run-COUNT/.
"""

import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_training import TINY_MODEL

from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.losses import MaskedTokens, Negatives
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.models.video_text import VideoTextModel
from reelscan.pretrain.distributed import (
    gather,
    gather_with_gradients,
    joined_processes,
    mean_over_processes,
)
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.objective import Draws, Objective, TrainingBatch
from reelscan.pretrain.parallel import spread
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.train import pretrain

words = [f"w{number}" for number in range(45)]
tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
config = replace(
    TINY_MODEL,
    text=replace(TINY_MODEL.text, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
)


CONTRASTIVE = LossWeights(alignment=0.0, matching=0.0, masked_language=0.0)
MASKED_LANGUAGE = LossWeights(alignment=0.0, matching=0.0, contrastive=0.0)
PUBLISHED = LossOptions(contrastive_gradient="local_slice", masked_language_mean="local")


def build(losses, options=None):
    torch.manual_seed(0)
    model = VideoTextModel(config)
    torch.manual_seed(1)
    teacher = ClipVision(
        ClipVisionConfig(image_size=16, patch_size=8, width=16, layers=1, heads=2, output_dim=12)
    )
    return Objective(
        model,
        teacher=teacher,
        tokenizer=tokenizer,
        losses=losses,
        mask=MaskConfig(kind="tube"),
        options=options,
    )


def whole_step():
    torch.manual_seed(2)
    ids = torch.randint(5, 50, (6, 8))
    asked = torch.rand(6, 8) < torch.tensor([0.1, 0.2, 0.3, 0.8, 0.9, 0.9])[:, None]
    asked[:, 1] = True
    hidden = (torch.rand(6, 4).argsort(1) < 2).repeat(1, 2)
    everyone = torch.ones(6, dtype=torch.bool)
    batch = TrainingBatch(
        clips=torch.randn(6, 2, 3, 16, 16),
        text=TokenBatch(ids, torch.ones(6, 8, dtype=torch.bool)),
        sample_ids=torch.tensor([3, 1, 4, 1, 5, 3]),
    )
    draws = Draws(
        mask=torch.cat([torch.zeros(6, 1, dtype=torch.bool), hidden], 1),
        masked_tokens=MaskedTokens(ids.masked_fill(asked, 4), ids.masked_fill(~asked, -100)),
        # Rows within the half of a process: matching is local.
        video_negatives=Negatives(torch.tensor([1, 2, 0, 2, 0, 1]), everyone),
        text_negatives=Negatives(torch.tensor([2, 0, 1, 1, 2, 0]), everyone),
    )
    return batch, draws


def rows(batch, draws, start, stop):
    part = slice(start, stop)
    return TrainingBatch(
        clips=batch.clips[part],
        text=TokenBatch(batch.text.input_ids[part], batch.text.attention_mask[part]),
        sample_ids=batch.sample_ids[part],
    ), Draws(
        mask=draws.mask[part],
        masked_tokens=MaskedTokens(
            draws.masked_tokens.input_ids[part], draws.masked_tokens.labels[part]
        ),
        video_negatives=Negatives(draws.video_negatives.rows[part], torch.ones(3).bool()),
        text_negatives=Negatives(draws.text_negatives.rows[part], torch.ones(3).bool()),
    )


def check_gathering(processes):
    weights = torch.arange(12.0).reshape(4, 3)
    local = torch.full((2, 3), 1.0 + processes.rank, requires_grad=True)
    gathered = gather_with_gradients(local)
    assert gathered.tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2
    (weights * gathered).sum().backward()
    start = 2 * processes.rank
    assert torch.equal(local.grad, 2 * weights[start : start + 2]), local.grad
    ids = torch.tensor([10 * processes.rank, 10 * processes.rank + 1])
    assert gather(ids).tolist() == [0, 1, 10, 11]
    assert mean_over_processes(torch.tensor([1.0 * processes.rank])).tolist() == [0.5]
    assert processes.is_first == (processes.rank == 0)


def half_step(processes):
    """Half of the batch, gradients averaged by DDP."""
    step = build(LossWeights())
    start = 3 * processes.rank
    shared = spread(step, processes, sharding="replicated")  # alive until backward is done
    total = shared(*rows(*whole_step(), start, start + 3)).total
    total.backward()
    return step, mean_over_processes(total)


def full_step():
    """The whole batch at once; only the matching loss is, as ever, the mean over halves."""
    batch, draws = whole_step()
    step = build(LossWeights(alignment=0.0, contrastive=0.0, masked_language=0.0, matching=0.5))
    total = sum(step(*rows(batch, draws, start, start + 3)).total for start in (0, 3))
    step.losses = LossWeights(matching=0.0)
    total = total + step(batch, draws).total
    total.backward()
    return step, total.detach()


def published_steps(processes):
    """Contrastive gradients as published, beside the true ones of one process; and the masked
    language loss as published, which one process takes as the mean of two halves, and ours."""
    step = build(CONTRASTIVE, PUBLISHED)
    words_only, ours = build(MASKED_LANGUAGE, PUBLISHED), build(MASKED_LANGUAGE)
    batch, draws = whole_step()
    if processes.count == 1:
        step(batch, draws).total.backward()
        halves = [words_only(*rows(batch, draws, start, start + 3)).total for start in (0, 3)]
        masked_language = sum(halves).detach() / 2
        over_all = ours(batch, draws).total.detach()
    else:
        own = rows(batch, draws, 3 * processes.rank, 3 * processes.rank + 3)
        shared = spread(step, processes, sharding="replicated")
        shared(*own).total.backward()
        masked_language = mean_over_processes(words_only(*own).total)
        over_all = mean_over_processes(ours(*own).total)
    return {**gradients(step), "masked_language": masked_language, "over_all": over_all}


def gradients(step):
    return {
        name: parameter.grad
        for name, parameter in step.model.named_parameters()
        if parameter.grad is not None
    }


class HalfSource:
    """Eight clips in batches of eight over all processes; each reads its own part of them."""

    unreadable_samples = 0

    def __init__(self, processes):
        size = 8 // processes.count
        self.part = slice(processes.rank * size, (processes.rank + 1) * size)

    def steps_in(self, epochs):
        return epochs

    def batches(self, step):
        for epoch in count(step):
            torch.manual_seed(epoch)
            ids = torch.randperm(8)
            yield Batch(
                clips_uint8=torch.randint(256, (8, 2, 3, 16, 16), dtype=torch.uint8)[self.part],
                captions=[f"w{number} w{number + 9}" for number in ids.tolist()][self.part],
                sample_ids=ids[self.part],
            )


def train_run(folder, processes):
    """A run without the losses that draw within a process; stopped after two steps, resumed."""
    own_folder = folder / f"{processes.count}-{processes.rank}"
    own_folder.mkdir()
    tokenizer.save(own_folder / "vocab.txt")
    training = PretrainConfig(
        model=config,
        data=DataConfig(
            batch_size=8 // processes.count,
            max_text_tokens=8,
            vocabulary=own_folder / "vocab.txt",
        ),
        losses=LossWeights(alignment=0.0, matching=0.0, masked_language=0.0),
        mask=MaskConfig(kind="none"),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        run=RunConfig(device="cpu", tensorboard=False, log_every=1),
        steps=4,
    )
    out = folder / f"run-{processes.count}"
    source = HalfSource(processes)
    # Only the last process is asked to stop; all have to agree.
    asked = iter([False, processes.rank == processes.count - 1])
    part = pretrain(training, out, source=source, should_stop=lambda: next(asked))
    assert (part.steps, part.interrupted) == (2, True)
    settings = replace(training, data=replace(training.data, workers=3))
    rest = pretrain(settings, out, source=source, resume=True)
    assert rest.steps == 4 and rest.model.is_dir()


def main(folder):
    with joined_processes("cpu") as processes:
        train_run(folder, processes)
        if processes.count == 2:
            check_gathering(processes)
            step, total = half_step(processes)
        else:
            step, total = full_step()
        name = f"{processes.count}-{processes.rank}.safetensors"
        save_file({**gradients(step), "total": total}, folder / name)
        save_file(published_steps(processes), folder / f"published-{name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
