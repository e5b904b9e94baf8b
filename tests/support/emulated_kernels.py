"""The CUDA kernels compiled for the CPU, so that what they compute is tested without a GPU.

A C++ compiler is needed; `compiler()` tells which one there is.
"""

import ctypes
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from reelscan.models.cuda.arguments import Value, pack_arguments
from reelscan.models.cuda.launcher import Kernel, KernelSource, Macros

HEADER = Path(__file__).parent / "host_emulation.h"


def compiler() -> str | None:
    """A C++ compiler of this machine."""
    return next(
        (found for name in ("g++", "clang++", "c++") if (found := shutil.which(name))), None
    )


class EmulatedKernel:
    """Runs a kernel's blocks one after another on the CPU."""

    def __init__(self, source: KernelSource, run: object) -> None:
        self._source = source
        self._run = run

    def launch(
        self, values: Mapping[str, Value], *, blocks: int, threads: int, shared_bytes: int = 0
    ) -> None:
        assert shared_bytes <= 227 * 1024, f"a block of an H100 has no {shared_bytes} bytes"
        arguments = pack_arguments(self._source.arguments, values)
        assert callable(self._run)
        self._run(arguments, blocks, threads)


@cache
def load_emulated(source: KernelSource, macros: Macros, device: torch.device) -> Kernel:
    """In the place of `launcher.load_kernel`."""
    text = source.text(macros)
    text = f'{text[: text.index("// What the kernels share")]}#include "{HEADER}"\n{text}'
    text += (
        f'\nextern "C" void run(const Arguments* p, int blocks, int threads) '
        f"{{ emulation::run_grid(blocks, threads, [&] {{ {source.name}(*p); }}); }}\n"
    )
    folder = Path(tempfile.gettempdir()) / "reelscan-emulated-kernels"
    folder.mkdir(exist_ok=True)
    key = hashlib.sha256((text + HEADER.read_text()).encode()).hexdigest()[:24]
    library = folder / f"{key}.so"
    if not library.exists():
        code = folder / f"{key}.cpp"
        code.write_text(text)
        command = [str(compiler()), "-std=c++20", "-O1", "-w", "-shared", "-fPIC", "-o"]
        partial = folder / f"{key}.{id(text)}.so"
        built = subprocess.run([*command, str(partial), str(code)], capture_output=True, text=True)
        assert built.returncode == 0, built.stderr[:4000]
        partial.replace(library)
    return EmulatedKernel(source, ctypes.CDLL(str(library)).run)
