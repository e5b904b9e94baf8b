"""VideoMamba written down once more, plainly and in float64: what variants of cases are made with.

It shares nothing with `reelscan.models`: one loop over the sequence, one direction after the other,
parameters by their published names. Axes: B clips, T tokens along time, N tokens, C width, D inner.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Parameters = dict[str, Tensor]


def plain_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """u, delta, z [B, D, L]; A [D, S]; B, C [B, S, L] -> y [B, D, L], last state [B, D, S]."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = torch.log1p(torch.exp(delta))
    state = u.new_zeros(u.shape[0], u.shape[1], A.shape[1])
    outputs = []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        state = torch.exp(step * A) * state + step * u[:, :, t, None] * B[:, None, :, t]
        outputs.append(torch.einsum("bds,bs->bd", state, C[:, :, t]))
    y = torch.stack(outputs, dim=2)
    if D is not None:
        y = y + D[:, None] * u
    return (y if z is None else y * z / (1 + torch.exp(-z))), state


def plain_direction(p: Parameters, x: Tensor, z: Tensor, *, back: bool) -> Tensor:
    """One direction of a mixer: x, z [B, D, L] in the order of the sequence."""
    suffix, rate = ("_b", "A_b_log") if back else ("", "A_log")
    if back:
        x, z = x.flip(2), z.flip(2)
    weight, bias = p[f"conv1d{suffix}.weight"], p[f"conv1d{suffix}.bias"]
    padded = F.pad(x, (weight.shape[2] - 1, 0))
    x = F.silu(F.conv1d(padded, weight, bias, groups=weight.shape[0]))
    projected = torch.einsum("rd,bdl->brl", p[f"x_proj{suffix}.weight"], x)
    dt_weight = p[f"dt_proj{suffix}.weight"]
    rank, states = dt_weight.shape[1], p[rate].shape[1]
    y, _ = plain_scan(
        x,
        torch.einsum("dr,brl->bdl", dt_weight, projected[:, :rank]),
        -torch.exp(p[rate]),
        projected[:, rank : rank + states],
        projected[:, rank + states :],
        D=p[f"D{suffix}"],
        z=z,
        delta_bias=p[f"dt_proj{suffix}.bias"],
        delta_softplus=True,
    )
    return y.flip(2) if back else y


def plain_mixer(p: Parameters, hidden: Tensor) -> Tensor:
    """hidden [B, L, C] -> [B, L, C]; in both directions if there are parameters of the second."""
    x, z = torch.einsum("dc,blc->bdl", p["in_proj.weight"], hidden).chunk(2, dim=1)
    y = plain_direction(p, x, z, back=False)
    if "A_b_log" in p:
        y = y + plain_direction(p, x, z, back=True)
    return torch.einsum("cd,bdl->blc", p["out_proj.weight"], y)


def plain_norm(p: Parameters, name: str, x: Tensor, epsilon: float) -> Tensor:
    """RMS norm, or layer norm where there is a bias."""
    weight, bias = p[f"{name}.weight"], p.get(f"{name}.bias")
    if bias is not None:
        x = x - x.mean(-1, keepdim=True)
    scaled = x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight
    return scaled if bias is None else scaled + bias


def plain_table(count: int, width: int) -> Tensor:
    """Fixed sin-cos positions, float64."""
    table = torch.empty(count, width, dtype=torch.float64)
    for position in range(count):
        for j in range(width):
            angle = position / 10000 ** (2 * (j // 2) / width)
            table[position, j] = math.cos(angle) if j % 2 else math.sin(angle)
    return table


def plain_encoder(
    p: Parameters,
    settings: Mapping[str, Any],
    video: Tensor,
    *,
    mask: Tensor | None,
    keep_temporal: bool,
    pooling: str,
    draws: list[Tensor] | None = None,
) -> dict[str, Tensor]:
    """video [B, 3, T, H, W], mask [B, 1 + N] -> x_vis, x_pool, x_clip, and streams before them."""
    frames = video.shape[2] // settings.get("kernel_size", 1)
    hidden = _embed(p, settings, video, frames)
    places = plain_table(hidden.shape[1], settings["embed_dim"])
    places = places.expand(len(hidden), -1, -1)
    if mask is not None:
        hidden = torch.stack([row[~hide] for row, hide in zip(hidden, mask, strict=True)])
        places = torch.stack([row[~hide] for row, hide in zip(places, mask, strict=True)])
    x_vis, streams = _blocks(p, settings, hidden, draws)
    aligned = [
        _layer_norm(
            F.linear(
                s + places, p[f"clip_decoder.{k}.head.weight"], p[f"clip_decoder.{k}.head.bias"]
            ),
            p[f"clip_decoder.{k}.norm.weight"],
            p[f"clip_decoder.{k}.norm.bias"],
        )
        for k, s in enumerate(streams)
    ]
    cls, patches = x_vis[:, :1], x_vis[:, 1:]
    per_frame = patches.unflatten(1, (frames if keep_temporal else 1, -1)).mean(2)
    pooled = {
        "cls": cls,
        "avg": per_frame,
        "cls+avg": cls + per_frame,
        "cls_cat_avg": cls + per_frame if keep_temporal else torch.cat([cls, per_frame], 1),
    }[pooling]
    return {
        "x_vis": patches,
        "x_pool": _layer_norm(pooled, p["pool_norm.weight"], p["pool_norm.bias"]),
        "x_clip": torch.stack(aligned),
        "x_vis_with_cls": x_vis,
        "x_clip_vis": torch.stack(streams),
    }


def _embed(p: Parameters, settings: Mapping[str, Any], video: Tensor, frames: int) -> Tensor:
    """Class token and patch tokens with their positions, [B, 1 + N, C]."""
    weight = p["patch_embed.proj.weight"]
    patches = F.conv3d(video, weight, p["patch_embed.proj.bias"], stride=weight.shape[2:])
    patches = patches.permute(0, 2, 3, 4, 1).flatten(2, 3) + p["pos_embed"][:, None, 1:]
    if frames > 1:
        patches = patches + p["temporal_pos_embedding"][:, :, None]
    cls = (p["cls_token"] + p["pos_embed"][:, :1]).expand(len(video), -1, -1)
    return torch.cat([cls, patches.flatten(1, 2)], dim=1)


def _blocks(
    p: Parameters, settings: Mapping[str, Any], hidden: Tensor, draws: list[Tensor] | None
) -> tuple[Tensor, list[Tensor]]:
    """As published: the output of a block joins the stream at the start of the next."""
    depth, epsilon = settings["depth"], settings.get("norm_epsilon", 1e-5)
    rate, interval = settings.get("drop_path_rate", 0.0), settings["clip_student_return_interval"]
    kept = {depth - 1 - k * interval for k in range(settings["clip_return_layer"])}
    rates = [0.0, *torch.linspace(0, rate, depth, dtype=torch.float64).tolist()]
    remaining = list(draws or [])

    def dropped(output: Tensor, chance: float) -> Tensor:
        if chance == 0.0 or draws is None:
            return output
        keep = 1 - chance
        return output * torch.floor(keep + remaining.pop(0)) / keep

    residual, streams = None, []
    for index in range(depth):
        residual = hidden if residual is None else residual + dropped(hidden, rates[index])
        if index - 1 in kept:
            streams.append(plain_norm(p, "norm", residual, epsilon))
        own = {
            name.removeprefix(f"layers.{index}.mixer."): value
            for name, value in p.items()
            if name.startswith(f"layers.{index}.mixer.")
        }
        hidden = plain_mixer(own, plain_norm(p, f"layers.{index}.norm", residual, epsilon))
    assert residual is not None
    last = residual + dropped(hidden, rate)
    if depth - 1 in kept:
        streams.append(residual if settings["fused_add_norm"] else last)
    assert not remaining
    return plain_norm(p, "norm", last, epsilon), streams


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weight + bias
