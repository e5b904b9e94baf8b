"""The recipes of `reelscan pretrain`, by RECIPE[:SIZE][:CORPUS]."""

import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from reelscan.models.video_text import (
    VideoTextConfig,
    video_text_middle,
    video_text_small,
    video_text_tiny,
)
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.published_scale import CORPORA, PublishedCorpus, at_scale
from reelscan.pretrain.stages import (
    fine_tuned,
    self_distilled,
    single_gpu,
    unmasked,
    video_only_masked,
    video_text_masked,
)

RECIPES = {
    "video-only-masked": "first stage: the encoder learns to see like a CLIP teacher",
    "video-text-masked": "second stage: all four losses, most tokens hidden",
    "unmasked": "third stage: a short epoch with all tokens visible, without the teacher",
    "single-gpu": "second stage on one GPU, size small: 1,024 clips a step in parts",
    "self-distilled": "first stage of larger sizes: follows a smaller trained encoder",
    "fine-tuned": "on a retrieval benchmark's training captions, from any checkpoint",
}
SIZES = {"tiny": video_text_tiny, "small": video_text_small, "middle": video_text_middle}
DEFAULT_SIZES = {"single-gpu": "small"}
STAGES_OF_CORPORA = {
    "K400": ("video-only-masked",),
    "5M": ("video-text-masked", "unmasked"),
    "17M": ("video-text-masked", "unmasked"),
    "25M": ("video-text-masked", "unmasked"),
}
FIRST_STAGE_RATE = 1.5e-4 / 256
"""Published learning rate of the first stage, a clip of the global batch."""


class UnknownRecipeError(ValueError):
    """The name of no recipe."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe with shards, teacher and the like still to be given."""

    settings: PretrainConfig
    corpus: PublishedCorpus | None
    """The published corpus that it was asked for."""


def find_recipe(wanted: str, *, placeholders: bool = False) -> Recipe:
    """From `RECIPE`, `RECIPE:SIZE` or `RECIPE:SIZE:CORPUS`. Raises `UnknownRecipeError`.

    `placeholders`: what has to be given may be left out, as for a dry run.
    """
    name, *parts = wanted.split(":")
    _check(name, RECIPES, "recipe")
    size = DEFAULT_SIZES.get(name, "middle")
    corpus = None
    for part in parts:
        if part in CORPORA:
            corpus = CORPORA[part]
        else:
            _check(part, [*SIZES, *CORPORA], "size or corpus")
            size = part
    settings = recipe_of(name, SIZES[size](), placeholders=placeholders)
    if corpus is not None:
        settings = _scaled(name, settings, corpus)
    return Recipe(settings=settings, corpus=corpus)


def recipe_of(name: str, model: VideoTextConfig, *, placeholders: bool = False) -> PretrainConfig:
    """The recipe with shards (and teacher or first weights, where needed) still to be given."""
    # tyro asks for what is MISSING; the presets' signatures want values of the final types.
    shards = () if placeholders else tyro.MISSING
    file = Path("TO-BE-GIVEN") if placeholders else tyro.MISSING
    match name:
        case "video-only-masked":
            return video_only_masked(shards=shards, teacher=file, model=model)
        case "video-text-masked":
            return video_text_masked(shards=shards, teacher=file, model=model)
        case "single-gpu":
            return single_gpu(shards=shards, teacher=file, model=model)
        case "self-distilled":
            return self_distilled(shards=shards, smaller_encoder=file, model=model)
        case "fine-tuned":
            return fine_tuned(shards=shards, initial_model=file, model=model)
        case _:
            return unmasked(shards=shards, model=model)


def recipe_table() -> str:
    return "\n".join(f"  {name:<20}{summary}" for name, summary in RECIPES.items())


def corpus_table() -> str:
    return "\n".join(f"  {name:<20}{corpus.sets}" for name, corpus in CORPORA.items())


def _scaled(name: str, settings: PretrainConfig, corpus: PublishedCorpus) -> PretrainConfig:
    stages = STAGES_OF_CORPORA[corpus.name]
    if name not in stages:
        raise UnknownRecipeError(
            f"{corpus.name} was published for {' and '.join(stages)}, not for {name}; "
            "leave the corpus out"
        )
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if name == "unmasked":
        # As many GPUs as the second stage, with 64 clips on each.
        half = corpus.global_batch // 2
        return at_scale(settings, corpus, processes=processes, global_batch=half, clips_at_once=64)
    scaled = at_scale(settings, corpus, processes=processes)
    if name == "video-only-masked":
        rate = FIRST_STAGE_RATE * corpus.global_batch
        scaled = replace(scaled, optimizer=replace(scaled.optimizer, learning_rate=rate))
    return scaled


def _check(word: str, known: Iterable[str], kind: str) -> None:
    known = list(known)
    if word not in known:
        close = difflib.get_close_matches(word, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose {', '.join(known)}"
        raise UnknownRecipeError(f"no {kind} {word!r}; {hint}")
