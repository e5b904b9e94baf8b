"""Reading weight files, and loading them into a module without leaving anything unsaid."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path

from torch import Tensor, nn

SHOWN_NAMES = 8


def load_weights(path: str | PathLike[str]) -> dict[str, Tensor]:
    """A state dict, on the CPU, from a .safetensors file or a file of `torch.save`.

    What training scripts wrap around it ("model", "module") is taken off, what lies beside it
    (settings, optimiser) left out. Nothing in a pickled file is ever run. Raises
    FileNotFoundError, and ValueError for a file that is refused or holds no state dict.
    """
    # Only here and below: a model in training does without the libraries that read files.
    from reelscan.models.weight_file import open_weights

    return open_weights(path).load()


def count_parameters(path: str | PathLike[str]) -> int:
    """Floating-point numbers in a .safetensors file, from its header alone. Raises ValueError."""
    from reelscan.models.weight_file import open_weights

    file = open_weights(Path(path))
    return sum(
        math.prod(shape) for name, shape in file.shapes.items() if "float" in file.dtypes[name]
    )


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
