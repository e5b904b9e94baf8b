"""What a teacher sees in the samples of a corpus, computed once and kept beside the shards.

    FOLDER/taught.json              of which corpus, by which teacher, of which clips
    FOLDER/NAME-000000.safetensors  for each sample of that shard, in order: `features`
                                    [n, K, 1 + T*HW, E] and `attention` [n, T, HW]

A sample that could not be decoded has zeros: training leaves it out for the same reason. The clips
are the ones that training reads without random frames, crops and flips.

Axes: B clips, T frames, HW patches of a frame, K layers, E teacher width, n samples of a shard.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reelscan.models.clip_vit import ClipVisionConfig, TeacherOutput
from reelscan.models.plain_config import from_plain
from reelscan.pretrain.shard_list import Corpus

DESCRIPTION_FILE = "taught.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What decides the features of a sample."""

    corpus: str
    """`Corpus.name`: name and content of the set."""
    teacher_sha256: str
    """Of the teacher's weight file."""
    teacher: ClipVisionConfig
    frames: int
    size: int
    """Side of the square frames in pixels."""
    precision: str
    """fp32 or bf16, of the features kept."""


@dataclass(frozen=True, kw_only=True)
class TaughtSample:
    """What the teacher sees in one clip."""

    features: Tensor
    """[K, 1 + T*HW, E]."""
    attention: Tensor
    """float32 [T, HW]."""


def stack_taught(samples: Sequence[TaughtSample]) -> TeacherOutput:
    """As the teacher gives it for a batch."""
    return TeacherOutput(
        features=torch.stack([sample.features for sample in samples], dim=1),
        attention=torch.cat([sample.attention for sample in samples]),
    )


class TaughtFeatures:
    """Features that were written by `teach_shards`, read by the number of the sample.

    Raises ValueError if they are missing in part, or are of another corpus or other clips.
    """

    def __init__(self, folder: Path, corpus: Corpus, *, frames: int, size: int) -> None:
        self.lesson = read_lesson(folder)
        found = (self.lesson.corpus, self.lesson.frames, self.lesson.size)
        if found != (corpus.name, frames, size):
            raise ValueError(
                f"{folder} holds features of the set {found[0]} with {found[1]} frames of "
                f"{found[2]} pixels, but they are wanted of {corpus.name} with {frames} frames of "
                f"{size} pixels: run `reelscan shards teach` for it"
            )
        self._folder = folder
        self._corpus = corpus
        for shard, rows in zip(corpus.shards, corpus.rows, strict=True):
            count = samples_in(file_of(folder, shard.name))
            if count != len(rows):
                raise ValueError(
                    f"{folder} holds the features of {count} of {len(rows)} samples of "
                    f"{shard.name}: run `reelscan shards teach` again, which goes on where it "
                    "stopped"
                )

    def read(self, number: int) -> TaughtSample:
        """Of sample `number` of the corpus. Raises ValueError if the file was damaged since."""
        shard, at = self._corpus.place(number)
        path = file_of(self._folder, self._corpus.shards[shard].name)
        try:
            with safe_open(path, framework="pt") as file:
                return TaughtSample(
                    features=file.get_slice("features")[at],
                    attention=file.get_slice("attention")[at],
                )
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error


def read_lesson(folder: Path) -> Lesson:
    """Raises ValueError if there is none."""
    path = folder / DESCRIPTION_FILE
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} holds no features of a teacher: `reelscan shards teach` makes them"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is of another version: run `reelscan shards teach` again")
    return from_plain(Lesson, values, where=path.name)


def file_of(folder: Path, shard: str) -> Path:
    """The features of the samples of a shard."""
    return folder / f"{Path(shard).stem}.safetensors"


def samples_in(path: Path) -> int:
    """Number of samples in a file of features; 0 if it is not there, or none."""
    try:
        with safe_open(path, framework="pt") as file:
            features, attention = (
                file.get_slice(name).get_shape() for name in ("features", "attention")
            )
    except (SafetensorError, OSError):
        return 0
    return int(features[0]) if features[0] == attention[0] else 0
