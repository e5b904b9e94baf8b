"""Floating point operations of the video encoder, counted from its shape.

A multiply-add is two. Counted are products of matrices, the convolutions and the scans; left out
are norms, gates and activations, well below 1 %. One token of one block:

    in_proj       2 * C * 2D          x_proj   2 * D * (R + 2S)    a direction
    out_proj      2 * D * C           dt_proj  2 * R * D           a direction
    convolution   2 * K * D           scan     9 * D * S           a direction

with C width, D = expand * C inner channels, R = ceil(C / 16) rank of the steps, S states, K taps.
The scan's 9: exp(dt A) 2, dt B x 2, h = a h + b 2, C h 2, the state's sum 1. A patch costs
2 * 3 * patches' pixels * C, an alignment decoder 2 * C * E a token. Backward is twice forward.
"""

import math

import torch

from reelscan.models.videomamba_config import VideoMambaConfig

PEAK_BF16_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "H20": 148e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bfloat16 products a second, from the makers' data sheets."""


def encoder_flops(config: VideoMambaConfig, *, frames: int, visible_fraction: float = 1.0) -> float:
    """Of one forward pass over one clip of `frames` frames, of whose patches a part is visible."""
    _, rows, columns = config.grid
    patches = int(frames // config.tubelet_size * rows * columns * visible_fraction)
    tokens = 1 + patches
    inner, rank = config.expand * config.width, math.ceil(config.width / 16)
    direction = (
        2 * inner * (rank + 2 * config.state_size)
        + 2 * rank * inner
        + 2 * config.conv_width * inner
        + 9 * inner * config.state_size
    )
    block = 2 * config.width * 2 * inner + 2 * inner * config.width + 2 * direction
    pixels = 3 * config.patch_size**2 * config.tubelet_size
    decoders = config.alignment_layers * 2 * config.width * config.alignment_width
    return float(tokens * (config.depth * block + decoders) + 2 * patches * pixels * config.width)


def peak_flops(device: torch.device) -> float | None:
    """What the GPU could do in bfloat16 at most; None for what the table does not know."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    matches = [key for key in PEAK_BF16_FLOPS if key in name]
    return PEAK_BF16_FLOPS[max(matches, key=len)] if matches else None
