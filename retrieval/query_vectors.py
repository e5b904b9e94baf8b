"""One vector for a query of several parts, so that one search answers it.

P parts, N segments looked at, E embedding width, T frames.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reelscan.index.segment_frames import read_example
from reelscan.models.encoder import Encoder
from reelscan.retrieval.query import IMAGE_EXTENSIONS, Part, Query


@dataclass(frozen=True, kw_only=True)
class QueryVectors:
    """A query as a search sees it; a segment's score is `vector @ segment + offset`."""

    parts: NDArray[np.float32]
    """[P, E], each of length 1"""
    weights: NDArray[np.float32]
    """[P]"""
    vector: NDArray[np.float32]
    """[E]"""
    offset: float
    usual: float
    """The mean score of the collection's segments."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a collection's segments lie, so that no query has to look at them again."""

    mean: NDArray[np.float64]
    """[E]"""
    covariance: NDArray[np.float64]
    """[E, E]"""


def spread_of(sample: NDArray[np.float32]) -> Spread | None:
    """Of some segments [N, E]; None without any."""
    if not len(sample):
        return None
    exact = sample.astype(np.float64)
    mean = exact.mean(axis=0)
    apart = exact - mean
    return Spread(mean=mean, covariance=apart.T @ apart / len(apart))


def combine(parts: NDArray[np.float32], query: Query, spread: Spread | None) -> QueryVectors:
    """One vector from those of the parts [P, E] and from how the collection's segments lie.

    One wanted part keeps its plain similarity as the score. Of several, each part's similarity
    counts in standard deviations above the mean of the collection, times its weight: a picture is
    as much as ten times as similar to a video as a sentence is, and would decide alone.
    """
    weights = np.array([part.weight for part in query.parts], np.float32)
    exact = parts.astype(np.float64)
    means = exact @ spread.mean if spread is not None else np.zeros(len(parts))
    if len(parts) == 1:
        return QueryVectors(
            parts=parts, weights=weights, vector=parts[0], offset=0.0, usual=float(means[0])
        )
    varying = np.zeros((len(parts), len(parts)))
    if spread is not None:
        varying = exact @ spread.covariance @ exact.T
    deviations = np.sqrt(np.maximum(varying.diagonal(), 0.0))
    deviations = np.where(deviations > 1e-6, deviations, 1.0)
    shares = weights / np.abs(weights).sum() / deviations
    wanted = weights > 0
    shares[wanted] *= 1 + _shared(varying / np.outer(deviations, deviations), weights, wanted)
    return QueryVectors(
        parts=parts,
        weights=weights,
        vector=(shares @ parts).astype(np.float32),
        offset=-float(shares @ means),
        usual=0.0,
    )


def _shared(
    alike: NDArray[np.float64], weights: NDArray[np.float32], wanted: NDArray[np.bool_]
) -> float:
    """How much of the wanted parts the unwanted ones hold, by their weights.

    alike [P, P]: correlations, over the collection's segments, of the similarities to the parts.
    """
    with_wanted = alike[:, wanted] @ weights[wanted]
    variance = float(weights[wanted] @ with_wanted[wanted])
    if variance < 1e-9:
        return 0.0
    slopes = with_wanted[~wanted] / variance
    return float(np.abs(weights[~wanted]) @ np.maximum(slopes, 0.0))


def embed_parts(query: Query, encoder: Encoder) -> NDArray[np.float32]:
    """Each part's vector, float32 [P, E] of length 1.

    Raises FileNotFoundError for a file that is not there, VideoError for one that cannot be read.
    """
    return np.stack([_embed(part, encoder) for part in query.parts])


def _embed(part: Part, encoder: Encoder) -> NDArray[np.float32]:
    if part.text is not None:
        return encoder.encode_text([part.text])[0].numpy()
    assert part.file is not None, "a part is a text or a file"
    if not part.file.is_file():
        raise FileNotFoundError(
            f"there is no file {part.file}: give the path of an example picture or video, or a "
            "sentence as plain text"
        )
    clip = read_example(
        part.file,
        preprocessing=encoder.preprocessing,
        start_seconds=part.start_seconds,
        end_seconds=part.end_seconds,
        is_picture=part.file.suffix.lower() in IMAGE_EXTENSIONS,
    )
    vector = encoder.encode_video(clip.frames_uint8[None])[0]
    # A video's vector is a mean, shorter than 1; length 1 makes its scores comparable.
    return torch.nn.functional.normalize(vector, dim=0).numpy()
