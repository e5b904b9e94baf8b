"""AdamW with named parameter groups: which weights decay, and which do not."""

from typing import TypedDict

import torch
from torch import nn
from torch.distributed.tensor import DTensor

STATE_SPACE_AND_EMBEDDING_NAMES = frozenset(
    {"A_log", "A_b_log", "D", "D_b", "temp", "cls_token", "pos_embed", "temporal_pos_embedding"}
)


class ParameterGroup(TypedDict):
    """One AdamW group; the names travel with it (`param_names`) and key the checkpoint."""

    params: list[tuple[str, nn.Parameter]]
    weight_decay: float


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
    model: nn.Module, *, weight_decay: float, published_decay: bool = False
) -> list[ParameterGroup]:
    """Trainable parameters in two groups, decayed first; a tied parameter appears once."""
    decayed: list[tuple[str, nn.Parameter]] = []
    spared: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = decayed if decays(name, parameter, published_decay=published_decay) else spared
            group.append((name, parameter))
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]


def _by_kind(group: ParameterGroup) -> list[ParameterGroup]:
    """Sharded parameters apart from replicated ones: no kernel takes both at once."""
    sharded: list[tuple[str, nn.Parameter]] = []
    whole: list[tuple[str, nn.Parameter]] = []
    for pair in group["params"]:
        (sharded if isinstance(pair[1], DTensor) else whole).append(pair)
    return [
        {"params": sharded, "weight_decay": group["weight_decay"]},
        {"params": whole, "weight_decay": group["weight_decay"]},
    ]


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.05,
    published_decay: bool = False,
) -> torch.optim.AdamW:
    """Fused AdamW (one kernel on CPU and on GPU) over `parameter_groups`."""
    groups = parameter_groups(model, weight_decay=weight_decay, published_decay=published_decay)
    return torch.optim.AdamW(
        [dict(part) for group in groups for part in _by_kind(group) if part["params"]],
        lr=learning_rate,
        betas=betas,
        fused=True,
    )
