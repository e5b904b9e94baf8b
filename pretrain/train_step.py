"""One step of training: forward, backward, and an update unless the loss is not to be trusted."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reelscan.pretrain.cached_contrast import survey
from reelscan.pretrain.distributed import Processes, mean_over_processes
from reelscan.pretrain.loss_parts import WholeBatch
from reelscan.pretrain.objective import Objective, TrainingBatch
from reelscan.pretrain.optimizer import LayerDecay, build_optimizer, set_learning_rate
from reelscan.pretrain.parallel import (
    average_replicated_,
    gradient_norms,
    shorten_,
    spread,
    without_averaging,
)
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.rounded_weights import RoundedWeights
from reelscan.pretrain.schedule import learning_rate_factor

LOSS_NAMES = ("total", "alignment", "contrastive", "matching", "masked_language", "distillation")
VISION, TEXT, REST = "vision_encoder", "text_encoder", "rest"


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What a step gave, the same in every process."""

    losses: Mapping[str, float]
    """By `LOSS_NAMES`; means over processes."""
    learning_rate: float
    gradient_norm: float
    """Of all gradients, before clipping."""
    gradient_norms: Mapping[str, float]
    """Of each encoder's gradients, and of the rest."""
    temperature: float
    """Of the contrastive loss."""
    applied: bool
    """Whether the weights were updated; not if a loss or the gradient is not finite, or the total
    loss is too high."""
    stop: bool
    """Whether any process was asked to stop."""


class TrainStep:
    """Trains an objective's model; call it with the parts of a batch and the number of the step.

    Seeds torch's global generators in each step from (seed, draw, process, part).
    """

    def __init__(
        self,
        objective: Objective,
        *,
        config: PretrainConfig,
        processes: Processes,
        total_steps: int,
    ) -> None:
        self.objective = objective
        rounds = config.run.precision == "bf16_weights"
        self._parallel = spread(
            RoundedWeights(objective) if rounds else objective,
            processes,
            sharding=config.parallel.sharding,
            uses_all=_uses_all(config),
        )
        self.optimizer = build_optimizer(
            objective,
            learning_rate=config.optimizer.learning_rate,
            betas=config.optimizer.betas,
            weight_decay=config.optimizer.weight_decay,
            published_decay=config.optimizer.published_decay,
            layer_decay=LayerDecay(
                blocks=config.model.vision.depth, factor=config.optimizer.vision_layer_decay
            ),
        )
        self._parts = _parts_of(objective)
        self._settings = config.optimizer
        self._seed = config.run.seed
        self._processes = processes
        self._total_steps = total_steps
        self._use_bf16 = uses_bf16(config.run.precision, processes.device)

    def __call__(
        self,
        parts: Sequence[TrainingBatch],
        step: int,
        *,
        stop_requested: bool,
        draw: int | None = None,
        highest_loss: float = math.inf,
    ) -> StepOutcome:
        """Updates the weights. Step 0 is the first.

        The parts, of equally many clips, are a batch that is computed one by one. `draw` numbers
        what is random in this step, by default like the step. A total loss above `highest_loss`
        is not learned from.
        """
        learning_rate = self._set_learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        measured = self._accumulate(parts, step if draw is None else draw)
        average_replicated_(self._parameters)
        norms = gradient_norms(self._parts)
        norm = torch.stack(list(norms.values())).norm()
        stop = norm.new_tensor(float(stop_requested))
        temperature = self.objective.model.temp.detach().float()
        # One transfer from the device, the same numbers and so the same decisions everywhere.
        numbers = mean_over_processes(
            torch.stack([*measured, norm, *norms.values(), temperature, stop])
        ).tolist()
        applied = all(map(math.isfinite, numbers)) and numbers[0] <= highest_loss
        if applied:
            shorten_(self._parameters, norm=norm, longest=self._settings.clip_gradient_norm)
            self.optimizer.step()
        losses, rest = numbers[: len(LOSS_NAMES)], numbers[len(LOSS_NAMES) :]
        return StepOutcome(
            losses=dict(zip(LOSS_NAMES, losses, strict=True)),
            learning_rate=learning_rate,
            gradient_norm=rest[0],
            gradient_norms=dict(zip(norms, rest[1:-2], strict=True)),
            temperature=rest[-2],
            applied=applied,
            stop=rest[-1] > 0,
        )

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for part in self._parts.values() for parameter in part]

    def _accumulate(self, parts: Sequence[TrainingBatch], draw: int) -> list[Tensor]:
        """Leaves the gradient of the whole batch; its losses by `LOSS_NAMES`."""

        def seed_part(number: int) -> None:
            torch.manual_seed(step_seed(self._seed, draw, self._processes.rank, number))

        count = len(parts)
        shared: list[WholeBatch | None] = [None] * count
        sums: list[Tensor] = []
        device = self._processes.device.type
        if count > 1:
            with torch.autocast(device, torch.bfloat16, enabled=self._use_bf16):
                shared = list(survey(self.objective, parts, seed_part=seed_part))
        for number, (part, whole) in enumerate(zip(parts, shared, strict=True)):
            seed_part(number)
            with without_averaging(self._parallel, last=number == count - 1):
                with torch.autocast(device, torch.bfloat16, enabled=self._use_bf16):
                    losses = self._parallel(part, whole=whole)
                (losses.total / count).backward()
            values = [getattr(losses, name).detach().float() / count for name in LOSS_NAMES]
            sums = [*map(torch.add, sums, values)] if sums else values
        return sums if count == 1 else self._with_true_total(sums)

    def _with_true_total(self, losses: list[Tensor]) -> list[Tensor]:
        """The total of parts holds a stand-in for the contrastive loss; this is the sum itself."""
        by_name = dict(zip(LOSS_NAMES, losses, strict=True))
        weights = self.objective.losses
        total = sum(getattr(weights, name) * by_name[name] for name in LOSS_NAMES[1:])
        return [torch.as_tensor(total), *losses[1:]]

    def _set_learning_rate(self, step: int) -> float:
        learning_rate = self._settings.learning_rate * learning_rate_factor(
            step,
            total_steps=self._total_steps,
            warmup_steps=round(self._settings.warmup_fraction * self._total_steps),
            floor=self._settings.final_learning_rate_fraction,
        )
        set_learning_rate(self.optimizer, learning_rate)
        return learning_rate


def _uses_all(config: PretrainConfig) -> bool:
    """Whether no step can leave a weight without a gradient."""
    losses = config.losses
    needed = (losses.contrastive, losses.matching, losses.masked_language)
    aligned = losses.alignment > 0 or config.model.vision.alignment_layers == 0
    return all(needed) and aligned and not config.data.image_shards


def _parts_of(objective: Objective) -> dict[str, list[nn.Parameter]]:
    """Trained parameters by the encoder that they belong to."""
    parts: dict[str, list[nn.Parameter]] = {VISION: [], TEXT: [], REST: []}
    for name, parameter in objective.trained_parameters():
        words = name.split(".")
        parts[words[1] if len(words) > 1 and words[1] in parts else REST].append(parameter)
    return parts


def step_seed(seed: int, step: int, rank: int, part: int = 0) -> int:
    """A seed for everything random in a part of a step of a process."""
    name = f"{seed}/{step}/{rank}" + (f"/{part}" if part else "")
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uses_bf16(precision: str, device: torch.device) -> bool:
    """What `RunConfig.precision` means on a device."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")
