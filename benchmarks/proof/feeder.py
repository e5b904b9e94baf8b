"""Batches of clips that lie on the device: drawn, played, mirrored and shifted there.

Axes: N clips, B clips of a batch, T frames, S pixels, P playbacks, K captions, L tokens.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmarks.proof.clips import CLIPS_FILE, MAX_TOKENS, open_pixels
from torch import Tensor
from torch.nn import functional

from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.pretrain.demo_corpus.config import CorpusConfig
from reelscan.pretrain.objective import TrainingBatch
from reelscan.pretrain.train_step import step_seed

_ROWS_AT_ONCE = 512
_MOST_SHIFT = 1 / 24
"""Of a frame's side; objects come near the border, and no caption tells a place."""
_GAIN = 0.1
"""Brightness varies by so much; more would change the names of colours."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Everything to learn from and to be measured on, on one device."""

    clips_uint8: Tensor
    """[N, T, 3, S, S]"""
    tokens: Tensor
    """int16 [N, P, 2, K, L], of clips as played and mirrored."""
    exists: Tensor
    """bool [N, P]; a clip played forward always does."""
    meanings: Tensor
    """int64 [N, P, 2], equal for what captions cannot tell apart."""
    stills: list[tuple[int, str]]
    """Frame and caption, to train a teacher on."""
    test_uint8: Tensor
    """[V, T, 3, S, S]"""
    test_captions: list[str]
    pairs: list[tuple[str, int, int]]
    """Kind and two test clips."""
    tokenizer: Tokenizer
    preprocessing: Preprocessing


def load_examples(
    folder: Path, *, image_size: int, device: torch.device, most_clips: int | None = None
) -> Examples:
    """Reads a folder of `benchmarks.proof.clips`. Raises ValueError if it is not complete."""
    if not (folder / CLIPS_FILE).is_file():
        raise ValueError(f"{folder} holds no complete clips; run benchmarks.proof.clips first")
    config = CorpusConfig(**json.loads((folder / CLIPS_FILE).read_text())["config"])
    arrays = np.load(folder / "train.npz")
    test = json.loads((folder / "test.json").read_text())
    stills = [(frame, told) for frame, told in json.loads((folder / "stills.json").read_text())]
    rows = slice(0, most_clips)
    pixels = {
        name: _moved(folder / name, config, rows=used, size=image_size, device=device)
        for name, used in (("train.u8", rows), ("test.u8", slice(None)))
    }
    return Examples(
        clips_uint8=pixels["train.u8"],
        tokens=torch.from_numpy(arrays["tokens"][rows]).to(device),
        exists=torch.from_numpy(arrays["exists"][rows]).to(device),
        meanings=torch.from_numpy(arrays["meanings"][rows]).to(device),
        stills=stills[rows],
        test_uint8=pixels["test.u8"],
        test_captions=test["captions"],
        pairs=[(kind, first, second) for kind, first, second in test["pairs"]],
        tokenizer=Tokenizer.from_file(folder / "vocabulary.txt"),
        preprocessing=Preprocessing(
            frames=pixels["test.u8"].shape[1], size=image_size, max_text_tokens=MAX_TOKENS
        ),
    )


def _moved(
    path: Path, config: CorpusConfig, *, rows: slice, size: int, device: torch.device
) -> Tensor:
    stored = open_pixels(path, config=config)[rows]
    moved = torch.empty((*stored.shape[:3], size, size), dtype=torch.uint8, device=device)
    for start in range(0, len(stored), _ROWS_AT_ONCE):
        part = torch.from_numpy(np.array(stored[start : start + _ROWS_AT_ONCE])).to(device)
        if part.shape[-1] != size:
            frames = part.flatten(0, 1).float()
            shrunk = functional.interpolate(frames, (size, size), mode="bilinear", antialias=True)
            part = shrunk.round().clamp(0, 255).to(torch.uint8).view(*part.shape[:3], size, size)
        moved[start : start + len(part)] = part
    return moved


class Feeder:
    """Draws the same batch again for the same seed and step."""

    def __init__(self, examples: Examples, *, batch: int, seed: int, twins: bool) -> None:
        self._examples = examples
        self._batch = batch
        self._seed = seed
        self._twins = twins
        device = examples.clips_uint8.device
        frames = torch.arange(examples.clips_uint8.shape[1], device=device)
        # As `PLAYBACKS` names them.
        self._orders = torch.stack([frames, frames.flip(0), frames.roll(len(frames) // 2)])

    def batches(self, step: int) -> Iterator[TrainingBatch]:
        """From step number `step` on, without end."""
        while True:
            yield self.batch(step)
            step += 1

    def batch(self, step: int) -> TrainingBatch:
        """With `twins` the second half are the twins of the first, where there are any."""
        examples = self._examples
        device = examples.clips_uint8.device
        generator = torch.Generator(device).manual_seed(step_seed(self._seed, step, 0, 1))
        rows, playback, mirror = self._draw(generator, device)
        variants = examples.tokens[rows, playback, mirror]
        told = torch.randint(variants.shape[1], (len(rows),), generator=generator, device=device)
        ids = variants[torch.arange(len(rows), device=device), told].long()
        clips = examples.clips_uint8[rows[:, None], self._orders[playback]]
        return TrainingBatch(
            clips=examples.preprocessing.normalise(self._view(clips, mirror, step, generator)),
            text=TokenBatch(ids, ids != examples.tokenizer.pad_id),
            sample_ids=examples.meanings[rows, playback, mirror],
        )

    def _draw(
        self, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Clips, how they are played and whether mirrored, int64 [B] each."""
        exists, count = self._examples.exists, self._batch
        rows = torch.randint(len(exists), (count,), generator=generator, device=device)
        mirror = torch.randint(2, (count,), generator=generator, device=device)
        chance = torch.rand((count, exists.shape[1]), generator=generator, device=device)
        best = torch.where(exists[rows], chance, -1.0).argsort(dim=1, descending=True)
        playback = best[:, 0]
        if self._twins:
            half = count // 2
            has_twin = exists[rows[:half]].sum(1) > 1
            rows = torch.cat([rows[:half], torch.where(has_twin, rows[:half], rows[half:])])
            twin = torch.where(has_twin, best[:half, 1], playback[half:])
            playback = torch.cat([playback[:half], twin])
            mirror = torch.cat([mirror[:half], torch.where(has_twin, mirror[:half], mirror[half:])])
        return rows, playback, mirror

    def _view(self, clips: Tensor, mirror: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """uint8 -> float of 0 to 255: mirrored, moved all by one step's shift, and brighter."""
        size, device = clips.shape[-1], clips.device
        most = int(size * _MOST_SHIFT)
        shifts = torch.Generator().manual_seed(step_seed(self._seed, step, 0, 2))
        down, across = torch.randint(-most, most + 1, (2,), generator=shifts).tolist()
        rows = (torch.arange(size, device=device) + down).clamp(0, size - 1)
        columns = (torch.arange(size, device=device) + across).clamp(0, size - 1)
        clips = torch.where(mirror.bool().view(-1, 1, 1, 1, 1), clips.flip(-1), clips)
        clips = clips.index_select(-2, rows).index_select(-1, columns)
        gain = torch.rand((len(clips), 1, 1, 1, 1), generator=generator, device=device)
        return (clips * (1 + _GAIN * (2 * gain - 1))).clamp(0, 255)
