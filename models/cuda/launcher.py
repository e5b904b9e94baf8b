"""Kernels found by name, compiled for the GPU at hand, and launched on PyTorch's current stream."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import torch

from reelscan.models.cuda.arguments import Value, pack_arguments, structure_source
from reelscan.models.cuda.compiler import KernelError, compiled_kernel

FOLDER = Path(__file__).parent
ELEMENTS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Element types of kernels and their number in common.cuh."""

_DYNAMIC_SHARED_BYTES = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_NO_CONTEXT = 201  # CUDA_ERROR_INVALID_CONTEXT
_UNASKED_SHARED_BYTES = 48 * 1024
"""What a block may have without asking."""

Macros = tuple[tuple[str, int], ...]
"""What a kernel is specialised by, sorted by the caller as it likes, but always alike."""


class Kernel(Protocol):
    """Something that runs one kernel."""

    def launch(
        self, values: Mapping[str, Value], *, blocks: int, threads: int, shared_bytes: int = 0
    ) -> None:
        """Queue it on the current stream of the current device."""


@dataclass(frozen=True, kw_only=True)
class KernelSource:
    """A kernel's file in this folder, its name there, its arguments in C, and what it includes."""

    file: str
    name: str
    arguments: str
    headers: tuple[str, ...] = ()

    def text(self, macros: Macros) -> str:
        """All that is compiled."""
        defines = "".join(f"#define {name} {value}\n" for name, value in macros)
        common, *others = (
            (FOLDER / name).read_text() for name in ("common.cuh", *self.headers, self.file)
        )
        return defines + common + structure_source(self.arguments) + "".join(others)


def load_kernel(source: KernelSource, macros: Macros, device: torch.device) -> Kernel:
    """The kernel for that device, compiled where it was not yet. Raises KernelError."""
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _load(source, macros, index)


@cache
def _load(source: KernelSource, macros: Macros, index: int) -> Kernel:
    code = compiled_kernel(source.text(macros), capability=torch.cuda.get_device_capability(index))
    cuda = driver()
    library, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    _make_current(index)
    nothing = (None, None, 0, None, None, 0)
    _check(cuda.cuLibraryLoadData(ctypes.byref(library), code, *nothing), "load")
    _check(cuda.cuLibraryGetKernel(ctypes.byref(kernel), library, source.name.encode()), "find")
    function = ctypes.c_void_p()
    _check(cuda.cuKernelGetFunction(ctypes.byref(function), kernel), "find")
    return _LoadedKernel(source, function, index)


def in_fours(tensor: torch.Tensor) -> bool:
    """Whether rows can be read four elements at a time."""
    if tensor.shape[-1] % 4 or tensor.data_ptr() % (4 * tensor.element_size()):
        return False
    return not any(stride % 4 for stride in tensor.stride()[:-1])


def in_sixteens(tensor: torch.Tensor) -> bool:
    """Whether rows can be copied sixteen bytes at a time."""
    size = tensor.element_size()
    sizes = (tensor.shape[-1] * size, tensor.data_ptr(), *(s * size for s in tensor.stride()[:-1]))
    return not any(number % 16 for number in sizes)


def _make_current(index: int) -> None:
    """Make the device's context that of this thread."""
    with torch.cuda.device(index):
        torch.cuda.synchronize()


@cache
def driver() -> ctypes.CDLL:
    """NVIDIA's driver library. Raises KernelError."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise KernelError(f"NVIDIA's driver was not found: {error}") from error


def _check(result: int, doing: str) -> None:
    if result != 0:
        text = ctypes.c_char_p()
        driver().cuGetErrorString(result, ctypes.byref(text))
        reason = (text.value or b"unknown").decode()
        raise KernelError(f"could not {doing} a kernel: CUDA error {result}, {reason}")


class _LoadedKernel:
    def __init__(self, source: KernelSource, function: ctypes.c_void_p, index: int) -> None:
        self._source = source
        self._function = function
        self._index = index
        self._shared_bytes = _UNASKED_SHARED_BYTES

    def launch(
        self, values: Mapping[str, Value], *, blocks: int, threads: int, shared_bytes: int = 0
    ) -> None:
        library = driver()
        if shared_bytes > self._shared_bytes:
            attribute = library.cuFuncSetAttribute
            _check(attribute(self._function, _DYNAMIC_SHARED_BYTES, shared_bytes), "set up")
            self._shared_bytes = shared_bytes
        arguments = pack_arguments(self._source.arguments, values)
        parameters = (ctypes.c_char_p * 1)(arguments)
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._index).cuda_stream)
        how = (blocks, 1, 1, threads, 1, 1, shared_bytes, stream, parameters, None)
        result = library.cuLaunchKernel(self._function, *how)
        if result == _NO_CONTEXT:  # This thread has not used the device yet.
            _make_current(self._index)
            result = library.cuLaunchKernel(self._function, *how)
        _check(result, "launch")
