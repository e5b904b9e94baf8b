"""What test_parallel.py runs, in two processes and in one: sharding, parts, checkpoints.

OUT/COUNT-RANK.safetensors          gradients and losses of steps on the same eight clips
OUT/COUNT-SHARDING/checkpoints      checkpoints, each read by the other number of processes
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parent))
from two_process_step import HalfSource, build, config, tokenizer

from reelscan.models.losses import contrastive_loss, sigmoid_loss
from reelscan.models.tokenizer import TokenBatch
from reelscan.pretrain.checkpoint import CheckpointWriter, load_checkpoint
from reelscan.pretrain.checkpoint_files import RunState, newest_checkpoint
from reelscan.pretrain.distributed import (
    gather,
    gather_with_gradients,
    joined_processes,
    wait_for_all,
)
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.objective import TrainingBatch
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.step_options import ParallelConfig
from reelscan.pretrain.train import pretrain
from reelscan.pretrain.train_step import TrainStep

LOSSES = LossWeights(matching=0.0, masked_language=0.0)
STEPS = {
    "replicated": ("replicated", 1, "softmax"),
    "sharded": ("fully_sharded", 1, "softmax"),
    "sharded-parts": ("fully_sharded", 2, "softmax"),
    "replicated-parts-sigmoid": ("replicated", 2, "sigmoid"),
    "sharded-sigmoid": ("fully_sharded", 1, "sigmoid"),
}


def training(*, accumulate=1, sharding="replicated", batch_size=8):
    return PretrainConfig(
        model=config,
        data=DataConfig(batch_size=batch_size, max_text_tokens=8),
        losses=LOSSES,
        mask=MaskConfig(kind="none"),
        optimizer=OptimizerConfig(learning_rate=1e-3, clip_gradient_norm=None),
        parallel=ParallelConfig(accumulate=accumulate, sharding=sharding),
        run=RunConfig(device="cpu", tensorboard=False, log_every=1),
        teacher=Path("teacher"),
        steps=4,
    )


def eight_clips(part):
    torch.manual_seed(5)
    batch = TrainingBatch(
        clips=torch.randn(8, 2, 3, 16, 16),
        text=TokenBatch(torch.randint(5, 50, (8, 8)), torch.ones(8, 8, dtype=torch.bool)),
        sample_ids=torch.tensor([3, 1, 4, 1, 5, 9, 2, 3]),
    )
    return TrainingBatch(
        clips=batch.clips[part],
        text=TokenBatch(batch.text.input_ids[part], batch.text.attention_mask[part]),
        sample_ids=batch.sample_ids[part],
    )


def step_of(name, processes):
    """Gradients and losses of one step on all eight clips."""
    sharding, parts, loss = STEPS[name]
    size = 8 // processes.count // parts
    start = processes.rank * size * parts
    batches = [
        eight_clips(slice(start + size * number, start + size * (number + 1)))
        for number in range(parts)
    ]
    objective = build(LOSSES, LossOptions(contrastive=loss, sigmoid_bias=-2.0))
    objective.mask = MaskConfig(kind="none")
    take_step = TrainStep(
        objective,
        config=training(accumulate=parts, sharding=sharding),
        processes=processes,
        total_steps=1,
    )
    outcome = take_step(batches, 0, stop_requested=False)
    result = {
        parameter_name: whole(parameter.grad)
        for parameter_name, parameter in objective.trained_parameters()
        if parameter.grad is not None
    }
    told = {**outcome.losses, "gradient_norm": outcome.gradient_norm}
    told |= {f"norm of {part}": value for part, value in outcome.gradient_norms.items()}
    result |= {loss_name: torch.tensor(value) for loss_name, value in told.items()}
    return {f"{name}/{key}": value.clone() for key, value in result.items()}


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def losses_in_float64(processes):
    """Each loss with its gradients, and the largest matrix of logits that it made."""
    torch.manual_seed(6)
    everything = {
        "video": torch.randn(8, 3, 6, dtype=torch.float64),
        "text": torch.randn(8, 6, dtype=torch.float64),
    }
    ids = torch.tensor([4, 9, 4, 1, 9, 9, 0, 1])
    size = 8 // processes.count
    own = slice(size * processes.rank, size * (processes.rank + 1))
    video, text = (value[own].clone().requires_grad_() for value in everything.values())
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    common = {"temperature": temperature, "ids": ids[own], "all_ids": gather(ids[own])}
    softmax = contrastive_loss(
        video,
        text,
        all_video=gather_with_gradients(video),
        all_text=gather_with_gradients(text),
        row_offset=own.start,
        **common,
    )
    sigmoid = sigmoid_loss(
        video, text, bias=bias, all_text=gather_with_gradients(text), row_offset=own.start, **common
    )
    result = {}
    for name, loss, leaves in (
        ("softmax", softmax, (video, text, temperature)),
        ("sigmoid", sigmoid, (video, text, temperature, bias)),
    ):
        gradients = torch.autograd.grad(loss, leaves)
        # DDP's mean: what a process holds is worth 1 / processes of its own numbers.
        result[f"{name}/loss"] = gather(loss.detach()[None]).mean()
        for leaf_name, gradient in zip(("video", "text"), gradients, strict=False):
            result[f"{name}/{leaf_name}"] = gather(gradient) / processes.count
        for number, gradient in enumerate(gradients[2:]):
            result[f"{name}/parameter {number}"] = gather(gradient[None]).mean()
    return result


def trained_step(sharding, processes, *, seed=0):
    objective = build(LOSSES)
    objective.mask = MaskConfig(kind="none")
    take_step = TrainStep(
        objective, config=training(sharding=sharding), processes=processes, total_steps=9
    )
    size = 8 // processes.count
    batch = eight_clips(slice(size * processes.rank, size * (processes.rank + 1)))
    return objective, take_step, [batch]


def write_checkpoint(folder, sharding, processes):
    """Two steps, a checkpoint while a third is under way, and its weights after a fourth."""
    objective, take_step, batches = trained_step(sharding, processes)
    for step in range(2):
        take_step(batches, step, stop_requested=False)
    with CheckpointWriter(folder / "checkpoints", keep_last=2) as checkpoints:
        checkpoints.save(objective, take_step.optimizer, RunState(step=2, position=2))
        for step in range(2, 4):
            take_step(batches, step, stop_requested=False)
    weights = {name: whole(p.detach()) for name, p in objective.trained_parameters()}
    if processes.is_first:
        save_file({name: value.clone() for name, value in weights.items()}, folder / "after-4")


def go_on(folder, sharding, processes):
    """The third and fourth step from a checkpoint of whatever processes wrote it."""
    objective, take_step, batches = trained_step(sharding, processes)
    with torch.no_grad():
        for _, parameter in objective.trained_parameters():
            parameter.zero_()
    path = newest_checkpoint(folder / "checkpoints")
    state = load_checkpoint(path, module=objective, optimizer=take_step.optimizer)
    assert (state.step, state.position) == (2, 2)
    for step in range(2, 4):
        take_step(batches, step, stop_requested=False)
    weights = {name: whole(p.detach()).clone() for name, p in objective.trained_parameters()}
    if processes.is_first:
        save_file(weights, folder / f"after-4-on-{processes.count}-{sharding}")


def sharded_run(folder, processes):
    """A whole run, stopped after two of four steps and gone on with, perhaps by more processes."""
    own_folder = folder / f"words-{processes.count}-{processes.rank}"
    own_folder.mkdir()
    tokenizer.save(own_folder / "vocab.txt")
    settings = training(sharding="fully_sharded", batch_size=8 // processes.count)
    settings = replace(
        settings,
        teacher=None,
        losses=replace(LOSSES, alignment=0.0),
        data=replace(settings.data, vocabulary=own_folder / "vocab.txt"),
    )
    asked = iter([False, True])
    source = HalfSource(processes)
    part = pretrain(
        settings, folder / f"run-{processes.count}", source=source, should_stop=lambda: next(asked)
    )
    assert (part.steps, part.interrupted) == (2, True)
    wait_for_all()

    def measure(encoder):
        assert processes.is_first
        return {"norm": float(encoder.encode_text(["w1 w2"]).norm())}

    report = pretrain(
        settings, folder / f"run-{processes.count}", source=source, resume=True, held_out=measure
    )
    assert report.steps == 4 and report.model.is_dir()


WRITERS = ("1-replicated", "2-replicated", "2-fully_sharded")


def write(folder, processes):
    count = processes.count
    result = {}
    for name in STEPS:
        result |= step_of(name, processes)
    save_file(result, folder / f"{count}-{processes.rank}.safetensors")
    save_file(losses_in_float64(processes), folder / f"float64-{count}-{processes.rank}")
    for name in WRITERS:
        if name.startswith(str(count)):
            (folder / name).mkdir(exist_ok=True)
            write_checkpoint(folder / name, name.split("-")[1], processes)
    sharded_run(folder, processes)


def read(folder, processes):
    for writer in WRITERS:
        for reader in WRITERS:
            if reader.startswith(str(processes.count)):
                go_on(folder / writer, reader.split("-")[1], processes)


def main(folder, *tasks):
    with joined_processes("cpu") as processes:
        for task in tasks:
            {"write": write, "read": read}[task](folder, processes)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
