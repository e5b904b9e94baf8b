"""Reading weight files, and loading them into a module without leaving anything unsaid."""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path

# Only the name of what torch raises on a refused file; nothing is unpickled with it.
from pickle import UnpicklingError  # noqa: TID251

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

SHOWN_NAMES = 8

# What torch's restricted unpickler was seen to raise on refused, cut and altered files.
_UNREADABLE = (
    UnpicklingError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    AssertionError,
    OverflowError,
    struct.error,
)


def load_weights(path: str | PathLike[str]) -> dict[str, Tensor]:
    """A state dict, on the CPU, from a .safetensors file or a file of `torch.save`.

    What training scripts wrap around it ("model", "module") is taken off. Code in a pickled file
    is never run. Raises FileNotFoundError, and ValueError for a file that holds anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file; give a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    content = _load_torch(path)
    while isinstance(content, Mapping) and isinstance(_wrapped(content), Mapping):
        content = _wrapped(content)
    return _only_tensors(content, path)


def count_parameters(path: str | PathLike[str]) -> int:
    """Floating-point numbers in a .safetensors file, from its header alone. Raises ValueError."""
    try:
        with safe_open(path, "pt") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 (no dict)
    except SafetensorError as error:
        raise _damaged(Path(path), error) from error
    return sum(math.prod(part.get_shape()) for part in slices if "F" in part.get_dtype())


def _wrapped(content: Mapping[object, object]) -> object:
    return content.get("model", content.get("module"))


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(
        f"{path}: not a readable safetensors file ({error}); it may be cut short or damaged: "
        "copy or download it again"
    )


def _load_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{path}: refused, because it holds more than plain tensors or is damaged "
            f"({reason[0][:200]}). Nothing in it was run. If it comes from someone you trust, "
            "convert it to .safetensors where it was made: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error


def _only_tensors(content: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise ValueError(
            f"{path}: holds a {type(content).__name__}, not a state dict; "
            "save model.state_dict() or {'model': model.state_dict()}"
        )
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise ValueError(
            f"{path}: not a state dict, {_listed(others) if others else 'it is empty'}; "
            "save model.state_dict() or {'model': model.state_dict()}"
        )
    return {str(name): tensor for name, tensor in content.items()}


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What was allowed to differ, and did."""

    missing: tuple[str, ...]
    """Names of the module that the weights lack; they keep their initial values."""
    unknown: tuple[str, ...]
    """Names in the weights that the module lacks; they were left out."""


def load_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    allowed_missing: Sequence[str] = (),
    allowed_unknown: Sequence[str] = (),
) -> LoadReport:
    """Load a state dict whose names and shapes must fit the module's.

    `allowed_*` hold names or patterns such as "text_encoder.cls.*". Raises ValueError with every
    missing, unknown and misshapen name; the module is then as it was.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    refused_missing = [name for name in missing if not _fits(name, allowed_missing)]
    refused_unknown = [name for name in unknown if not _fits(name, allowed_unknown)]
    misshapen = [
        f"{name} {list(tensor.shape)} instead of {list(own[name].shape)}"
        for name, tensor in state.items()
        if name in own and tensor.shape != own[name].shape
    ]
    complaints = {
        "missing": [f"{name} {list(own[name].shape)}" for name in refused_missing],
        "unknown": [f"{name} {list(state[name].shape)}" for name in refused_unknown],
        "of another shape": misshapen,
    }
    lines = [
        f"\n  {len(names)} {what}: {_listed(names)}" for what, names in complaints.items() if names
    ]
    if lines:
        raise ValueError(
            f"the weights do not fit this {type(module).__name__}:{''.join(lines)}\n"
            "  check that the model's configuration is the one that these weights were made with"
        )
    # Not strict, since all names were checked above and some are allowed to be missing.
    module.load_state_dict({n: t for n, t in state.items() if n in own}, strict=False)
    return LoadReport(missing=tuple(missing), unknown=tuple(unknown))


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")
