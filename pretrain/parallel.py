"""An objective spread over processes: replicated (DDP) or its weights sharded (FSDP2).

Either way backward leaves the mean gradient of all processes, and names of parameters stay.
"""

import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from reelscan.models.video_text import VideoTextModel
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.objective import Objective
from reelscan.pretrain.rounded_weights import RoundedWeights

# Of changes in place to what a block returns, which nobody makes.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module")

Sharding = Literal["replicated", "fully_sharded"]


def spread(
    objective: Objective | RoundedWeights,
    processes: Processes,
    *,
    sharding: Sharding,
    uses_all: bool = False,
) -> nn.Module:
    """What to call in place of the objective. Call it before the optimizer is built.

    fully_sharded keeps a part of weights, gradients and optimizer state in each process and
    gathers a block's weights while it computes. Weights travel and are kept in float32, so the
    numbers are those of one process; single numbers (the temperature) and teachers are replicated.
    uses_all promises DDP that every step uses every weight, which saves it a search: losses that
    are off, and images, which have no temporal positions, leave some unused.
    Raises ValueError if that cannot be had.
    """
    if sharding == "fully_sharded" and isinstance(objective, RoundedWeights):
        raise ValueError(
            "fully_sharded does not go with precision bf16_weights; choose replicated or bf16"
        )
    if processes.count == 1:
        return objective
    if sharding == "fully_sharded":
        assert isinstance(objective, Objective)
        _shard(objective)
        return objective
    return DistributedDataParallel(
        objective,
        device_ids=[processes.device] if processes.device.type == "cuda" else None,
        find_unused_parameters=not uses_all,
        gradient_as_bucket_view=True,
    )


def without_averaging(parallel: nn.Module, *, last: bool) -> AbstractContextManager[object]:
    """Around all but the last of several backward passes that add up; DDP then averages once."""
    if isinstance(parallel, DistributedDataParallel) and not last:
        return parallel.no_sync()
    return nullcontext()


def average_replicated_(parameters: Iterable[nn.Parameter]) -> None:
    """Means, in place, of gradients that FSDP leaves alone; after backward."""
    parameters = list(parameters)
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        for parameter in parameters:
            if parameter.grad is not None and not isinstance(parameter, DTensor):
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()


def whole_model(objective: Objective) -> VideoTextModel:
    """The trained model with all its weights: itself, or of shards a copy on the CPU.

    Call it in all processes.
    """
    if not any(isinstance(parameter, DTensor) for parameter in objective.model.parameters()):
        return objective.model
    whole = VideoTextModel(objective.model.config)
    copies = dict(whole.named_parameters())
    with torch.no_grad():
        for name, parameter in objective.model.named_parameters():
            copies[name].copy_(_gathered(parameter))
    return whole


def gradient_norms(parts: Mapping[str, Iterable[nn.Parameter]]) -> dict[str, Tensor]:
    """Euclidean norm of the gradients of each part, over all shards; 0 without any."""
    sharded, whole = [], []
    for parameters in parts.values():
        gradients = [p.grad for p in parameters if p.grad is not None]
        shards = [g.to_local() for g in gradients if isinstance(g, DTensor)]
        sharded.append(_square(shards))
        whole.append(_square([g for g in gradients if not isinstance(g, DTensor)]))
    device = max((square.device for square in (*sharded, *whole)), key=lambda device: device.type)
    squares = torch.stack([square.to(device) for square in sharded])
    if any(isinstance(p, DTensor) for parameters in parts.values() for p in parameters):
        dist.all_reduce(squares)
    squares = squares + torch.stack([square.to(device) for square in whole])
    return dict(zip(parts, squares.sqrt(), strict=True))


def shorten_(parameters: Iterable[nn.Parameter], *, norm: Tensor, longest: float | None) -> None:
    """Scales all gradients so that their norm, now `norm`, is at most `longest`."""
    if longest is None:
        return
    factor = (longest / (norm + 1e-6)).clamp(max=1.0)
    gradients = [_local(p.grad) for p in parameters if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)


def _gathered(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _local(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _square(gradients: list[Tensor]) -> Tensor:
    if not any(gradient.numel() for gradient in gradients):
        return torch.zeros(())
    norms = torch._foreach_norm([g for g in gradients if g.numel()])
    return torch.stack(norms).float().square().sum()


def _shard(objective: Objective) -> None:
    """Blocks one by one, then all that is left, in place."""
    left_alone = {p for p in objective.parameters() if not p.requires_grad or p.ndim == 0}
    vision, text = objective.model.vision_encoder, objective.model.text_encoder
    for block in (*vision.layers, *text.bert.encoder.layer):
        fully_shard(block)
    fully_shard(objective, ignored_params=left_alone)
    register_fsdp_forward_method(objective, "embed")
