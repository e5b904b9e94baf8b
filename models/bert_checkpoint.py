"""Weights of a Hugging Face BERT under the names of `reelscan.models.bert`."""

from collections.abc import Mapping

import torch
from torch import Tensor


def huggingface_bert_state(
    state: Mapping[str, Tensor], *, language_head: bool
) -> dict[str, Tensor]:
    """Weights of a Hugging Face BERT under the names of `BertForMaskedLM` or `BertModel`.

    Drops the pooler and the next-sentence head, renames `gamma` and `beta` of old files, and adds
    the tied names and position ids that newer files leave out. Fusion layers are not in such a
    file; what else is missing shows when the result is loaded.
    """
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("bert.")
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(("embeddings.", "encoder.")):
            renamed[f"bert.{name}" if language_head else name] = tensor
        elif name.startswith("cls.predictions.") and language_head:
            renamed[name] = tensor
    prefix = "bert." if language_head else ""
    positions = renamed.get(f"{prefix}embeddings.position_embeddings.weight")
    if positions is not None:
        renamed[f"{prefix}embeddings.position_ids"] = torch.arange(len(positions))[None]
    if "cls.predictions.bias" in renamed:
        renamed["cls.predictions.decoder.bias"] = renamed["cls.predictions.bias"]
        words = renamed["bert.embeddings.word_embeddings.weight"]
        renamed["cls.predictions.decoder.weight"] = words
    return renamed
