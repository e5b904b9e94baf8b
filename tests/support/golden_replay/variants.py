"""Cases of our own in the stored format, made with the plain encoder in float64.

They have sizes, masks, layer counts and lengths that the published ones have not.
"""

import json
from pathlib import Path
from typing import Any

import torch
from plain_videomamba import Parameters, plain_encoder, plain_mixer, plain_scan
from safetensors.torch import save_file
from torch import Tensor

LOSS = "(x_vis*w_vis).mean()+(x_pool*w_pool).sum()+(x_clip*w_clip).mean()"


def write_case(folder: Path, name: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """Stores a case; float64 results become float32, as the published ones are."""
    path = folder / f"{name}.safetensors"
    plain = {
        key: (tensor.float() if tensor.dtype == torch.float64 else tensor).detach().contiguous()
        for key, tensor in tensors.items()
    }
    save_file({key: tensor.clone() for key, tensor in plain.items()}, path)
    (folder / f"{name}.config.json").write_text(json.dumps(config))
    return path


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    """float32 numbers, held in float64."""
    return (torch.randn(*shape) * scale).double()


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}


def scan_case(folder: Path, *, length: int, channels: int, states: int, gated: bool) -> Path:
    """A scan of another length; without a gate there is no D and no bias either."""
    torch.manual_seed(length)
    inputs = {
        "u": normal(1, channels, length),
        "delta": normal(1, channels, length, scale=0.5),
        "A": -torch.rand(channels, states).double() * states - 0.1,
        "B": normal(1, states, length),
        "C": normal(1, states, length),
    }
    if gated:
        inputs |= {"D": normal(channels), "z": normal(1, channels, length)}
        inputs["delta_bias"] = normal(channels, scale=0.1) - 3
    else:
        inputs["delta"] = inputs["delta"].abs() * 0.1
    given = leaves(inputs)
    y, state = plain_scan(**given, delta_softplus=gated)
    weight = normal(*y.shape) / length**0.5
    (y * weight).sum().backward()
    tensors = {f"in.{name}": tensor for name, tensor in inputs.items()}
    tensors |= {f"grad.{name}": tensor.grad for name, tensor in given.items()}
    tensors |= {"out.y": y, "out.last_state": state, "train.dout": weight}
    config = {"L": length, "B": 1, "D": channels, "N": states, "delta_softplus": gated}
    return write_case(folder, f"ssm_scan_variant_L{length}", tensors, config)


def mixer_parameters(
    width: int, *, states: int, taps: int, expand: int, two_directions: bool
) -> Parameters:
    inner, rank = expand * width, -(-width // 16)
    found: Parameters = {
        "in_proj.weight": normal(2 * inner, width, scale=width**-0.5),
        "out_proj.weight": normal(width, inner, scale=inner**-0.5),
    }
    for suffix, rate in (("", "A_log"), ("_b", "A_b_log"))[: 2 if two_directions else 1]:
        found |= {
            f"conv1d{suffix}.weight": normal(inner, 1, taps, scale=0.5),
            f"conv1d{suffix}.bias": normal(inner, scale=0.1),
            f"x_proj{suffix}.weight": normal(rank + 2 * states, inner, scale=inner**-0.5),
            f"dt_proj{suffix}.weight": normal(inner, rank, scale=0.5),
            f"dt_proj{suffix}.bias": normal(inner, scale=0.5) - 3,
            rate: (torch.rand(inner, states) * 2).double(),
            f"D{suffix}": normal(inner),
        }
    return found


def mixer_case(folder: Path, *, length: int, two_directions: bool) -> Path:
    """Other states, taps and expansion than the published ones."""
    torch.manual_seed(length)
    width, states, taps, expand = 20, 5, 3, 3
    sizes = {"states": states, "taps": taps, "expand": expand}
    parameters = mixer_parameters(width, **sizes, two_directions=two_directions)
    x = normal(2, length, width)
    given, p = x.clone().requires_grad_(), leaves(parameters)
    y = plain_mixer(p, given)
    weight = normal(*y.shape) / length**0.5
    (y * weight).sum().backward()
    tensors = {f"param.{name}": tensor for name, tensor in parameters.items()}
    tensors |= {f"grad.{name}": tensor.grad for name, tensor in p.items()}
    tensors |= {"in.x": x, "out.y": y, "train.dout": weight, "grad_in.x": given.grad}
    config = {"d_model": width, "d_state": states, "d_conv": taps, "expand": expand}
    config |= {"L": length, "B": 2, "dt_rank": 2, "bimamba": two_directions}
    kind = "bimixer" if two_directions else "unimixer"
    return write_case(folder, f"ssm_{kind}_variant_L{length}", tensors, config)


def encoder_parameters(settings: dict[str, Any]) -> Parameters:
    """Random parameters by the published names."""
    width, patch = settings["embed_dim"], settings["patch_size"]
    side, tubelet = settings["img_size"] // patch, settings.get("kernel_size", 1)
    bias = not settings["rms_norm"]

    def norm(name: str, size: int, *, biased: bool) -> Parameters:
        made = {f"{name}.weight": 1 + normal(size, scale=0.1)}
        return made | ({f"{name}.bias": normal(size, scale=0.1)} if biased else {})

    found: Parameters = {
        "cls_token": normal(1, 1, width, scale=0.5),
        "pos_embed": normal(1, 1 + side * side, width, scale=0.5),
        "temporal_pos_embedding": normal(1, settings["num_frames"] // tubelet, width, scale=0.5),
        "patch_embed.proj.weight": normal(width, 3, tubelet, patch, patch, scale=0.1),
        "patch_embed.proj.bias": normal(width, scale=0.1),
        **norm("norm", width, biased=bias),
        **norm("pool_norm", width, biased=True),
    }
    for index in range(settings["depth"]):
        mixer = mixer_parameters(width, states=16, taps=4, expand=2, two_directions=True)
        found |= {f"layers.{index}.mixer.{name}": value for name, value in mixer.items()}
        found |= norm(f"layers.{index}.norm", width, biased=bias)
    teacher = settings["clip_output_dim"]
    for index in range(settings["clip_return_layer"]):
        decoder = f"clip_decoder.{index}"
        found[f"{decoder}.head.weight"] = normal(teacher, width, scale=width**-0.5)
        found[f"{decoder}.head.bias"] = normal(teacher, scale=0.1)
        found |= norm(f"{decoder}.norm", teacher, biased=True)
    return found


def vision_settings(**changes: Any) -> dict[str, Any]:
    settings = {
        "img_size": 16,
        "patch_size": 4,
        "depth": 3,
        "embed_dim": 24,
        "num_frames": 4,
        "clip_decoder_embed_dim": 24,
        "clip_output_dim": 12,
        "clip_return_layer": 1,
        "clip_student_return_interval": 1,
        "drop_path_rate": 0.0,
        "fused_add_norm": True,
        "rms_norm": True,
        "residual_in_fp32": True,
        "bimamba": True,
        "norm_epsilon": 1e-5,
    }
    return settings | changes


def vision_case(
    folder: Path,
    name: str,
    settings: dict[str, Any],
    *,
    mask: Tensor | None,
    pooling: str = "cls+avg",
    keep_temporal: bool = False,
    image: bool = False,
    mask_name: str = "mask_random",
) -> Path:
    """One run with all outputs, streams and gradients; drop path draws if there is a rate."""
    torch.manual_seed(len(name))
    parameters = encoder_parameters(settings)
    size, clips = settings["img_size"], 3
    video = normal(clips, 3, 1 if image else settings["num_frames"], size, size)
    rates = torch.linspace(0, settings["drop_path_rate"], settings["depth"])
    dropping = settings["drop_path_rate"] > 0
    count = int((rates > 0).sum()) if settings["depth"] > 1 else int(dropping)
    draws = [torch.rand(clips, 1, 1).double() for _ in range(count)] if dropping else None
    p = leaves(parameters)
    found = plain_encoder(
        p, settings, video, mask=mask, keep_temporal=keep_temporal, pooling=pooling, draws=draws
    )
    weights = {key: normal(*found[f"x_{key}"].shape) for key in ("vis", "pool", "clip")}
    loss = (found["x_vis"] * weights["vis"]).mean() + (found["x_clip"] * weights["clip"]).mean()
    loss = loss + (found["x_pool"] * weights["pool"]).sum()
    loss.backward()
    kind = mask_name.removeprefix("mask_") if mask is not None else "image" if image else "video"
    tensors = {f"param.{key}": tensor for key, tensor in parameters.items()}
    tensors |= {f"grad.{key}": t.grad for key, t in p.items() if t.grad is not None}
    tensors |= {f"out.{key}": found[key] for key in ("x_vis", "x_pool", "x_clip")}
    streams = ("x_vis_with_cls", "x_clip_vis")
    tensors |= {f"out.forward_features.{kind}.{key}": found[key] for key in streams}
    tensors |= {f"train.w_{key}": weight for key, weight in weights.items()}
    tensors |= {"train.loss": loss, "in.image" if image else "in.video": video}
    tensors |= {f"rng.rand.{index}": draw for index, draw in enumerate(draws or [])}
    if mask is not None:
        tensors[f"in.{mask_name}"] = mask
    masked = f", {mask_name}" if mask is not None else ""
    config = settings | {"pool_type": pooling, "keep_temporal": keep_temporal}
    config |= {"loss": f"{LOSS}{masked}, pool {pooling}"}
    return write_case(folder, f"vision_variant_{name}", tensors, config)
