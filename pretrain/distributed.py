"""Several processes as one (torchrun): start, gather with true gradients, agree on numbers.

The contrastive loss compares each clip with the captions of all processes. Each process computes
that same global loss from gathered vectors; backward adds up what every process says about a
process's own vectors. So each gets W times its share of the true gradient, and the mean that DDP
takes over the W processes is exactly the gradient of one process with the whole batch.

Axes: B samples of this process, W processes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process and how many there are."""

    rank: int
    """Number of this process, 0 is the one that writes files."""
    count: int
    """Number of processes, 1 without torchrun."""
    device: torch.device
    """Where this process computes."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextmanager
def joined_processes(device: str = "auto") -> Iterator[Processes]:
    """Joins the group that torchrun describes in the environment; alone without torchrun.

    `device`: "auto" (a GPU if there is one), "cpu" or "cuda". NCCL joins GPUs, gloo joins CPUs.
    A group that already exists is used and left alone.
    """
    chosen = choose_device(device)
    if dist.is_initialized():
        yield Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=chosen)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        # gloo beside NCCL: checkpoints are written from the CPU while the GPUs compute.
        dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
        try:
            yield Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=chosen)
        finally:
            dist.destroy_process_group()
    else:
        yield Processes(rank=0, count=1, device=chosen)


def choose_device(device: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"; on a GPU machine each process takes its own."""
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f'device is {device!r}, but must be "auto", "cpu" or "cuda"')
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            'device is "cuda", but PyTorch sees no GPU here: use "auto" or "cpu", '
            "or install a CUDA build of torch"
        )
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def gather_with_gradients(local: Tensor) -> Tensor:
    """[B, ...] of every process -> [W * B, ...] in the order of ranks; differentiable.

    All processes must bring the same shape. Alone, the tensor itself.
    """
    if not _is_joined():
        return local
    gathered: Tensor = _GatherWithGradients.apply(local)  # type: ignore[no-untyped-call]
    return gathered


def gather(local: Tensor) -> Tensor:
    """[B, ...] of every process -> [W * B, ...], without gradients (for sample ids)."""
    if not _is_joined():
        return local
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, local.detach().contiguous())
    return torch.cat(parts)


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean over processes, without gradients. Alone, the values themselves."""
    if not _is_joined():
        return values.detach()
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def share_of_mean(count: Tensor) -> Tensor:
    """Factor that turns a mean over `count` local items into a part of the mean over all items.

    The mean over processes of (local mean * factor) is the mean over all processes' items, however
    unevenly they are spread. 1 alone.
    """
    if not _is_joined():
        return torch.ones((), device=count.device)
    mean_count = mean_over_processes(count.float())
    return count / mean_count.clamp(min=1.0 / dist.get_world_size())


def joined_rank() -> int:
    """Number of this process among the joined ones; 0 alone."""
    return dist.get_rank() if _is_joined() else 0


def cpu_group() -> dist.ProcessGroup | None:
    """A group of all processes of its own, for a thread beside training; None alone."""
    return dist.new_group(backend="gloo") if _is_joined() else None


class WaitingRoom:
    """Where processes wait for the first one, however long it takes."""

    def __init__(self) -> None:
        self._group = (
            dist.new_group(backend="gloo", timeout=timedelta(days=7)) if _is_joined() else None
        )

    def wait(self) -> None:
        """Returns once every process is here."""
        if self._group is not None:
            dist.barrier(self._group)


def wait_for_all() -> None:
    """Returns once every process is here."""
    if _is_joined():
        dist.barrier()


def _is_joined() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


class _GatherWithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.local_size = local.shape[0]
        return gather(local)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.local_size
        return total[start : start + ctx.local_size]
