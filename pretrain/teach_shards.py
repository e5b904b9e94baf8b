"""Runs a teacher over a corpus once, and keeps what it sees (`taught_features.py`)."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from reelscan.models.atomic_file import replacing, write_atomically
from reelscan.models.clip_vit import ClipVision
from reelscan.models.preprocessing import Preprocessing
from reelscan.pretrain.clip_training import load_teacher
from reelscan.pretrain.shard_index import file_sha256
from reelscan.pretrain.shard_list import Corpus, open_corpus
from reelscan.pretrain.shard_loader import decoding_workers
from reelscan.pretrain.shard_reader import ClipDecoder, CorpusReader
from reelscan.pretrain.shard_store import ShardStore
from reelscan.pretrain.skip_log import SkipLog
from reelscan.pretrain.taught_features import (
    DESCRIPTION_FILE,
    FORMAT,
    Lesson,
    file_of,
    read_lesson,
    samples_in,
)

Progress = Callable[[int, int], None]
"""Samples done, and all."""


@dataclass(frozen=True, kw_only=True)
class TeachConfig:
    """Which clips a teacher sees, and how that is kept."""

    frames: int = 8
    """Of a clip; 1 for images."""
    size: int = 224
    """Side of the square frames in pixels."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the features that are kept; the teacher computes in fp32."""
    batch_size: int = 32
    """Clips at once."""
    workers: int = 0
    """Processes that decode; 0 decodes in this one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the teacher runs; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision is {self.precision!r}; choose bf16 or fp32")
        if min(self.frames, self.size, self.batch_size) < 1 or self.workers < 0:
            raise ValueError(
                f"frames is {self.frames}, size {self.size}, batch_size {self.batch_size} and "
                f"workers {self.workers}; give at least 1, and at least 0 workers"
            )


@dataclass(frozen=True, kw_only=True)
class TeachReport:
    """What was written."""

    samples: int
    bytes: int
    skips: SkipLog = field(default_factory=SkipLog)
    """Samples without features, of the shards written now."""


def teach_shards(
    index: str | Path,
    folder: Path,
    *,
    teacher_file: Path,
    config: TeachConfig,
    store: ShardStore | None = None,
    on_progress: Progress | None = None,
) -> TeachReport:
    """Writes the features of all samples of a set into a folder, shard by shard.

    Interrupted, it goes on with the first shard that is missing when called again. Raises
    ValueError if the folder holds features of something else.
    """
    corpus, teacher = open_corpus(index), load_teacher(teacher_file).to(_device(config))
    _begin(folder, corpus, teacher, teacher_file=teacher_file, config=config)
    reader = CorpusReader(
        corpus,
        store or ShardStore(),
        decode=ClipDecoder(frames=config.frames, frame_size=config.size, sampling="middle"),
    )
    skips, done = SkipLog(), 0
    for shard, rows in zip(corpus.shards, corpus.rows, strict=True):
        path = file_of(folder, shard.name)
        if samples_in(path) != len(rows):
            taught = _Taught(teacher, len(rows), config)
            numbers = range(done, done + len(rows))
            for clip, left_out in decoding_workers(
                _Clips(reader), sampler=numbers, workers=config.workers, seed=0
            ):
                skips.merge(left_out)
                taught.add(clip)
                if on_progress is not None:
                    on_progress(done + taught.count, corpus.sample_count)
            taught.save(path)
        done += len(rows)
        if on_progress is not None:
            on_progress(done, corpus.sample_count)
    size = sum(file_of(folder, shard.name).stat().st_size for shard in corpus.shards)
    return TeachReport(samples=corpus.sample_count, bytes=size, skips=skips)


def _device(config: TeachConfig) -> str:
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _begin(
    folder: Path, corpus: Corpus, teacher: ClipVision, *, teacher_file: Path, config: TeachConfig
) -> None:
    """Says in the folder what it is to hold, unless it holds that already."""
    lesson = Lesson(
        corpus=corpus.name,
        teacher_sha256=file_sha256(teacher_file),
        teacher=teacher.config,
        frames=config.frames,
        size=config.size,
        precision=config.precision,
    )
    if not (folder / DESCRIPTION_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"format": FORMAT, **asdict(lesson)}, indent=1)
        write_atomically(folder / DESCRIPTION_FILE, content.encode("utf-8"))
    elif read_lesson(folder) != lesson:
        raise ValueError(
            f"{folder} holds features of another set or teacher, or of other clips: choose another "
            "folder"
        )


class _Clips(Dataset[tuple[Tensor | None, SkipLog]]):
    """Decoded clips by their number, and what kept one from being decoded."""

    def __init__(self, reader: CorpusReader) -> None:
        self._reader = reader

    def __getitem__(self, number: int) -> tuple[Tensor | None, SkipLog]:
        skips = SkipLog()
        sample = self._reader.read(number, pass_number=0, skips=skips)
        return (None if sample is None else sample.clip_uint8), skips


class _Taught:
    """The features of one shard, filled in order."""

    def __init__(self, teacher: ClipVision, samples: int, config: TeachConfig) -> None:
        self.count = 0
        """Samples added so far."""
        self._teacher = teacher
        self._config = config
        self._preprocessing = Preprocessing(frames=config.frames, size=config.size)
        self._waiting: list[tuple[int, Tensor]] = []
        blank = torch.zeros(1, config.frames, 3, config.size, config.size, dtype=torch.uint8)
        features, attention = self._looked_at(blank)
        kept = torch.float32 if config.precision == "fp32" else torch.bfloat16
        self._features = torch.zeros((samples, *features.shape[1:]), dtype=kept)
        self._attention = torch.zeros((samples, *attention.shape[1:]))

    def add(self, clip_uint8: Tensor | None) -> None:
        """The next sample; None for one that cannot be decoded."""
        if clip_uint8 is not None:
            self._waiting.append((self.count, clip_uint8))
        self.count += 1
        if len(self._waiting) == self._config.batch_size:
            self._look()

    def save(self, path: Path) -> None:
        """Writes the file of the shard atomically."""
        self._look()
        assert self.count == len(self._features), "every sample of the shard was added"
        with replacing(path) as temporary:
            save_file({"features": self._features, "attention": self._attention}, temporary)

    def _look(self) -> None:
        if self._waiting:
            numbers, clips = zip(*self._waiting, strict=True)
            rows = list(numbers)
            features, attention = self._looked_at(torch.stack(clips))
            self._features[rows] = features.to("cpu", self._features.dtype)
            self._attention[rows] = attention.to("cpu", torch.float32)
            self._waiting.clear()

    def _looked_at(self, clips_uint8: Tensor) -> tuple[Tensor, Tensor]:
        """[B, K, 1 + T*HW, E] and [B, T, HW]."""
        clips = self._preprocessing.normalise(clips_uint8.to(_device(self._config)))
        with torch.no_grad():
            output = self._teacher(clips)
        attention: Tensor = output.attention.unflatten(0, (len(clips), self._config.frames))
        return output.features.transpose(0, 1), attention
