"""One training step on fixed data, by one process or by two with half of the batch each.

Run by test_distributed.py; writes loss and gradients to FOLDER/COUNT-RANK.safetensors.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from reelscan.models.bert import BertConfig
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.losses import MaskedTokens, Negatives
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.distributed import (
    averaging_gradients,
    gather,
    gather_with_gradients,
    joined_processes,
    mean_over_processes,
)
from reelscan.pretrain.objective import Draws, Objective, TrainingBatch
from reelscan.pretrain.stages import LossWeights, MaskConfig

words = [f"w{number}" for number in range(45)]
tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
config = VideoTextConfig(
    vision=VideoMambaConfig(
        image_size=16, patch_size=8, frames=2, depth=2, width=24, alignment_width=12
    ),
    text=BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        fusion_layer=1,
        encoder_width=24,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
    embed_dim=10,
)


def build(losses):
    torch.manual_seed(0)
    model = VideoTextModel(config)
    torch.manual_seed(1)
    teacher = ClipVision(
        ClipVisionConfig(image_size=16, patch_size=8, width=16, layers=1, heads=2, output_dim=12)
    )
    return Objective(
        model, teacher=teacher, tokenizer=tokenizer, losses=losses, mask=MaskConfig(kind="tube")
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
    shared = averaging_gradients(step, processes)  # alive until backward is done
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


def main(folder):
    with joined_processes("cpu") as processes:
        if processes.count == 2:
            check_gathering(processes)
            step, total = half_step(processes)
        else:
            step, total = full_step()
        gradients = {
            name: parameter.grad
            for name, parameter in step.model.named_parameters()
            if parameter.grad is not None
        }
        name = f"{processes.count}-{processes.rank}.safetensors"
        save_file({**gradients, "total": total}, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
