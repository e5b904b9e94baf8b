"""AdamW with named parameter groups: which weights decay, and which do not."""

import re
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import nn
from torch.distributed.tensor import DTensor

STATE_SPACE_AND_EMBEDDING_NAMES = frozenset(
    {"A_log", "A_b_log", "D", "D_b", "temp", "cls_token", "pos_embed", "temporal_pos_embedding"}
)


_VISION_NAME = re.compile(r"(?:^|\.)vision_encoder\.(?:layers\.(?P<block>\d+)\.)?(?P<rest>.+)")
_BEFORE_THE_BLOCKS = ("patch_embed.", "cls_token", "pos_embed", "temporal_pos_embedding")


class ParameterGroup(TypedDict):
    """One AdamW group; the names travel with it (`param_names`) and key the checkpoint."""

    params: list[tuple[str, nn.Parameter]]
    weight_decay: float
    learning_rate_scale: float
    """What the learning rate is multiplied by."""


@dataclass(frozen=True, kw_only=True)
class LayerDecay:
    """Learning rates of a video encoder that fall from its last block to its first."""

    blocks: int
    """How many it has."""
    factor: float
    """The rate of a block over that of the block behind it; 1 leaves all alike."""

    def scale(self, name: str) -> float:
        """Of the parameter of this name: 1 for what is no part of the video encoder or lies behind
        its blocks, factor for the last block, and for patches and positions one factor less than
        for the first block."""
        found = _VISION_NAME.search(name)
        if found is None:
            return 1.0
        if found["block"] is not None:
            return float(self.factor ** (self.blocks - int(found["block"])))
        if found["rest"].startswith(_BEFORE_THE_BLOCKS):
            return float(self.factor ** (self.blocks + 1))
        return 1.0


def decays(name: str, parameter: torch.Tensor, *, published_decay: bool = False) -> bool:
    """Whether weight decay pulls this parameter towards zero.

    Ours: only matrices and filters. Zero means something else for A_log (a decay rate of 1), the
    embeddings of class token, position and time, and the temperature, so these are left alone, as
    are biases and norms. `published_decay` spares only 1-d parameters and biases.
    """
    if published_decay:
        return parameter.ndim != 1 and not name.endswith(".bias")
    return parameter.ndim > 1 and name.rsplit(".", 1)[-1] not in STATE_SPACE_AND_EMBEDDING_NAMES


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    published_decay: bool = False,
    layer_decay: LayerDecay | None = None,
) -> list[ParameterGroup]:
    """Trainable parameters, those decayed apart from those spared, and each learning rate apart.

    Decayed ones first, high rates first; a tied parameter appears once.
    """
    groups: dict[tuple[bool, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = decays(name, parameter, published_decay=published_decay)
            scale = 1.0 if layer_decay is None else layer_decay.scale(name)
            groups.setdefault((decayed, scale), []).append((name, parameter))
    return [
        {
            "params": groups[decayed, scale],
            "weight_decay": weight_decay if decayed else 0.0,
            "learning_rate_scale": scale,
        }
        for decayed, scale in sorted(groups, reverse=True)
    ]


def _by_kind(group: ParameterGroup) -> list[ParameterGroup]:
    """Sharded parameters apart from replicated ones: no kernel takes both at once."""
    sharded: list[tuple[str, nn.Parameter]] = []
    whole: list[tuple[str, nn.Parameter]] = []
    for pair in group["params"]:
        (sharded if isinstance(pair[1], DTensor) else whole).append(pair)
    return [{**group, "params": sharded}, {**group, "params": whole}]


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.05,
    published_decay: bool = False,
    layer_decay: LayerDecay | None = None,
) -> torch.optim.AdamW:
    """Fused AdamW (one kernel on CPU and on GPU) over `parameter_groups`.

    A schedule sets rates by `set_learning_rate`.
    """
    groups = parameter_groups(
        model,
        weight_decay=weight_decay,
        published_decay=published_decay,
        layer_decay=layer_decay,
    )
    optimizer = torch.optim.AdamW(
        [dict(part) for group in groups for part in _by_kind(group) if part["params"]],
        lr=learning_rate,
        betas=betas,
        fused=True,
    )
    set_learning_rate(optimizer, learning_rate)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Of every group, multiplied by its scale."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["learning_rate_scale"]
