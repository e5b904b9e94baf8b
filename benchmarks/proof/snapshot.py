"""A run as files of at most 15 MB, to be taken up in a later command, on another machine too.

Matrices are kept in float16 and Adam's second moments as bfloat16 roots; its first moments start
anew, within some ten steps. A run that goes on is so not bit for bit one that never stopped.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reelscan.models.atomic_directory import atomic_directory
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.weights import load_strict
from reelscan.pretrain.optimizer import STATE_SPACE_AND_EMBEDDING_NAMES

STATE_FILE, TEACHER_FILE = "state.json", "teacher.safetensors"
VOCABULARY_FILE = "vocabulary.txt"
_MOST_BYTES = 15_000_000
_ROOT = "second_moment_root/"


def save_snapshot(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    state: dict[str, object],
    tokenizer: Tokenizer,
    teacher: Path | None,
) -> None:
    """Replaces what is at `folder` in one step; `state` is plain and holds `step`."""
    tensors = {
        name: _small(name, tensor)
        for name, tensor in model.state_dict().items()
        if name not in _tied(model)
    }
    for name, parameter in model.named_parameters():
        moments = optimizer.state.get(parameter)
        if moments:
            tensors[_ROOT + name] = moments["exp_avg_sq"].sqrt().to(torch.bfloat16)
    with atomic_directory(folder) as unfinished:
        for number, part in enumerate(_parts(tensors)):
            save_file(part, unfinished / f"part-{number}.safetensors")
        tokenizer.save(unfinished / VOCABULARY_FILE)
        if teacher is not None:
            shutil.copyfile(teacher, unfinished / TEACHER_FILE)
        (unfinished / STATE_FILE).write_text(json.dumps(state))


def read_state(folder: Path) -> dict[str, object]:
    """Raises ValueError if the folder holds no snapshot."""
    if not (folder / STATE_FILE).is_file():
        raise ValueError(f"{folder} holds no snapshot: it has no {STATE_FILE}")
    state: dict[str, object] = json.loads((folder / STATE_FILE).read_text())
    return state


def load_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Into the model, in its own precision; returns the roots by the parameter's name.

    The heads that follow a teacher may be left out.
    """
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("part-*.safetensors")):
        tensors |= load_file(path)
    roots = {
        name.removeprefix(_ROOT): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(_ROOT)
    }
    own = model.state_dict()
    load_strict(
        model,
        {n: t.to(own[n].dtype) if n in own else t for n, t in tensors.items()},
        allowed_missing=sorted(_tied(model)),
        allowed_unknown=("vision_encoder.clip_decoder.*",),
    )
    return roots


def load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, roots: dict[str, Tensor], *, step: int
) -> None:
    """Second moments as they were, first moments at zero."""
    for name, parameter in model.named_parameters():
        if name in roots:
            root = roots[name].to(parameter.device, torch.float32)
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": root.square(),
            }


def _tied(model: nn.Module) -> set[str]:
    """Second names of parameters."""
    named = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    return set(model.state_dict()) - set(named)


def _small(name: str, tensor: Tensor) -> Tensor:
    sensitive = name.rsplit(".", 1)[-1] in STATE_SPACE_AND_EMBEDDING_NAMES
    if tensor.ndim < 2 or sensitive or not tensor.is_floating_point():
        return tensor.contiguous()
    return tensor.to(torch.float16).contiguous()


def _parts(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    part: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if part and size + sum(t.numel() * t.element_size() for t in part.values()) > _MOST_BYTES:
            yield part
            part = {}
        part[name] = tensor
    yield part
