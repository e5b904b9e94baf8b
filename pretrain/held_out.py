"""Measuring the model on held-out clips while it trains, by whatever the caller measures with."""

from collections.abc import Callable, Mapping

import torch

from reelscan.models.encoder import VideoTextEncoder
from reelscan.models.model_directory import fingerprint_of
from reelscan.pretrain.parallel import whole_model
from reelscan.pretrain.run_setup import RunSetup

HeldOut = Callable[[VideoTextEncoder], Mapping[str, float]]
"""From the model as it is to what is to be logged, such as recalls in percent."""

PREFIX = "held_out_"


def measure_held_out(setup: RunSetup, held_out: HeldOut | None) -> dict[str, float]:
    """Names start with `PREFIX`; call it in all processes, `held_out` is given in the first alone.

    Training mode and torch's generators are as before.
    """
    model = whole_model(setup.objective)
    if held_out is None:
        return {}
    encoder = VideoTextEncoder(
        model,
        setup.tokenizer,
        setup.preprocessing,
        fingerprint=fingerprint_of(
            model, tokenizer=setup.tokenizer, preprocessing=setup.preprocessing
        ),
        device=setup.device,
    )
    devices = [setup.device] if setup.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        measured = held_out(encoder)
    setup.objective.model.train()
    return {PREFIX + name: value for name, value in measured.items()}
