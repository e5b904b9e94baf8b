"""sm_classifier_*: a published classifier; its head reads the class token."""

import torch
from torch.nn import functional as F

from golden_replay.case import Case
from golden_replay.vision_settings import vision_config
from reelscan.models.videomamba import VideoMamba
from reelscan.models.vision_checkpoint import fit_encoder_state
from reelscan.models.weights import load_strict

FUSED, NOT_FUSED = "out.logits", "out.logits_nonfused"


def replay(case: Case) -> None:
    case.settings.must_be(
        num_classes=case.stored(FUSED).shape[1], fc_drop_rate=0.0, drop_path_rate=0.0
    )
    for name in case.names("out.logits"):
        assert name in (FUSED, NOT_FUSED), f"{name} is no known output"
        _classify(case, name)


def _classify(case: Case, name: str) -> None:
    config = vision_config(
        case.settings, alignment_layers=0, last_alignment_before_mixer=name == FUSED
    )
    state = case.group("param.")
    head = {part: state[f"head.{part}"].clone().requires_grad_() for part in ("weight", "bias")}
    model = VideoMamba(config)
    load_strict(model, fit_encoder_state(state, config), allowed_missing=("pool_norm.*",))
    model.to(device=case.device, dtype=state["pos_embed"].dtype).eval()
    class_token = model.encode(case["in.video"].transpose(1, 2)).tokens[:, 0]
    logits = F.linear(class_token, head["weight"], head["bias"])
    case.compare(name, logits)
    if name != FUSED or "out.loss" not in case:
        return
    loss = F.cross_entropy(logits, case["in.label"])
    case.compare("out.loss", loss)
    loss.backward()
    for gradient in case.names("grad.head."):
        case.compare(gradient, head[gradient.removeprefix("grad.head.")].grad)
    parameters = dict(model.named_parameters())
    for gradient in case.names("grad."):
        key = gradient.removeprefix("grad.").replace("norm_f.", "norm.")
        if not key.startswith("head."):
            case.compare(gradient, parameters[key].grad)
    assert torch.isfinite(loss)
