"""Real processes over loopback: torchrun's environment, gloo, 2 CPU processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reelscan.pretrain.distributed import (
    choose_device,
    gather,
    gather_with_gradients,
    joined_processes,
    mean_over_processes,
)

GATHER_WORKER = """
import sys, torch
from reelscan.pretrain.distributed import *

with joined_processes("cpu") as processes:
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
    assert processes.count == 2
"""


STEP_WORKER = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from reelscan.models.bert import BertConfig
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.losses import MaskedTokens, Negatives
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.distributed import *
from reelscan.pretrain.objective import Draws, Objective, TrainingBatch
from reelscan.pretrain.stages import LossWeights, MaskConfig

words = [f"w{number}" for number in range(45)]
tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
config = VideoTextConfig(
    vision=VideoMambaConfig(
        image_size=16, patch_size=8, frames=2, depth=2, width=24, alignment_width=12
    ),
    text=BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, fusion_layer=1, encoder_width=24,
        num_attention_heads=2, intermediate_size=32, max_position_embeddings=12,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ),
    embed_dim=10,
)


def build(losses):
    torch.manual_seed(0)
    model = VideoTextModel(config)
    torch.manual_seed(1)
    teacher = ClipVision(
        ClipVisionConfig(
            image_size=16, patch_size=8, width=16, layers=1, heads=2, output_dim=12
        )
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


with joined_processes("cpu") as processes:
    batch, draws = whole_step()
    if processes.count == 2:
        step = build(LossWeights())
        shared = averaging_gradients(step, processes)
        start = 3 * processes.rank
        total = shared(*rows(batch, draws, start, start + 3)).total
        total.backward()
        total = mean_over_processes(total)
    else:
        step = build(LossWeights())
        total = torch.zeros(())
        for start in (0, 3):
            step.losses = LossWeights(
                alignment=0.0, contrastive=0.0, masked_language=0.0, matching=0.5
            )
            total = total + step(*rows(batch, draws, start, start + 3)).total
        step.losses = LossWeights(matching=0.0)
        total = total + step(batch, draws).total
        total.backward()
    result = {
        name: parameter.grad
        for name, parameter in step.model.named_parameters()
        if parameter.grad is not None
    }
    result["total"] = total.detach()
    save_file(result, Path(sys.argv[1]) / f"{processes.count}-{processes.rank}.safetensors")
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_two_processes(script: Path, *arguments: str) -> None:
    """What `torchrun --nproc-per-node 2` sets up, without its launcher's start-up seconds."""
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)


def test_gathering_keeps_the_order_and_adds_up_gradients_of_all_processes(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(GATHER_WORKER, encoding="utf-8")
    run_two_processes(script)


def test_loss_and_gradients_are_those_of_one_process_with_the_whole_batch(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(STEP_WORKER, encoding="utf-8")
    run_two_processes(script, str(tmp_path))
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=120)
    alone = load_file(tmp_path / "1-0.safetensors")
    assert len(alone) > 60
    for rank in range(2):
        together = load_file(tmp_path / f"2-{rank}.safetensors")
        assert together.keys() == alone.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(together[name], expected, atol=1e-5, rtol=1e-4, msg=name)
    gradients = [value.abs().max() for name, value in alone.items() if name != "total"]
    assert min(gradients) > 0 or sorted(gradients)[len(gradients) // 4] > 1e-4


def test_alone_gathering_changes_nothing():
    local = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradients(local) is local
    assert gather(local) is local
    assert torch.equal(mean_over_processes(local), local.detach())


def test_without_torchrun_this_is_the_first_and_only_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes("cpu") as processes:
        assert (processes.rank, processes.count, processes.is_first) == (0, 1, True)
        assert processes.device == torch.device("cpu")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="must be"):
        choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(ValueError, match="sees no GPU"):
        choose_device("cuda")
