"""Modules as CUDA graphs: captured once for each kind of input, then replayed in one launch.

A replay overwrites what the one before returned inside the graph. Results are therefore copied,
and while a forward pass still waits for its backward pass the next one runs without a graph.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reelscan.models.scan_backend import wanted_backend

_MOST_GRAPHS = 4
"""Kinds of input that are captured; each holds the memory of a pass."""

_ERRORS = "thread_local"
"""What other threads do, as pinning memory, does not disturb a capture."""

Key = tuple[object, ...]
Run = Callable[..., tuple[Tensor, ...]]


class Replay:
    """Runs a module on tensors, from the second time in a row on as a graph.

    The module must compute the same kernels whenever shapes, types, parameters, gradient mode and
    autocast are the same: no branch on values, nothing random but on the GPU.
    """

    def __init__(self) -> None:
        self._graphs: dict[Key, Run] = {}
        self._seen: set[Key] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Replay":
        """Without the graphs, which belong to the module's own parameters."""
        return Replay()

    def __reduce__(self) -> tuple[type["Replay"], tuple[()]]:
        return Replay, ()

    def __call__(self, module: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """module(*inputs), all on one GPU; the module gives a tuple of tensors."""
        key = _key(module, inputs)
        graph = self._graphs.get(key)
        if graph is None:
            first = key not in self._seen
            if first or len(self._graphs) >= _MOST_GRAPHS or not _owns_weights(module):
                self._seen = {key}
                outputs: tuple[Tensor, ...] = module(*inputs)
                return outputs
            graph = self._graphs[key] = _capture(module, inputs)
        return graph(*inputs)


def _owns_weights(module: nn.Module) -> bool:
    """Whether they stay where they are, unlike those that `functional_call` lends."""
    return all(isinstance(p, nn.Parameter) for p in module.parameters())


def _key(module: nn.Module, inputs: tuple[Tensor, ...]) -> Key:
    parameters = tuple((p.data_ptr(), p.dtype, p.requires_grad) for p in module.parameters())
    shapes = tuple((x.shape, x.dtype, x.device, x.requires_grad) for x in inputs)
    casting = (torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"))
    modes = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), wanted_backend())
    return (*shapes, parameters, *casting, *modes)


def _capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    # Weights cast by autocast inside of a graph must not be kept for what runs outside of it.
    with torch.autocast(
        "cuda",
        dtype=torch.get_autocast_dtype("cuda"),
        enabled=torch.is_autocast_enabled("cuda"),
        cache_enabled=False,
    ):
        if torch.is_grad_enabled() and _learns(module, inputs):
            return _capture_both_passes(module, inputs)
        return _capture_forward(module, inputs)


def _learns(module: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    return any(x.requires_grad for x in (*inputs, *module.parameters()))


def _capture_forward(module: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    taken = tuple(x.clone() for x in inputs)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        module(*taken)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=_ERRORS):
        given = module(*taken)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        for to, from_ in zip(taken, inputs, strict=True):
            to.copy_(from_)
        graph.replay()
        return tuple(x.clone() for x in given)

    return run


def _capture_both_passes(module: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
    passes = _Passes(module, inputs)
    waiting: weakref.ref[_Lease] | None = None

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        nonlocal waiting
        earlier = None if waiting is None else waiting()
        outputs: tuple[Tensor, ...]
        if earlier is not None and not earlier.over:
            outputs = module(*inputs)
            return outputs
        lease = _Lease()
        waiting = weakref.ref(lease)
        leaves = (*inputs, *module.parameters())
        outputs = _Replayed.apply(passes, lease, *leaves)  # type: ignore[no-untyped-call]
        return outputs

    return run


class _Passes:
    """A forward and a backward pass, captured, with the memory that they read and write."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        twin = _twin_of(module)
        self.inputs = tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs)
        self.leaves = (*self.inputs, *twin.parameters())
        wanted = [leaf for leaf in self.leaves if leaf.requires_grad]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            outputs = twin(*self.inputs)
            self.grad_outputs = tuple(torch.zeros_like(x) for x in outputs)
            torch.autograd.grad(outputs, wanted, self.grad_outputs, allow_unused=True)
            del outputs
        torch.cuda.current_stream().wait_stream(side)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(self.forward, pool=pool, capture_error_mode=_ERRORS):
            captured = twin(*self.inputs)
        with torch.cuda.graph(self.backward, pool=pool, capture_error_mode=_ERRORS):
            found = torch.autograd.grad(captured, wanted, self.grad_outputs, allow_unused=True)
        self.outputs = tuple(x.detach() for x in captured)
        of_wanted = iter(found)
        self.grads = tuple(next(of_wanted) if x.requires_grad else None for x in self.leaves)


def _twin_of(module: nn.Module) -> nn.Module:
    """A copy that shares the memory of the weights, yet whose gradients go elsewhere: what still
    waits for the module's own must not be drawn into a capture."""
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in module.parameters()
    }
    return copy.deepcopy(module, memo)


class _Lease:
    """Lives as long as the results of a pass may still be differentiated."""

    over = False


class _Replayed(torch.autograd.Function):
    """Inputs and weights -> outputs, both passes by replaying."""

    @staticmethod
    def forward(ctx: Any, passes: _Passes, lease: _Lease, *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.passes, ctx.lease = passes, lease
        for to, given in zip(passes.inputs, leaves[: len(passes.inputs)], strict=True):
            to.detach().copy_(given.detach())
        passes.forward.replay()
        return tuple(x.clone() for x in passes.outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.lease.over:
            raise RuntimeError(
                "blocks that run as a CUDA graph can be differentiated once a pass; for a second "
                "time switch off use_cuda_graphs"
            )
        ctx.lease.over = True
        passes: _Passes = ctx.passes
        for to, grad in zip(passes.grad_outputs, grads, strict=True):
            to.copy_(grad)
        passes.backward.replay()
        # Copies, for whoever gets a gradient may keep it and add to it.
        copies = iter(torch._foreach_mul([x for x in passes.grads if x is not None], 1.0))
        return None, None, *(None if x is None else next(copies) for x in passes.grads)
