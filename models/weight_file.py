"""A weight file: its names and shapes at once, its numbers when asked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from reelscan.models.inert_pickle import Inert, TensorRef
from reelscan.models.pickle_names import InertPickleError, printable
from reelscan.models.torch_file import TorchFile, check_place, open_torch_file

WRAPPERS = ("model", "module", "state_dict", "model_state_dict")
"""Keys under which training scripts put the state dict."""
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers of modules put before every name."""
REMEDY = "save model.state_dict() or {'model': model.state_dict()}"
_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What a weight file holds."""

    path: Path
    """The file."""
    container: Literal["safetensors", "torch"]
    """Its format."""
    shapes: dict[str, tuple[int, ...]]
    """Names and shapes of the tensors."""
    dtypes: dict[str, str]
    """Their types as torch names them, such as "float32"."""
    extras: tuple[str, ...]
    """What lies beside the tensors and is left out: names and kinds."""
    _torch: TorchFile | None = None
    _refs: dict[str, TensorRef] | None = None

    def load(self) -> dict[str, Tensor]:
        """The tensors, on the CPU. Raises ValueError for a damaged file."""
        try:
            if self._torch is not None and self._refs is not None:
                return self._torch.read(self._refs)
            return load_file(self.path)
        except InertPickleError as error:
            raise _refused(self.path, error) from error
        except SafetensorError as error:
            raise _damaged(self.path, error) from error


def open_weights(path: str | PathLike[str]) -> WeightFile:
    """Read a weight file's names and shapes, from .safetensors or a file of `torch.save`.

    Nothing in it is run. Raises FileNotFoundError, and ValueError for a file that is refused,
    damaged or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file; give a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    try:
        file = open_torch_file(path)
        tensors, extras = _state_dict(file.content, path)
        for ref in tensors.values():
            check_place(ref, file.places)
    except InertPickleError as error:
        raise _refused(path, error) from error
    return WeightFile(
        path=path,
        container="torch",
        shapes={name: ref.shape for name, ref in tensors.items()},
        dtypes={name: ref.dtype for name, ref in tensors.items()},
        extras=extras,
        _torch=file,
        _refs=tensors,
    )


def _open_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
    except SafetensorError as error:
        raise _damaged(path, error) from error
    return WeightFile(
        path=path,
        container="safetensors",
        shapes=shapes,
        dtypes={name: _SAFETENSORS_DTYPES.get(kind, kind) for name, kind in dtypes.items()},
        extras=(),
    )


def _state_dict(content: object, path: Path) -> tuple[dict[str, TensorRef], tuple[str, ...]]:
    """The tensors under their bare names, and what was left out on the way."""
    extras: list[str] = []
    while isinstance(content, Mapping):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        extras += [_described(name, value) for name, value in content.items() if name != key]
        content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: holds {_kind(content)}, not a state dict; {REMEDY}")
    tensors = {str(name): ref for name, ref in content.items() if isinstance(ref, TensorRef)}
    others = {name: value for name, value in content.items() if not isinstance(value, TensorRef)}
    if not tensors:
        found = ", ".join(_described(*item) for item in list(others.items())[:8]) or "it is empty"
        raise ValueError(f"{path}: not a state dict, {found}; {REMEDY}")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): ref for name, ref in tensors.items()}
    return tensors, (*extras, *(_described(*item) for item in others.items()))


def _described(name: object, value: object) -> str:
    return f"{printable(str(name), limit=40)} ({_kind(value)})"


def _kind(value: object) -> str:
    if isinstance(value, Inert):
        return str(value.kind)
    if isinstance(value, TensorRef):
        return "a tensor"
    if isinstance(value, Mapping | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _refused(path: Path, error: InertPickleError) -> ValueError:
    return ValueError(
        f"{path}: refused, {error}. Nothing in it was run. If it comes from someone you trust, "
        "convert it to .safetensors where it was made: "
        "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
    )


def _damaged(path: Path, error: SafetensorError) -> ValueError:
    return ValueError(
        f"{path}: not a readable safetensors file ({error}); it may be cut short or damaged: "
        "copy or download it again"
    )
