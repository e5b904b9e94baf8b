"""A model as a folder: config.json, model.safetensors and vocab.txt, which belong together.

The fingerprint in config.json covers the configuration, the preprocessing, the vocabulary and
every weight; it tells an index which model its vectors came from.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from reelscan.models.atomic_directory import atomic_directory, previous_folder
from reelscan.models.encoder import VideoTextEncoder, check_fit
from reelscan.models.plain_config import from_plain
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.weights import count_parameters, load_strict, load_weights

FORMAT = "reelscan-model"
FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE = "config.json", "model.safetensors", "vocab.txt"


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What config.json holds."""

    format: str
    format_version: int
    fingerprint: str
    model: VideoTextConfig
    preprocessing: Preprocessing


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
    return _fingerprint(
        {"model": asdict(model.config), "preprocessing": asdict(preprocessing)},
        tokenizer,
        _stored_tensors(model),
    )


def save_model(
    model: VideoTextModel,
    tokenizer: Tokenizer,
    preprocessing: Preprocessing,
    path: str | PathLike[str],
) -> str:
    """Write a model folder and return its fingerprint.

    A model folder at `path` is replaced: at any moment there is the old or the new one. Raises
    ValueError for parts that do not fit together, FileExistsError for anything else at `path`.
    """
    path = Path(path)
    check_fit(model.config, tokenizer=tokenizer, preprocessing=preprocessing)
    _check_replaceable(path)
    parts = {"model": asdict(model.config), "preprocessing": asdict(preprocessing)}
    tensors = _stored_tensors(model)
    fingerprint = _fingerprint(parts, tokenizer, tensors)
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "fingerprint": fingerprint}
    with atomic_directory(path) as folder:
        (folder / CONFIG_FILE).write_text(json.dumps(header | parts, indent=2) + "\n")
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        # safetensors makes files that only their owner can read.
        shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
        tokenizer.save(folder / VOCABULARY_FILE)
    return fingerprint


def load_model(
    path: str | PathLike[str], *, device: torch.device | str = "cpu"
) -> VideoTextEncoder:
    """Read a model folder, ready to embed.

    Raises FileNotFoundError without a folder at `path`, and ValueError if it is no model folder,
    comes from a newer version, or is not as it was saved.
    """
    path = Path(path)
    written, description = _read_description(path)
    tokenizer = Tokenizer.from_file(path / VOCABULARY_FILE)
    tensors = load_weights(path / WEIGHTS_FILE)
    found = _fingerprint(written, tokenizer, tensors)
    if found != description.fingerprint:
        raise ValueError(
            f"{path}: refused, its files are not as they were saved together (fingerprint "
            f"{found[:12]} instead of {description.fingerprint[:12]}); one was altered, damaged "
            "or exchanged: copy the whole folder again from where it was made"
        )
    with torch.random.fork_rng(devices=[]):
        model = VideoTextModel(description.model)
    tied = model.state_dict().keys() - _stored_tensors(model).keys()
    load_strict(model, tensors, allowed_missing=tuple(tied))
    return VideoTextEncoder(
        model, tokenizer, description.preprocessing, fingerprint=found, device=device
    )


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


def _fingerprint(
    parts: Mapping[str, object], tokenizer: Tokenizer, tensors: Mapping[str, Tensor]
) -> str:
    """sha256 of the parts' json as written, the vocabulary, and names, types, shapes and bytes."""
    names = sorted(tensors)
    content = {
        "parts": {part: parts[part] for part in ("model", "preprocessing")},
        "vocabulary": tokenizer.vocabulary,
        "tensors": [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in names:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_replaceable(path: Path) -> None:
    """Raise FileExistsError unless `path` is free, empty or a model folder without other files."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        _read_config(path)
        own = {CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE}
        others = sorted({entry.name for entry in path.iterdir()} - own)
    except (ValueError, FileNotFoundError) as error:
        raise FileExistsError(
            f"{path} exists and is no model folder; choose another path or remove it"
        ) from error
    if others:
        raise FileExistsError(
            f"{path} holds other files too ({', '.join(others[:5])}), which replacing it would "
            "delete; choose another path or move them"
        )


def _read_description(path: Path) -> tuple[dict[str, object], _Description]:
    """config.json as written, and checked; the other two files are there."""
    written = _read_config(path)
    description = from_plain(_Description, written, where=str(path / CONFIG_FILE))
    for name in (WEIGHTS_FILE, VOCABULARY_FILE):
        if not (path / name).is_file():
            raise ValueError(f"{path}: no {name} in this model folder; copy the whole folder again")
    return written, description


def _read_config(path: Path) -> dict[str, object]:
    """config.json of a model folder in a version that can be read."""
    if not path.exists():
        earlier = previous_folder(path.resolve())
        hint = f"an interrupted save left the earlier one at {earlier}: move it back"
        remedy = hint if earlier.exists() else "give a folder that save_model wrote"
        raise FileNotFoundError(f"{path}: no such model folder; {remedy}")
    try:
        written = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a model folder, its {CONFIG_FILE} cannot be read ({error}); "
            "give a folder that save_model wrote"
        ) from error
    if not isinstance(written, dict) or written.get("format") != FORMAT:
        raise ValueError(
            f"{path}: not a model folder of reelscan, {CONFIG_FILE} has no "
            f'"format": "{FORMAT}"; give a folder that save_model wrote'
        )
    version = written.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version!r}, this version of reelscan reads "
            f"{FORMAT_VERSION}; upgrade reelscan if it is newer"
        )
    return written
