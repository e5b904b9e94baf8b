"""The smaller stored json files: starts of weights, learning rates, frame indices, captions."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from golden_replay.case import Score, json_file
from golden_replay.settings import Settings
from reelscan.models.tokenizer import clean_caption
from reelscan.models.videomamba import VideoMamba
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.schedule import learning_rate_factor
from reelscan.video.sampling import fps_indices, middle_indices, random_indices


def replay_captions(path: Path, score: Score) -> None:
    for number, entry in enumerate(json_file(path)):
        for key, stored in entry.items():
            if key == "inp":
                continue
            limit = None if key == "out" else int(key.removeprefix("out_max"))
            found = clean_caption(entry["inp"], max_words=limit)
            score.fact(f"{number}.{key}", found, stored)


def replay_frames(path: Path, score: Score) -> None:
    for number, entry in enumerate(json_file(path)):
        settings = Settings(entry)
        score.fact(f"{number}.{entry['sample']}", _indices(settings), settings["out"])
        assert not settings.unread(), f"{path.name}: nobody reads {settings.unread()}"


def _indices(settings: Settings) -> list[int]:
    sample, count, frames = (settings[key] for key in ("sample", "vlen", "num_frames"))
    if sample == "middle":
        return middle_indices(count, frames, fix_start=settings.get("fix_start"))
    if sample == "rand":
        settings.must_be(rng="random.seed(s);np.random.seed(s)")
        return random_indices(count, frames, PublishedDraws(settings["seed"]))
    assert sample.startswith("fps"), f"{sample} is no known way of sampling"
    limit = settings["max_num_frames"]
    return fps_indices(
        count,
        input_fps=settings["input_fps"],
        output_fps=float(sample.removeprefix("fps")),
        max_frames=limit if limit > 0 else None,
    )


class PublishedDraws(Random):
    """Draws as the published code does: samples come from numpy's global generator."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._permutations = np.random.RandomState(seed)

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        return [int(one) for one in self._permutations.permutation(len(population))[:k]]


def replay_learning_rates(path: Path, score: Score) -> None:
    for number, entry in enumerate(json_file(path)):
        settings = Settings(entry)
        stored = torch.tensor(settings["lr_at_step"], dtype=torch.float64)
        peak = settings["base_lr"]
        found = [
            peak
            * learning_rate_factor(
                step,
                total_steps=settings["total"],
                warmup_steps=settings["warmup"],
                floor=settings["min_lr_multi"],
            )
            for step in range(len(stored))
        ]
        # Compared as fractions of the peak, for a rate is far below any absolute tolerance.
        rates = torch.tensor(found, dtype=torch.float64)
        score.add(f"{number}.lr_at_step", rates / peak, stored / peak)
        assert not settings.unread(), f"{path.name}: nobody reads {settings.unread()}"


def replay_initialisation(path: Path, score: Score) -> None:
    """Statistics of weights at their start, within what chance allows."""
    settings = Settings(json_file(path))
    settings.irrelevant(reason="a description", keys=("note",))
    shape: Settings = settings["cfg"]
    torch.manual_seed(0)
    config = VideoMambaConfig(depth=shape["depth"], width=shape["embed_dim"], published_init=True)
    state = VideoMamba(config).state_dict()
    for name, stored in settings["params"].plain().items():
        tensor = state[name]
        score.fact(f"{name}.shape", list(tensor.shape), stored["shape"])
        chance = 12 * max(stored["std"], 1e-8) / tensor.numel() ** 0.5 + 1e-6
        _near(score, f"{name}.mean", tensor.mean().item(), stored["mean"], chance)
        _near(score, f"{name}.std", tensor.std().item(), stored["std"], 0.1 * stored["std"] + 1e-6)
        farthest = max(abs(stored["min"]), stored["max"])
        reach = tensor.abs().max().item()
        _near(score, f"{name}.reach", reach, farthest, 0.3 * farthest + 1e-6)
    assert not settings.unread(), f"{path.name}: nobody reads {settings.unread()}"


def _near(score: Score, name: str, found: float, stored: float, slack: float) -> None:
    """Statistics of two drawings: they agree within `slack`, or the difference is told."""
    score.fact(name, stored if abs(found - stored) <= slack else found, stored)
