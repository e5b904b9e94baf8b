"""The published training, defects included: each of our corrections undone by its own option.

docs/differences.md gives the reason for each of them.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reelscan.pretrain.pretrain_config import PretrainConfig


def published_options(config: "PretrainConfig") -> dict[str, object]:
    """The parts of a configuration that differ in the published training, changed to it.

    A precision of fp32 stays: the stored tensors of the published system were made in it.
    """
    precision = config.run.precision
    return {
        "model": replace(
            config.model,
            vision=replace(
                config.model.vision,
                published_init=True,
                position_init="published",
                scan_order="spatial-first",
            ),
        ),
        "data": replace(config.data, sample_ids="per_corpus"),
        "loss_options": replace(
            config.loss_options,
            contrastive_gradient="local_slice",
            negative_weights="after_softmax",
            masked_language_mean="local",
        ),
        "optimizer": replace(config.optimizer, published_decay=True, clip_gradient_norm=None),
        "guard": replace(config.guard, spike_deviations=None),
        "run": replace(config.run, precision=precision if precision == "fp32" else "bf16_weights"),
    }
