"""The files of a model folder, whatever the model: config.json, weights, golden embedding.

The fingerprint in config.json covers the configuration, the preprocessing, the vocabulary and
every weight; it tells an index which model its vectors came from.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from reelscan.models.atomic_directory import atomic_directory, previous_folder
from reelscan.models.golden_embedding import GOLDEN_FILE, GoldenVectors, write_golden
from reelscan.models.tokenizer import Tokenizer

FORMAT, VISION_FORMAT = "reelscan-model", "reelscan-vision-model"
FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE = "config.json", "model.safetensors", "vocab.txt"
OWN_FILES = frozenset((CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE, GOLDEN_FILE))
ALLOWED_FILES = frozenset(("README.md", ".gitattributes"))
"""What a hub adds to a model folder; replaced with it."""


def write_folder(
    path: Path,
    parts: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    *,
    format_name: str,
    tokenizer: Tokenizer | None,
    golden: GoldenVectors,
) -> str:
    """Write a model folder in one step and return its fingerprint. Raises FileExistsError."""
    check_replaceable(path)
    found = fingerprint(parts, tokenizer, tensors)
    header = {"format": format_name, "format_version": FORMAT_VERSION, "fingerprint": found}
    with atomic_directory(path) as folder:
        content = header | {"golden": True} | dict(parts)
        (folder / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n")
        save_file(dict(tensors), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        # safetensors makes files that only their owner can read.
        shutil.copymode(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
        write_golden(folder, golden, fingerprint=found)
        if tokenizer is not None:
            tokenizer.save(folder / VOCABULARY_FILE)
    return found


def fingerprint(
    parts: Mapping[str, object], tokenizer: Tokenizer | None, tensors: Mapping[str, Tensor]
) -> str:
    """sha256 of the parts' json as written, the vocabulary, and names, types, shapes and bytes."""
    names = sorted(tensors)
    content = {
        "parts": dict(parts),
        "vocabulary": None if tokenizer is None else tokenizer.vocabulary,
        "tensors": [(name, str(tensors[name].dtype), list(tensors[name].shape)) for name in names],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in names:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_unaltered(path: Path, *, written: str, found: str) -> None:
    """Raise ValueError unless the files' fingerprint is the one in config.json."""
    if found != written:
        raise ValueError(
            f"{path}: refused, its files are not as they were saved together (fingerprint "
            f"{found[:12]} instead of {written[:12]}); one was altered, damaged "
            "or exchanged: copy the whole folder again from where it was made"
        )


def check_replaceable(path: Path) -> None:
    """Raise FileExistsError unless `path` is free, empty or a model folder without other files."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        read_config(path, (FORMAT, VISION_FORMAT))
        others = sorted({entry.name for entry in path.iterdir()} - OWN_FILES - ALLOWED_FILES)
    except (ValueError, FileNotFoundError) as error:
        raise FileExistsError(
            f"{path} exists and is no model folder; choose another path or remove it"
        ) from error
    if others:
        raise FileExistsError(
            f"{path} holds other files too ({', '.join(others[:5])}), which replacing it would "
            "delete; choose another path or move them"
        )


def read_config(path: Path, formats: Sequence[str]) -> dict[str, object]:
    """config.json of a model folder in a format and version that can be read.

    Raises FileNotFoundError without a folder, ValueError for all else.
    """
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
    if not isinstance(written, dict) or written.get("format") not in (FORMAT, VISION_FORMAT):
        raise ValueError(
            f"{path}: not a model folder of reelscan, {CONFIG_FILE} has no "
            f'"format": "{FORMAT}"; give a folder that save_model wrote'
        )
    if written["format"] not in formats:
        raise ValueError(_OTHER_KIND[written["format"]].format(path=path))
    version = written.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {version!r}, this version of reelscan reads "
            f"{FORMAT_VERSION}; upgrade reelscan if it is newer"
        )
    return written


def check_files(path: Path, names: Sequence[str]) -> None:
    """Raise ValueError if one of these is not in the folder."""
    for name in names:
        if not (path / name).is_file():
            raise ValueError(f"{path}: no {name} in this model folder; copy the whole folder again")


_OTHER_KIND = {
    VISION_FORMAT: "{path} holds a video encoder alone, which cannot embed texts; use a video-text "
    "model, or pretrain one from it (`reelscan pretrain --initial-model {path} --initial-part "
    "vision_encoder`)",
    FORMAT: "{path} holds a video-text model, not a video encoder alone; read it with load_model",
}
