"""A model as a folder: config.json, model.safetensors and vocab.txt, which belong together.

Beside them lies golden.json, what the model gave for a fixed clip and sentence; loading compares.
"""

from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from reelscan.models.encoder import VideoTextEncoder, check_fit
from reelscan.models.golden_embedding import check_golden, golden_vectors, read_golden
from reelscan.models.model_files import (
    CONFIG_FILE,
    FORMAT,
    FORMAT_VERSION,
    VOCABULARY_FILE,
    WEIGHTS_FILE,
    check_files,
    check_replaceable,
    check_unaltered,
    fingerprint,
    read_config,
    write_folder,
)
from reelscan.models.plain_config import from_plain
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.weights import count_parameters, load_strict, load_weights

__all__ = [
    "CONFIG_FILE",
    "FORMAT_VERSION",
    "VOCABULARY_FILE",
    "WEIGHTS_FILE",
    "ModelSummary",
    "fingerprint_of",
    "inspect_model",
    "load_model",
    "save_model",
]


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What config.json holds."""

    format: str
    format_version: int
    fingerprint: str
    model: VideoTextConfig
    preprocessing: Preprocessing
    golden: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """What can be said about a model without loading it."""

    path: Path
    """The folder."""
    fingerprint: str
    """As written; only loading verifies it."""
    parameters: int
    """Numbers learned, tied ones once."""
    weights_bytes: int
    """Size of the weight file."""
    frames: int
    """Frames of a clip."""
    image_size: int
    """Side of a frame in pixels."""
    embed_dim: int
    """Width of the vectors."""
    max_text_tokens: int
    """Tokens of a text."""
    config: VideoTextConfig
    """Everything else."""


def fingerprint_of(
    model: VideoTextModel, *, tokenizer: Tokenizer, preprocessing: Preprocessing
) -> str:
    """The fingerprint that saving these together would give: sha256, 64 hexadecimal digits."""
    parts = {"model": asdict(model.config), "preprocessing": asdict(preprocessing)}
    return fingerprint(parts, tokenizer, _stored_tensors(model))


def save_model(
    model: VideoTextModel,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    path: str | PathLike[str],
) -> str:
    """Write a model folder and return its fingerprint.

    A model folder at `path` is replaced: at any moment there is the old or the new one. Raises
    ValueError for parts that do not fit together or weights that give no numbers,
    FileExistsError for anything else at `path`.
    """
    path = Path(path)
    check_fit(model.config, tokenizer=tokenizer, preprocessing=preprocessing)
    check_replaceable(path)
    return write_folder(
        path,
        {"model": asdict(model.config), "preprocessing": asdict(preprocessing)},
        _stored_tensors(model),
        format_name=FORMAT,
        tokenizer=tokenizer,
        golden=golden_vectors(model, tokenizer, preprocessing),
    )


def load_model(
    path: str | PathLike[str], *, device: torch.device | str = "cpu", verify_golden: bool = True
) -> VideoTextEncoder:
    """Read a model folder, ready to embed.

    `verify_golden` compares what it gives on this device for a fixed clip and sentence with what
    it gave when it was saved. Raises FileNotFoundError without a folder at `path`, and ValueError
    if it is no model folder, comes from a newer version, is not as it was saved, or computes
    something else here.
    """
    path = Path(path)
    written, description = _read_description(path)
    tokenizer = Tokenizer.from_file(path / VOCABULARY_FILE)
    tensors = load_weights(path / WEIGHTS_FILE)
    parts = {part: written[part] for part in ("model", "preprocessing")}
    found = fingerprint(parts, tokenizer, tensors)
    check_unaltered(path, written=description.fingerprint, found=found)
    with torch.random.fork_rng(devices=[]):
        model = VideoTextModel(description.model)
    tied = model.state_dict().keys() - _stored_tensors(model).keys()
    load_strict(model, tensors, allowed_missing=tuple(tied))
    encoder = VideoTextEncoder(
        model, tokenizer, description.preprocessing, fingerprint=found, device=device
    )
    # Batches are of one size, and small models would wait for the host at every launch.
    model.vision_encoder.use_cuda_graphs(encoder.device.type == "cuda")
    if description.golden and verify_golden:
        _verify_golden(encoder, path)
    return encoder


def _verify_golden(encoder: VideoTextEncoder, path: Path) -> None:
    stored = read_golden(path, fingerprint=encoder.fingerprint)
    autocast = encoder.device.type == "cuda"
    parts = encoder.model, encoder.tokenizer, encoder.preprocessing
    vectors = golden_vectors(*parts, autocast=autocast)
    check_golden(vectors, stored, autocast=autocast, where=str(path))


def inspect_model(path: str | PathLike[str]) -> ModelSummary:
    """Describe a model folder from its config and the header of its weights; errors as above."""
    path = Path(path)
    _, description = _read_description(path)
    return ModelSummary(
        path=path,
        fingerprint=description.fingerprint,
        parameters=count_parameters(path / WEIGHTS_FILE),
        weights_bytes=(path / WEIGHTS_FILE).stat().st_size,
        frames=description.preprocessing.frames,
        image_size=description.preprocessing.size,
        embed_dim=description.model.embed_dim,
        max_text_tokens=description.preprocessing.max_text_tokens,
        config=description.model,
    )


def _stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU with tied parameters under their first name only."""
    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            stored[name] = tensor.detach().cpu().contiguous()
    return stored


def _read_description(path: Path) -> tuple[dict[str, object], _Description]:
    """config.json as written, and checked; the other two files are there."""
    written = read_config(path, (FORMAT,))
    description = from_plain(_Description, written, where=str(path / CONFIG_FILE))
    check_files(path, (WEIGHTS_FILE, VOCABULARY_FILE))
    return written, description
