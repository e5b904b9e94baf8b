"""A video encoder alone as a folder: config.json and model.safetensors."""

from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch

from reelscan.models.golden_embedding import check_golden, golden_vectors, read_golden
from reelscan.models.model_files import (
    CONFIG_FILE,
    FORMAT,
    VISION_FORMAT,
    WEIGHTS_FILE,
    check_files,
    check_unaltered,
    fingerprint,
    read_config,
    write_folder,
)
from reelscan.models.plain_config import from_plain
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_model import VisionModel
from reelscan.models.weights import count_parameters, load_weights

_PARTS = ("model", "classes", "preprocessing")


@dataclass(frozen=True, kw_only=True)
class VisionDescription:
    """What config.json holds."""

    format: str
    format_version: int
    fingerprint: str
    model: VideoMambaConfig
    preprocessing: Preprocessing
    classes: int = 0
    golden: bool = False


@dataclass(frozen=True, kw_only=True)
class LoadedVisionModel:
    """A video encoder ready to use."""

    model: VisionModel
    """In eval mode, on the device."""
    preprocessing: Preprocessing
    """How frames have to be prepared."""
    fingerprint: str
    """Of everything that decides its features."""


@dataclass(frozen=True, kw_only=True)
class VisionSummary:
    """What can be said about a folder without loading it."""

    path: Path
    """The folder."""
    fingerprint: str
    """As written; only loading verifies it."""
    parameters: int
    """Numbers learned."""
    weights_bytes: int
    """Size of the weight file."""
    classes: int
    """Outputs of the classifier's head; 0 without one."""
    config: VideoMambaConfig
    """Everything else."""


def is_vision_folder(path: Path) -> bool:
    """Whether this is a folder of `save_vision_model`; errors as in `load_vision_model`."""
    return read_config(path, (FORMAT, VISION_FORMAT))["format"] == VISION_FORMAT


def inspect_vision_model(path: str | PathLike[str]) -> VisionSummary:
    """Describe a folder from its config and the header of its weights."""
    path = Path(path)
    _, description = read_vision_description(path)
    return VisionSummary(
        path=path,
        fingerprint=description.fingerprint,
        parameters=count_parameters(path / WEIGHTS_FILE),
        weights_bytes=(path / WEIGHTS_FILE).stat().st_size,
        classes=description.classes,
        config=description.model,
    )


def save_vision_model(
    model: VisionModel, preprocessing: Preprocessing, path: str | PathLike[str]
) -> str:
    """Write a folder and return its fingerprint; errors as in `save_model`."""
    _check_frames(model.config, preprocessing)
    tensors = {n: t.detach().cpu().contiguous() for n, t in model.stored_state().items()}
    parts = {
        "model": asdict(model.config),
        "classes": model.classes,
        "preprocessing": asdict(preprocessing),
    }
    golden = golden_vectors(model, None, preprocessing)
    return write_folder(
        Path(path), parts, tensors, format_name=VISION_FORMAT, tokenizer=None, golden=golden
    )


def load_vision_model(
    path: str | PathLike[str], *, device: torch.device | str = "cpu", verify_golden: bool = True
) -> LoadedVisionModel:
    """Read a folder of `save_vision_model`; errors and `verify_golden` as in `load_model`."""
    path = Path(path)
    written, description = read_vision_description(path)
    tensors = load_weights(path / WEIGHTS_FILE)
    found = fingerprint({part: written[part] for part in _PARTS}, None, tensors)
    check_unaltered(path, written=description.fingerprint, found=found)
    with torch.random.fork_rng(devices=[]):
        model = VisionModel(description.model, classes=description.classes)
    model.load_stored(tensors)
    model.to(device).eval()
    if description.golden and verify_golden:
        stored = read_golden(path, fingerprint=found)
        vectors = golden_vectors(model, None, description.preprocessing)
        check_golden(vectors, stored, autocast=False, where=str(path))
    return LoadedVisionModel(
        model=model, preprocessing=description.preprocessing, fingerprint=found
    )


def read_vision_description(path: Path) -> tuple[dict[str, object], VisionDescription]:
    """config.json as written, and checked; the weights are there."""
    written = read_config(path, (VISION_FORMAT,))
    description = from_plain(VisionDescription, written, where=str(path / CONFIG_FILE))
    check_files(path, (WEIGHTS_FILE,))
    _check_frames(description.model, description.preprocessing)
    return written, description


def _check_frames(config: VideoMambaConfig, preprocessing: Preprocessing) -> None:
    given = preprocessing.frames, preprocessing.size
    if given != (config.frames, config.image_size):
        raise ValueError(
            f"preprocessing gives {given[0]} frames of {given[1]} px, the encoder takes "
            f"{config.frames} of {config.image_size}; make them equal"
        )
