"""One step of training: forward, backward, and an update unless something is not finite."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reelscan.pretrain.distributed import Processes, averaging_gradients, mean_over_processes
from reelscan.pretrain.objective import Objective, TrainingBatch
from reelscan.pretrain.optimizer import build_optimizer
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.rounded_weights import RoundedWeights
from reelscan.pretrain.schedule import learning_rate_factor

LOSS_NAMES = ("total", "alignment", "contrastive", "matching", "masked_language")


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What a step gave, the same in every process."""

    losses: Mapping[str, float]
    """By `LOSS_NAMES`; means over processes."""
    learning_rate: float
    gradient_norm: float
    """Of all gradients, before clipping."""
    temperature: float
    """Of the contrastive loss."""
    applied: bool
    """Whether the weights were updated; not if a loss or the gradient is not finite."""
    stop: bool
    """Whether any process was asked to stop."""


class TrainStep:
    """Trains an objective's model; call it with a batch and the number of the step.

    Seeds torch's global generators in each step from (seed, step, process).
    """

    def __init__(
        self,
        objective: Objective,
        *,
        config: PretrainConfig,
        processes: Processes,
        total_steps: int,
    ) -> None:
        self.model = objective.model
        self.optimizer = build_optimizer(
            self.model,
            learning_rate=config.optimizer.learning_rate,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            published_decay=config.optimizer.published_decay,
        )
        rounds = config.run.precision == "bf16_weights"
        self._parallel = averaging_gradients(
            RoundedWeights(objective) if rounds else objective, processes
        )
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        self._settings = config.optimizer
        self._seed = config.run.seed
        self._processes = processes
        self._total_steps = total_steps
        self._use_bf16 = uses_bf16(config.run.precision, processes.device)

    def __call__(self, batch: TrainingBatch, step: int, *, stop_requested: bool) -> StepOutcome:
        """Updates the weights. Step 0 is the first."""
        torch.manual_seed(step_seed(self._seed, step, self._processes.rank))
        learning_rate = self._set_learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._processes.device.type, torch.bfloat16, enabled=self._use_bf16):
            parts = self._parallel(batch)
        parts.total.backward()
        norm = self._clip_gradients()
        measured = [getattr(parts, name).detach().float() for name in LOSS_NAMES]
        stop = norm.new_tensor(float(stop_requested))
        # One transfer from the device, the same numbers and so the same decisions everywhere.
        numbers = mean_over_processes(
            torch.stack([*measured, norm, self.model.temp.detach().float(), stop])
        ).tolist()
        applied = all(map(math.isfinite, numbers))
        if applied:
            self.optimizer.step()
        losses, (gradient_norm, temperature, stops) = numbers[:-3], numbers[-3:]
        return StepOutcome(
            losses=dict(zip(LOSS_NAMES, losses, strict=True)),
            learning_rate=learning_rate,
            gradient_norm=gradient_norm,
            temperature=temperature,
            applied=applied,
            stop=stops > 0,
        )

    def _set_learning_rate(self, step: int) -> float:
        learning_rate = self._settings.learning_rate * learning_rate_factor(
            step,
            total_steps=self._total_steps,
            warmup_steps=round(self._settings.warmup_fraction * self._total_steps),
            floor=self._settings.final_learning_rate_fraction,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        return learning_rate

    def _clip_gradients(self) -> Tensor:
        """Shortens the gradient if it is to be clipped; its norm before that."""
        longest = self._settings.clip_gradient_norm
        return nn.utils.clip_grad_norm_(self._parameters, math.inf if longest is None else longest)


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed for everything random in a step of a process."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uses_bf16(precision: str, device: torch.device) -> bool:
    """What `RunConfig.precision` means on a device."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")
