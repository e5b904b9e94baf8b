"""Which implementation computes a selective scan: decided here and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal, get_args

import torch

ScanBackend = Literal["cuda", "fused", "chunked", "mamba_ssm", "reference"]
"""cuda: our GPU kernels. fused: compiled by Numba, for a CPU. chunked: plain PyTorch, anywhere.
mamba_ssm: the published GPU kernels, if installed. reference: a plain loop, to compare with.
"""
_wanted: ScanBackend | None = None


def use_scan(backend: ScanBackend | None) -> None:
    """Let every scan of this process that names no backend take this one; None: the best there is.

    Raises ValueError for a name that is none; what the backend cannot do is said when it is used.
    """
    if backend is not None and backend not in get_args(ScanBackend):
        raise ValueError(f"scan is {backend!r}; choose {', '.join(get_args(ScanBackend))}")
    global _wanted
    _wanted = backend


@contextmanager
def scanning_by(backend: ScanBackend | None) -> Iterator[None]:
    """`use_scan` for a while; None leaves the choice as it is."""
    before = _wanted
    use_scan(backend or before)
    try:
        yield
    finally:
        use_scan(before)


def wanted_backend() -> ScanBackend | None:
    """What `use_scan` was told last."""
    return _wanted


def default_backend(device: torch.device, dtype: torch.dtype) -> tuple[ScanBackend, str]:
    """What computes a scan in this dtype there, and why; `dtype` is float32 or wider."""
    if _wanted is not None:
        return _wanted, "chosen by use_scan"
    if dtype != torch.float32 or device.type not in ("cpu", "cuda"):
        return "chunked", f"plain PyTorch, for {dtype} on {device.type}"
    if device.type == "cuda":
        obstacle = _why_not_cuda()
        if obstacle:
            return "chunked", f"plain PyTorch, for the GPU kernels cannot run: {obstacle}"
        return "cuda", "our GPU kernels"
    obstacle = _why_not_fused()
    if obstacle:
        return "chunked", f"plain PyTorch, for Numba does not import: {obstacle}"
    return "fused", "compiled by Numba, for torch.float32 on cpu"


def uses_gpu_kernels(tensor: torch.Tensor) -> bool:
    """Whether our GPU kernels compute what is made of this tensor."""
    if tensor.device.type != "cuda" or tensor.dtype == torch.float64:
        return False
    return default_backend(tensor.device, torch.float32)[0] == "cuda"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _why_not_cuda() -> str | None:
    # Only here, for it is of use beside a GPU alone.
    from reelscan.models import scan_cuda

    return scan_cuda.why_not_available()


@cache
def _why_not_fused() -> str | None:
    try:
        import reelscan.models.scan_fused  # noqa: F401
    except ImportError as error:
        return str(error)
    return None
