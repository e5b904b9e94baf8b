"""CLIP image towers under other names: open_clip, Hugging Face, the published extract."""

from collections.abc import Mapping

import torch
from torch import Tensor

from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.weights import load_strict

CHANNELS_PER_HEAD = 64
"""What every published CLIP vision transformer has; weights do not tell."""


def clip_vision_from_weights(
    state: Mapping[str, Tensor], *, quick_gelu: bool = True, heads: int | None = None
) -> ClipVision:
    """An image tower from a CLIP state dict in any of the known names; sizes from its shapes.

    `quick_gelu`: as in `ClipVisionConfig`. `heads`: None for one per 64 channels. Raises
    ValueError if the weights are of no CLIP vision transformer.
    """
    if any(name.startswith("vision_model.") for name in state):
        tower = from_hugging_face_state(state)
    else:
        tower = from_open_clip_state(state)
    expected = ("conv1.weight", "positional_embedding", "proj", "ln_pre.weight")
    absent = [name for name in expected if name not in tower]
    if absent:
        raise ValueError(
            f"these are no weights of a CLIP vision transformer: {', '.join(absent)} missing; "
            "give those of open_clip, of a Hugging Face CLIPModel, or a published extract"
        )
    width, patch_size = tower["conv1.weight"].shape[0], tower["conv1.weight"].shape[-1]
    side = round((len(tower["positional_embedding"]) - 1) ** 0.5)
    blocks = {name.split(".")[2] for name in tower if name.startswith("transformer.resblocks.")}
    config = ClipVisionConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        width=width,
        layers=len(blocks),
        heads=heads or max(1, width // CHANNELS_PER_HEAD),
        output_dim=tower["proj"].shape[1],
        quick_gelu=quick_gelu,
    )
    vision = ClipVision(config)
    load_strict(vision, tower)
    return vision.eval()


def from_open_clip_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of an open_clip or original CLIP state dict, in `ClipVision`'s names.

    Takes a whole model's names (`visual.*`, the text tower is left out) and those of a tower or
    a published extract alone.
    """
    if any(name.startswith("visual.") for name in state):
        state = {
            name.removeprefix("visual."): tensor
            for name, tensor in state.items()
            if name.startswith("visual.")
        }
    return {name: _as_conv3d(name, tensor) for name, tensor in state.items()}


_HUGGING_FACE_NAMES = (
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.patch_embedding.", "conv1."),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("pre_layrnorm.", "ln_pre."),  # sic
    ("post_layernorm.", "ln_post."),
    ("encoder.layers.", "transformer.resblocks."),
    (".self_attn.", ".attn."),
    (".layer_norm1.", ".ln_1."),
    (".layer_norm2.", ".ln_2."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)


def from_hugging_face_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of a Hugging Face CLIP state dict, in `ClipVision`'s names.

    Takes the names of CLIPModel and CLIPVisionModelWithProjection. Raises ValueError without the
    output projection, which a CLIPVisionModel lacks.
    """
    if "visual_projection.weight" not in state:
        raise ValueError(
            "visual_projection.weight is missing, so these weights cannot give CLIP features; "
            "save them from CLIPModel or CLIPVisionModelWithProjection"
        )
    renamed = {"proj": state["visual_projection.weight"].T.contiguous()}
    for name, tensor in state.items():
        inner = name.removeprefix("vision_model.")
        if inner == name or inner == "embeddings.position_ids":
            continue
        for theirs, ours in _HUGGING_FACE_NAMES:
            inner = inner.replace(theirs, ours)
        renamed[inner] = _as_conv3d(inner, tensor)
    return _combine_projections(renamed)


def _as_conv3d(name: str, tensor: Tensor) -> Tensor:
    """The patch kernel with a time axis of one; anything else as it is."""
    return tensor.unsqueeze(2) if name == "conv1.weight" and tensor.ndim == 4 else tensor


def _combine_projections(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value of a block, stored one by one, become its `in_proj_*`."""
    combined = dict(state)
    for name in state:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if ".q_proj." in name and all(part in state for part in parts):
            joined = torch.cat([combined.pop(part) for part in parts])
            combined[name.replace(".q_proj.", ".in_proj_")] = joined
    return combined
