"""Published encoder weights fitted to another image size, clip length or role.

Axes: C model width, p patch size in pixels.
"""

from torch import Tensor

from reelscan.models.positions import (
    inflate_patch_weight,
    interpolate_spatial,
    interpolate_temporal,
)
from reelscan.models.videomamba_config import VideoMambaConfig


def fit_encoder_state(state: dict[str, Tensor], config: VideoMambaConfig) -> dict[str, Tensor]:
    """The weights of a VideoMamba of another shape or of a classifier, for an encoder of `config`.

    Learned positions are interpolated to `config`'s grid, an image's patch embedding [C, 3, p, p]
    is inflated (centre frame), a classifier's head is left out and its `norm_f` becomes `norm`.
    What a classifier lacks (`pool_norm`, `clip_decoder`) stays missing.
    """
    frames, side, _ = config.grid
    fitted = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    for name in [name for name in fitted if name.startswith("norm_f.")]:
        fitted["norm." + name.removeprefix("norm_f.")] = fitted.pop(name)
    if "pos_embed" in fitted:
        fitted["pos_embed"] = interpolate_spatial(fitted["pos_embed"], side=side)
    if "temporal_pos_embedding" in fitted:
        temporal = fitted["temporal_pos_embedding"]
        fitted["temporal_pos_embedding"] = interpolate_temporal(temporal, frames=frames)
    weight = fitted.get("patch_embed.proj.weight")
    if weight is not None and weight.dim() == 4:
        inflated = inflate_patch_weight(weight, tubelet_size=config.tubelet_size)
        fitted["patch_embed.proj.weight"] = inflated
    return fitted
