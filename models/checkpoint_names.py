"""Names in published checkpoints that stand for the same thing."""

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

TIED_NAMES = (
    (
        "text_encoder.bert.embeddings.word_embeddings.weight",
        "text_encoder.cls.predictions.decoder.weight",
    ),
    ("text_encoder.cls.predictions.bias", "text_encoder.cls.predictions.decoder.bias"),
)
"""Pairs of names of one parameter."""


def pretraining_name(name: str) -> str:
    """A name of the retrieval variant or of a classifier, as the pretrained model has it."""
    for part in ("embeddings.", "encoder."):
        if name.startswith(f"text_encoder.{part}"):
            return name.replace("text_encoder.", "text_encoder.bert.", 1)
    return "norm." + name.removeprefix("norm_f.") if name.startswith("norm_f.") else name


def without_prefix(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """What lies under a prefix, under the rest of its name."""
    return {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
