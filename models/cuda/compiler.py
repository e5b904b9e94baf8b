"""CUDA C++ to machine code through NVRTC, a library that comes with PyTorch's CUDA builds.

No compiler is needed where reelscan is installed. What was compiled is kept in
`$REELSCAN_CACHE/kernels`, by default `~/.cache/reelscan/kernels`.
"""

import ctypes
import hashlib
import importlib.util
import os
from functools import cache
from pathlib import Path

import torch

from reelscan.models.atomic_file import write_atomically

OPTIONS = ("--std=c++17", "--use_fast_math", "--extra-device-vectorization", "-default-device")


class KernelError(RuntimeError):
    """A kernel could not be compiled, loaded or launched."""


def compiled_kernel(source: str, *, capability: tuple[int, int]) -> bytes:
    """Machine code for a GPU of this compute capability, from the cache where it is there.

    A GPU newer than NVRTC gets PTX, which its driver compiles. Raises KernelError.
    """
    library = nvrtc()
    options = (*OPTIONS, f"--gpu-architecture={_architecture(library, capability)}")
    key = hashlib.sha256("\n".join([_nvrtc_version(library), *options, source]).encode())
    kept = kernel_cache_folder() / f"{key.hexdigest()}.bin"
    try:
        return kept.read_bytes()
    except OSError:
        code = _compile(library, source, options)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, code)
    except OSError:
        pass  # A cache that cannot be written costs the next process some seconds, no more.
    return code


def kernel_cache_folder() -> Path:
    """Where compiled kernels are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("REELSCAN_CACHE") or Path(home) / "reelscan") / "kernels"


@cache
def nvrtc() -> ctypes.CDLL:
    """The library. Raises KernelError naming what to install."""
    tried = []
    for candidate in _nvrtc_candidates():
        try:
            if isinstance(candidate, Path):
                # NVRTC opens these by name alone; loaded before, they are found wherever they lie.
                for builtins in candidate.parent.glob("libnvrtc-builtins.so.*"):
                    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(candidate))
        except OSError as error:
            tried.append(f"{candidate}: {error}")
    major = (torch.version.cuda or "13").split(".")[0]
    raise KernelError(
        f"NVRTC was not found; install it with: pip install nvidia-cuda-nvrtc"
        f"{'' if int(major) >= 13 else '-cu' + major} (tried {'; '.join(tried)})"
    )


def _nvrtc_candidates() -> list[Path | str]:
    """In PyTorch's own packages first, then wherever the system looks."""
    majors = [torch.version.cuda.split(".")[0]] if torch.version.cuda else ["13", "12"]
    found: list[Path | str] = []
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for major in majors:
            for inside in (f"cu{major}", "cuda_nvrtc"):
                library = Path(folder) / inside / "lib" / f"libnvrtc.so.{major}"
                if library.exists():
                    found.append(library)
    return found + [f"libnvrtc.so.{major}" for major in majors]


def _nvrtc_version(library: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _architecture(library: ctypes.CDLL, capability: tuple[int, int]) -> str:
    count = ctypes.c_int()
    library.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    supported = (ctypes.c_int * count.value)()
    library.nvrtcGetSupportedArchs(supported)
    wanted = 10 * capability[0] + capability[1]
    if wanted in supported:
        return f"sm_{wanted}"
    known = [architecture for architecture in supported if architecture < wanted]
    if not known:
        raise KernelError(
            f"this GPU has compute capability {capability[0]}.{capability[1]}; NVRTC "
            f"{_nvrtc_version(library)} compiles for {min(supported) / 10} and newer"
        )
    return f"compute_{max(known)}"


def _compile(library: ctypes.CDLL, source: str, options: tuple[str, ...]) -> bytes:
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), given) != 0:
            log = _read(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            raise KernelError(f"NVRTC could not compile a kernel:\n{log.decode(errors='replace')}")
        if options[-1].startswith("--gpu-architecture=compute_"):
            return _read(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program)
        return _read(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(size_of: object, read: object, program: ctypes.c_void_p) -> bytes:
    assert callable(size_of) and callable(read)
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    read(program, buffer)
    return buffer.raw
