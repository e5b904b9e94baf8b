"""Which model `--model` means: one place for every command that embeds."""

from pathlib import Path

import torch

from reelscan.models.encoder import VideoTextEncoder
from reelscan.models.model_directory import load_model

DEMO = "demo"
DEMO_MODEL = Path("demo-run/pretrain/model")
PUBLISHED_REPOSITORY = "OpenGVLab/VideoMamba"
PUBLISHED_FILE = "videomamba_m16_25M_f8_res224.pth"
WAYS = (
    "give a model directory, a published weight file (.pth, .safetensors), hub:OWNER/NAME/FILE, "
    "or demo"
)


def choose_encoder(name: str | Path | None, *, device: torch.device | str) -> VideoTextEncoder:
    """The encoder that `name` means (see `choose_model`), on a device, ready to embed."""
    return load_model(choose_model(name), device=device)


def choose_model(name: str | Path | None) -> Path:
    """The model directory that `name` means.

    None is the published 25M video-text model, "demo" the one that `reelscan demo` left in this
    folder, anything else a path. Raises ValueError and FileNotFoundError that tell what to give.
    """
    if name is None:
        return _published()
    if name == DEMO:
        return _demo()
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(f"--model {name}: there is no such file or folder; {WAYS}")
    return path


def _demo() -> Path:
    if not (DEMO_MODEL / "config.json").is_file():
        raise FileNotFoundError(
            f"--model demo: {DEMO_MODEL} is not in this folder; run `reelscan demo` here first "
            "(minutes on a CPU, no network), or give the path of a model directory"
        )
    return DEMO_MODEL


def _published() -> Path:
    url = f"https://huggingface.co/{PUBLISHED_REPOSITORY}/resolve/main/{PUBLISHED_FILE}"
    raise FileNotFoundError(
        f"the published model is not on this machine: download {url}, then pass the file with "
        "--model; `--model demo` needs no network (`reelscan demo` makes it)"
    )
