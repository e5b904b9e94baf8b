"""What a collection was made with: the encoder, its preprocessing and the windows."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from reelscan.index.windowing import Windowing, windowing_from_plain
from reelscan.models.atomic_file import write_atomically

FORMAT = "reelscan-collection"
FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
VectorType = Literal["float32", "float16"]


class CollectionError(ValueError):
    """The folder is no collection, is damaged, or is of a newer version."""


class FingerprintMismatch(ValueError):  # noqa: N818 - the established name of this refusal
    """The collection's vectors come from another encoder than the one at hand."""

    def __init__(self, *, collection: str, encoder: str, path: Path) -> None:
        super().__init__(
            f"{path} was embedded by the encoder {collection}, but this encoder is {encoder}: "
            "their vectors cannot be compared. Use the encoder that made the collection, or embed "
            "the videos again into a new collection."
        )
        self.collection = collection
        self.encoder = encoder


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts fixed at a collection's creation."""

    fingerprint: str
    """Fingerprint of the encoder that made the vectors."""
    embed_dim: int
    """Width E of the vectors."""
    videos_root: str
    """Absolute path of the folder that video names are relative to."""
    windowing: Windowing
    """How videos were cut into segments."""
    preprocessing: Mapping[str, object] = field(default_factory=dict)
    """The encoder's preprocessing, for the reader; the fingerprint already covers it."""
    model_path: str | None = None
    """Where the encoder's model directory lay; the fingerprint tells whether it is still it."""
    vector_type: VectorType = "float32"
    """How vectors are stored: float16 takes half the disk and rounds scores by about 0.0005."""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            raise ValueError("fingerprint is empty; give the encoder's fingerprint")
        if self.embed_dim < 1:
            raise ValueError(f"embed_dim is {self.embed_dim}; give a width of at least 1")
        if self.vector_type not in get_args(VectorType):
            raise ValueError(
                f"vector_type is {self.vector_type!r}; it should be one of {get_args(VectorType)}"
            )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `folder`, atomically."""
    plain = {**asdict(manifest), "windowing": manifest.windowing.as_plain()}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, **plain}
    write_atomically(folder / MANIFEST_NAME, (json.dumps(content, indent=2) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`.

    Raises:
        CollectionError: there is none, it cannot be understood, or its version is newer.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CollectionError(
            f"{folder} is not a collection: it has no {MANIFEST_NAME}. "
            "Give the folder that embedding wrote, or embed a folder of videos first."
        ) from None
    except ValueError as error:
        raise CollectionError(f"{path} is damaged ({error}); restore it from a copy") from error
    _check_format(path, content)
    try:
        return manifest_from_plain(content)
    except (KeyError, TypeError, ValueError) as error:
        raise CollectionError(
            f"{path} is damaged ({type(error).__name__}: {error}); restore it from a copy"
        ) from error


def manifest_from_plain(content: Mapping[str, Any]) -> Manifest:
    """From what json holds; raises KeyError, TypeError or ValueError if it is none."""
    return Manifest(
        fingerprint=str(content["fingerprint"]),
        embed_dim=int(content["embed_dim"]),
        videos_root=str(content["videos_root"]),
        windowing=windowing_from_plain(content["windowing"]),
        preprocessing=dict(content["preprocessing"]),
        model_path=None if content["model_path"] is None else str(content["model_path"]),
        vector_type=content.get("vector_type", "float32"),
    )


def _check_format(path: Path, content: object) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CollectionError(f"{path} is not a {FORMAT} manifest; give another folder")
    version = content.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise CollectionError(f"{path} has the format_version {version!r}; it should be a number")
    if version > FORMAT_VERSION:
        raise CollectionError(
            f"{path} has format_version {version}, and this reelscan reads up to {FORMAT_VERSION}: "
            "upgrade reelscan to open this collection"
        )
