"""Which model `--model` means: one place for every command that embeds."""

from collections.abc import Callable
from pathlib import Path

import torch

from reelscan.models.encoder import Encoder, VideoTextEncoder
from reelscan.models.model_directory import load_model
from reelscan.models.openclip_encoder import load_openclip_encoder
from reelscan.models.pretrained import (
    PUBLISHED_FILE,
    PUBLISHED_REPOSITORY,
    convert_cached,
    find_pretrained,
)

DEMO = "demo"
DEMO_MODEL = Path("demo-run/pretrain/model")
HUB = "hub:"
OPEN_CLIP = "open_clip:"
WAYS = (
    "give a model directory, a published weight file (.pth, .safetensors), hub:OWNER/NAME/FILE, "
    "or demo"
)


def choose_encoder(
    name: str | Path | None,
    *,
    device: torch.device | str,
    on_notice: Callable[[str], None] | None = None,
) -> VideoTextEncoder:
    """The encoder that `name` means (see `choose_model`), on a device, ready to embed."""
    return load_model(choose_model(name, on_notice=on_notice), device=device)


def choose_any_encoder(
    name: str | Path,
    *,
    device: torch.device | str,
    frames: int = 8,
    on_notice: Callable[[str], None] | None = None,
) -> Encoder:
    """As `choose_encoder`; also "open_clip:MODEL:WEIGHTS", which looks at `frames` of a clip."""
    if not isinstance(name, str) or not name.startswith(OPEN_CLIP):
        return choose_encoder(name, device=device, on_notice=on_notice)
    model, weights = check_open_clip(name)
    return load_openclip_encoder(model, weights=weights, device=device, frames=frames)


def check_open_clip(name: str) -> tuple[str, str]:
    """The model and weights of "open_clip:MODEL:WEIGHTS"; raises ValueError if they are not."""
    model, _, weights = name.removeprefix(OPEN_CLIP).partition(":")
    if not model or not weights:
        raise ValueError(
            f"{name} should be {OPEN_CLIP}MODEL:WEIGHTS, such as "
            f"{OPEN_CLIP}ViT-B-32:laion2b_s34b_b79k or {OPEN_CLIP}ViT-B-32:path/to/weights.pt"
        )
    return model, weights


def choose_model(
    name: str | Path | None, *, on_notice: Callable[[str], None] | None = None
) -> Path:
    """The model directory that `name` means.

    - None: the published 25M video-text model, fetched from the Hub and converted once;
    - "demo": the one that `reelscan demo` left in this folder;
    - "hub:OWNER/NAME": a model directory on the Hub; "hub:OWNER/NAME/FILE": a weight file there;
    - a model directory, or a weight file, which is converted once into the user's cache.

    `on_notice` is told what takes long. Raises ValueError and OSError that tell what to give.
    """
    if name is None:
        return find_pretrained(PUBLISHED_REPOSITORY, file=PUBLISHED_FILE, on_notice=on_notice)
    if name == DEMO:
        return _demo()
    if isinstance(name, str) and name.startswith(HUB):
        return _hub(name, on_notice)
    path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        return convert_cached(path, on_notice=on_notice)
    raise FileNotFoundError(f"--model {name}: there is no such file or folder; {WAYS}")


def _demo() -> Path:
    if not (DEMO_MODEL / "config.json").is_file():
        raise FileNotFoundError(
            f"--model demo: {DEMO_MODEL} is not in this folder; run `reelscan demo` here first "
            "(minutes on a CPU, no network), or give the path of a model directory"
        )
    return DEMO_MODEL


def _hub(name: str, on_notice: Callable[[str], None] | None) -> Path:
    owner, _, rest = name.removeprefix(HUB).partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository:
        raise ValueError(f"--model {name}: name a repository and a file; {WAYS}")
    return find_pretrained(f"{owner}/{repository}", file=file or None, on_notice=on_notice)
