"""The CLIP teacher whose weights a training step stores, but whose settings it does not tell."""

import torch
from torch import Tensor

from golden_replay.case import Case
from golden_replay.tolerance import difference
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.clip_weights import CHANNELS_PER_HEAD, from_open_clip_state
from reelscan.models.weights import load_strict


def stored_teacher(
    case: Case,
    prefix: str,
    *,
    clips: Tensor,
    features: Tensor,
    return_layers: int,
    return_interval: int,
    l2_features: bool,
) -> ClipVision:
    """A teacher of the sizes that its weights show.

    They do not show the number of heads: taken is the one that comes closest to the stored
    features, and these are then compared like everything else.
    """
    state = case.group(prefix)
    width, output_dim = state["proj"].shape
    patch = state["conv1.weight"].shape[-1]
    side = round((len(state["positional_embedding"]) - 1) ** 0.5)
    blocks = {name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")}
    published = max(1, width // CHANNELS_PER_HEAD)
    candidates = [heads for heads in range(1, width + 1) if width % heads == 0]
    best, best_gap = None, float("inf")
    for heads in sorted(candidates, key=lambda heads: heads != published):
        config = ClipVisionConfig(
            image_size=side * patch,
            patch_size=patch,
            width=width,
            layers=len(blocks),
            heads=heads,
            output_dim=output_dim,
            return_layers=return_layers,
            return_interval=return_interval,
            l2_features=l2_features,
        )
        teacher = ClipVision(config)
        load_strict(teacher, from_open_clip_state(state))
        teacher.to(case.device).eval()
        with torch.no_grad():
            gap = difference(teacher(clips).features, features).of_tolerance
        if gap < best_gap:
            best, best_gap = teacher, gap
        if gap <= 1.0:
            break
    assert best is not None
    return best
