"""`reelscan doctor`: what runs on this machine, and why not."""

import dataclasses
import importlib
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from reelscan import __version__
from reelscan.retrieval.cli.arguments import parse_arguments

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Command:
    """Tells what runs here: device, kernels, decoders, FAISS, optional parts, and why not.

    Examples:
      reelscan doctor
      reelscan doctor --json
    """

    json: bool = False
    """Print json, for a program or a bug report."""


@dataclass(frozen=True)
class Check:
    """One line of the report; `works` is None where the part is optional and absent."""

    part: str
    works: bool | None
    found: str
    remedy: str = ""


def main(arguments: list[str]) -> int:
    """Prints the report; 1 if a part that everything needs does not work."""
    command = parse_arguments(Command, "doctor", arguments)
    checks = [check() for check in CHECKS]
    if command.json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        print(report(checks))
    return 1 if any(check.works is False for check in checks) else 0


def report(checks: list[Check]) -> str:
    marks = {True: "ok", False: "FAILS", None: "-"}
    lines = []
    for check in checks:
        lines.append(f"{marks[check.works]:<6}{check.part:<16}{check.found}")
        if check.remedy:
            lines.append(f"{'':<22}{check.remedy}")
    return "\n".join(lines)


def check_reelscan() -> Check:
    system = f"{platform.system()} {platform.machine()}"
    return Check("reelscan", True, f"{__version__}, Python {platform.python_version()}, {system}")


def check_torch() -> Check:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return Check("torch", True, f"{torch.__version__} ({build}), {threads}")


def check_device() -> Check:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("device", True, f"cuda: {name}, {memory:.0f} GiB")
    if shutil.which("nvidia-smi") and torch.version.cuda is None:
        return Check(
            "device", True, "cpu, though an NVIDIA driver is here",
            "this torch is a CPU build: install the CUDA build of torch to use the GPU",
        )  # fmt: skip
    return Check("device", True, "cpu (no CUDA device)")


def check_scan() -> Check:
    """Runs the scan against its reference once on each device, so that `ok` is a reading."""
    import torch

    from reelscan.models.selective_scan import default_backend

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    found, works = [], True
    for device in map(torch.device, devices):
        name, reason = default_backend(device, torch.float32)
        try:
            worst = scan_error(device)
        except (ValueError, RuntimeError) as error:
            works = False
            found.append(f"{device.type}: {name} ({reason}) does not run: {error}")
            continue
        works = works and worst < 1e-4
        found.append(f"{device.type}: {name}, {worst:.0e} off the reference loop: {reason}")
    return Check("scan", works, "; ".join(found))


def scan_error(device: "torch.device") -> float:
    """How far the scan that is chosen there is off the plain loop."""
    import torch

    from reelscan.models.selective_scan import selective_scan

    generator = torch.Generator().manual_seed(0)
    u, delta = (torch.rand(1, 33, 4, generator=generator).to(device) for _ in range(2))
    b, c = (torch.randn(1, 33, 3, generator=generator).to(device) for _ in range(2))
    a = -torch.rand(4, 3, generator=generator).to(device)
    reference = selective_scan(u, delta, a, b, c, backend="reference").y
    return (selective_scan(u, delta, a, b, c).y - reference).abs().max().item()


def check_published_kernels() -> Check:
    from reelscan.models.scan_mamba_ssm import REMEDY, why_not_available

    obstacle = why_not_available()
    if obstacle is None:
        return Check("mamba kernels", True, 'can be chosen: use_scan("mamba_ssm")')
    found = f"not needed; {obstacle.removesuffix(f'; {REMEDY}')}"
    return Check("mamba kernels", None, found, f"to compare with them: {REMEDY}")


def check_pyav() -> Check:
    import av

    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    codecs = [name for name in ("h264", "hevc", "vp9", "av1") if name in av.codecs_available]
    found = f"PyAV {av.__version__}, libavcodec {ffmpeg}, decodes {', '.join(codecs)}"
    return Check("decoder", "h264" in codecs, found)


def check_opencv() -> Check:
    import cv2

    return Check("decoder 2", True, f"OpenCV {cv2.__version__} (fallback)")


def check_faiss() -> Check:
    import faiss

    return Check("faiss", True, f"{faiss.__version__}, {faiss.get_compile_options().strip()}")


def check_faiss_gpu() -> Check:
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        remedy = "with a GPU: pip install 'reelscan[gpu]'"
        return Check("faiss gpu", None, "this faiss is the CPU build", remedy)
    gpus = faiss.get_num_gpus()
    return Check("faiss gpu", True if gpus else None, f"{gpus} GPUs seen by faiss")


def check_optional(distribution: str, module: str, extra: str) -> Check:
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return Check(distribution, None, "not installed", f"pip install 'reelscan[{extra}]'")
    try:
        from reelscan.models.torchvision_mismatch import importable_torchvision

        importable_torchvision()
        importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        return Check(distribution, None, f"{found}, but it does not import: {error}")
    return Check(distribution, True, found)


def check_disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Check("disk", free > 1, f"{free:.0f} GiB free in {Path.cwd()}")


CHECKS: tuple[Callable[[], Check], ...] = (
    check_reelscan,
    check_torch,
    check_device,
    check_scan,
    check_published_kernels,
    check_pyav,
    check_opencv,
    check_faiss,
    check_faiss_gpu,
    lambda: check_optional("open-clip-torch", "open_clip", "openclip"),
    lambda: check_optional("transformers", "transformers", "hf"),
    lambda: check_optional("pymilvus", "pymilvus", "milvus"),
    lambda: check_optional("fastapi", "fastapi", "serve"),
    lambda: check_optional("uvicorn", "uvicorn", "serve"),
    check_disk,
)
