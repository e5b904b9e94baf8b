"""An encoder for clips of another length than it was trained on, sharing its weights."""

from dataclasses import replace

import torch

from reelscan.models.videomamba import VideoMamba
from reelscan.models.vision_checkpoint import fit_encoder_state


def with_clip_length(encoder: VideoMamba, *, frames: int) -> VideoMamba:
    """The encoder with its positions in time interpolated to `frames`; all else is shared.

    The alignment layers are left out. Raises ValueError if `frames` do not fit its tubelets.
    """
    config = replace(encoder.config, frames=frames, alignment_layers=0)
    if config.frames == encoder.config.frames:
        return encoder
    with torch.device("meta"):
        fitted = VideoMamba(config)
    state = {
        name: tensor
        for name, tensor in encoder.state_dict().items()
        if not name.startswith("clip_decoder.")
    }
    fitted.load_state_dict(fit_encoder_state(state, config), assign=True)
    # Not learned and read by alignment alone, so it is not in the state.
    del fitted.alignment_positions
    return fitted.eval()
