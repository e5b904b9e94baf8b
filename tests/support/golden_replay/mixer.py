"""ssm_bimixer_*, ssm_unimixer_*: Mamba's mixer in two directions and in one, with gradients."""

import math

from golden_replay.case import Case
from reelscan.models.mixer import BidirectionalMixer, MambaMixer
from reelscan.models.weights import load_strict


def replay(case: Case) -> None:
    settings = case.settings
    width = settings["d_model"]
    two_directions = settings.get("bimamba", True)
    settings.must_be(
        bimamba_type={"v2", "none", None},
        dt_rank={math.ceil(width / 16), "auto"},
        B=case["in.x"].shape[0],
        L=case["in.x"].shape[1],
        conv_bias=True,
        bias=False,
    )
    settings.irrelevant(
        reason="a description, and which of two kernels computed the same",
        keys=("note", "use_fast_path", "layer_idx"),
    )
    kind = BidirectionalMixer if two_directions else MambaMixer
    mixer = kind(
        width,
        state_size=settings.get("d_state", 16),
        conv_width=settings.get("d_conv", 4),
        expand=settings.get("expand", 2),
    )
    state = case.group("param.")
    load_strict(mixer, state)
    mixer.to(device=case.device, dtype=next(iter(state.values())).dtype)
    hidden = case.leaf("in.x")
    mixed = mixer(hidden)
    case.compare("out.y", mixed)
    mixed.backward(case["train.dout"])
    case.compare_if_stored("grad_in.x", hidden.grad)
    case.compare_gradients(mixer)
