"""The published corpora, and the published stages spread over any number of GPUs."""

import math
from dataclasses import dataclass, replace

from reelscan.pretrain.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class PublishedCorpus:
    """What a published model was trained on."""

    name: str
    sets: str
    """Their names, as published."""
    videos: int
    """About, as published; links die, so that fewer can be had today."""
    images: int
    global_batch: int
    """Clips of a step of the second stage, in all processes."""
    clips_at_once: int = 128
    """Clips of a forward pass in the second stage, as published a GPU."""


WEBVID_2M, WEBVID_10M, CC3M = 2_490_000, 10_730_000, 2_950_000
OTHER_IMAGES = 113_000 + 100_000 + 860_000 + 10_770_000
"""COCO, Visual Genome, SBU, CC12M."""

CORPORA = {
    corpus.name: corpus
    for corpus in (
        PublishedCorpus(
            name="K400",
            sets="Kinetics-400, without captions, for the first stage",
            videos=240_000,
            images=0,
            global_batch=1024,
            clips_at_once=64,
        ),
        PublishedCorpus(
            name="5M",
            sets="WebVid-2M; images: CC3M",
            videos=WEBVID_2M,
            images=CC3M,
            global_batch=2048,
        ),
        PublishedCorpus(
            name="17M",
            sets="WebVid-2M; images: CC3M, CC12M, SBU, COCO, Visual Genome",
            videos=WEBVID_2M,
            images=CC3M + OTHER_IMAGES,
            global_batch=4096,
        ),
        PublishedCorpus(
            name="25M",
            sets="WebVid-10M; images: CC3M, CC12M, SBU, COCO, Visual Genome",
            videos=WEBVID_10M,
            images=CC3M + OTHER_IMAGES,
            global_batch=4096,
        ),
    )
}


def at_scale(
    config: PretrainConfig,
    corpus: PublishedCorpus,
    *,
    processes: int,
    global_batch: int | None = None,
    clips_at_once: int | None = None,
) -> PretrainConfig:
    """A stage with the global batch of a corpus on so many GPUs, in parts where those are few.

    So one GPU, or eight, make the steps of the published 16 or 32. Raises ValueError if the
    processes do not divide the batch.
    """
    whole = global_batch or corpus.global_batch
    if whole % processes:
        raise ValueError(
            f"{processes} processes do not divide the {whole} clips of a step; start a number that "
            "does, or set data.batch_size yourself (leave the corpus out of the recipe)"
        )
    local = whole // processes
    parts = math.ceil(local / (clips_at_once or corpus.clips_at_once))
    while local % parts:
        parts += 1
    return replace(
        config,
        data=replace(config.data, batch_size=local),
        parallel=replace(config.parallel, accumulate=parts),
    )
