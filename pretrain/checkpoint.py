"""Checkpoints of a run, written while it goes on, by all processes together.

    step-00001234/*.safetensors   weights ("model/NAME") and AdamW's state ("optimizer/KIND/NAME"),
                                  each process's share, whatever shards it holds
    step-00001234/state.json      position, settings of the run, sizes of the other files

torch.distributed.checkpoint cuts and joins the tensors, so any number of processes, sharded or
not, reads what any other wrote. Nothing in it is pickled. Random generators are not stored:
training seeds them from (seed, position, process), so the position says it all.
"""

import warnings
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult

from reelscan.pretrain.checkpoint_files import (
    RunState,
    checkpoint_path,
    is_complete,
    put_in_place,
    read_state,
    sweep,
    sweep_unfinished,
    unfinished_path,
)
from reelscan.pretrain.distributed import cpu_group, joined_rank, wait_for_all

# One process alone is what most runs are, nothing to be warned of.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")

MODEL, OPTIMIZER = "model/", "optimizer/"
NUMBER = "()"
"""Ends the name of what is a single number."""


class CheckpointWriter:
    """Writes checkpoints in a thread; one at a time."""

    def __init__(self, folder: Path, *, keep_last: int) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}, but at least 1 checkpoint must be kept")
        self._folder = folder
        self._keep_last = keep_last
        self._group = cpu_group()
        self._running: Future[Metadata] | None = None
        if joined_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            sweep_unfinished(folder)
        wait_for_all()

    def save(self, module: nn.Module, optimizer: torch.optim.Optimizer, state: RunState) -> Path:
        """Starts `folder/step-N` and returns once the tensors are copied; call it everywhere.

        It is there, and all but the newest `keep_last` are gone, once `wait` has returned or the
        next `save` has. Raises what went wrong with the one before. Frozen parameters are left out.
        The optimizer must have been built with named parameters (`optimizer.build_optimizer`).
        """
        self.wait()
        writer = _AtomicWriter(self._folder, state, keep_last=self._keep_last)
        started = async_save(
            _tensors(module, optimizer),
            storage_writer=writer,
            process_group=self._group,
            no_dist=self._group is None,
        )
        assert isinstance(started, Future), "the default way of staging gives a future"
        self._running = started
        return checkpoint_path(self._folder, state.step)

    def wait(self) -> None:
        """Returns once nothing is being written, in any process."""
        self._end_running()
        wait_for_all()

    def _end_running(self) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            try:
                running.result()
            except CheckpointException as error:
                causes = "; ".join(f"process {rank}: {e[0]}" for rank, e in error.failures.items())
                raise OSError(
                    f"a checkpoint could not be written to {self._folder}: {causes}"
                ) from error

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends what was started; after an error without waiting for other processes' errors."""
        self._end_running()
        if kind is None:
            wait_for_all()


def load_checkpoint(
    path: Path, *, module: nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> RunState:
    """Restores module and optimizer in place; call it in all processes.

    Raises ValueError if the checkpoint does not fit.
    """
    reader = _reader(path)
    stored = _stored(reader)
    wanted = _module_tensors(module)
    kept = {name: info for name, info in stored.items() if name.startswith(MODEL)}
    _check_same_tensors(path, kept, wanted)
    if optimizer is not None:
        wanted |= _new_optimizer_state(optimizer, stored.keys() - kept.keys())
    _read(wanted, reader, cpu_group())
    return read_state(path)


def checkpoint_weights(path: Path) -> dict[str, Tensor]:
    """The whole weights of a checkpoint's module, by name, in one process on the CPU."""
    reader = _reader(path)
    weights: dict[str, Tensor] = {
        name: torch.empty(info.size, dtype=info.properties.dtype)
        for name, info in _stored(reader).items()
        if name.startswith(MODEL)
    }
    _read(weights, reader, None)
    return {
        name.removeprefix(MODEL).removesuffix(NUMBER): tensor.squeeze(0)
        if name.endswith(NUMBER)
        else tensor
        for name, tensor in weights.items()
    }


class _AtomicWriter(HuggingFaceStorageWriter):
    """Writes into a folder that takes its final name once every process has written its share."""

    def __init__(self, folder: Path, state: RunState, *, keep_last: int) -> None:
        self._folder, self._state, self._keep_last = folder, state, keep_last
        self._unfinished = unfinished_path(folder, state.step)
        super().__init__(str(self._unfinished), save_distributed=True)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """In the first process, after all have written."""
        put_in_place(self._unfinished, checkpoint_path(self._folder, self._state.step), self._state)
        sweep(self._folder, keep_last=self._keep_last)


def _tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that is written; parameters that never had a gradient have no optimizer state."""
    state = {
        f"{OPTIMIZER}{kind}/{name}": value
        for name, parameter in _named_parameters(optimizer).items()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }
    return _module_tensors(module) | _with_axes(state)


def _module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Trained parameters, tied ones once, and buffers that belong to the state."""
    trained = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    buffers = dict(module.named_buffers()).keys() & module.state_dict().keys()
    state = trained | {name: module.get_buffer(name) for name in buffers}
    return _with_axes({MODEL + name: tensor for name, tensor in state.items()})


def _with_axes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views, for the format cuts tensors along axes and a single number has none."""
    return {
        name if tensor.ndim else name + NUMBER: tensor if tensor.ndim else tensor.view(1)
        for name, tensor in tensors.items()
    }


def _reader(path: Path) -> HuggingFaceStorageReader:
    if not is_complete(path):
        raise ValueError(f"{path} is not a complete checkpoint: choose another or start anew")
    return HuggingFaceStorageReader(str(path))


def _stored(reader: HuggingFaceStorageReader) -> dict[str, TensorStorageMetadata]:
    tensors = reader.read_metadata().state_dict_metadata
    return {name: info for name, info in tensors.items() if isinstance(info, TensorStorageMetadata)}


def _read(
    wanted: dict[str, Tensor],
    reader: HuggingFaceStorageReader,
    group: dist.ProcessGroup | None,
) -> None:
    # A copy, as it puts what it read into the mapping too.
    load(dict(wanted), storage_reader=reader, process_group=group, no_dist=group is None)


def _check_same_tensors(
    path: Path, stored: Mapping[str, TensorStorageMetadata], wanted: Mapping[str, Tensor]
) -> None:
    different = sorted(
        name.removeprefix(MODEL)
        for name in stored.keys() | wanted.keys()
        if name not in stored or name not in wanted or stored[name].size != wanted[name].shape
    )
    if different:
        raise ValueError(
            f"{path} holds another model than the configured one; {len(different)} tensors are "
            f"missing, unknown or of another shape: {', '.join(different[:5])}; "
            "resume with the configuration the run was started with"
        )


def _named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def _new_optimizer_state(
    optimizer: torch.optim.Optimizer, stored_names: Iterable[str]
) -> dict[str, Tensor]:
    """Puts empty state of each stored kind into the optimizer and returns it, to be filled."""
    parameters = _named_parameters(optimizer)
    keys = {
        key: key.removeprefix(OPTIMIZER).removesuffix(NUMBER).split("/", 1) for key in stored_names
    }
    unknown = sorted({name for _, name in keys.values()} - parameters.keys())
    if unknown:
        raise ValueError(
            f"the checkpoint's optimizer knows parameters this run does not train: {unknown[:5]}; "
            "resume with the configuration the run was started with"
        )
    optimizer.state.clear()
    wanted: dict[str, Tensor] = {}
    for key, (kind, name) in keys.items():
        parameter = parameters[name]
        # AdamW counts a parameter's steps in a single number; the rest has the parameter's shape.
        value = (
            torch.zeros((), device=parameter.device)
            if kind == "step"
            else torch.zeros_like(parameter, requires_grad=False)
        )
        optimizer.state[parameter][kind] = value
        wanted |= _with_axes({key.removesuffix(NUMBER): value})
    return wanted
