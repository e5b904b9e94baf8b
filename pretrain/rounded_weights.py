"""Training as published in bf16: the whole model rounded, its fp32 weights kept for the optimiser.

Ours (`precision` bf16) rounds the factors of products instead and leaves A_log, D, the
temperature, sums and norms in fp32.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from reelscan.pretrain.loss_parts import LossParts, WholeBatch
from reelscan.pretrain.objective import Draws, Objective, TrainingBatch


class RoundedWeights(nn.Module):
    """An objective that computes with its weights and clips rounded to bf16.

    Gradients arrive at the fp32 weights, through the rounding.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(
        self,
        batch: TrainingBatch,
        draws: Draws | None = None,
        whole: WholeBatch | None = None,
    ) -> LossParts:
        """See `Objective.forward`."""
        # The rounded copy is clamped too, but only this one is kept.
        self.objective.model.clamp_temperature()
        rounded: dict[str, Tensor] = {
            name: parameter.to(torch.bfloat16)
            for name, parameter in self.objective.named_parameters()
        }
        batch = replace(batch, clips=batch.clips.to(torch.bfloat16))
        parts: LossParts = functional_call(self.objective, rounded, (batch, draws, whole))
        return parts
