"""A training step by the actual objective, with what passes through it written down."""

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from reelscan.pretrain import objective as objective_module
from reelscan.pretrain.objective import Draws, LossParts, Objective, TrainingBatch


class Watched:
    """What went through an objective in one step, by the published names."""

    def __init__(self, objective: Objective, batch: TrainingBatch, draws: Draws) -> None:
        self.seen: dict[str, Tensor] = {}
        self._objective = objective
        with ExitStack() as stack:
            self._watch(stack)
            self.parts: LossParts = objective(batch, draws)
            self._after()

    def _watch(self, stack: ExitStack) -> None:
        model = self._objective.model
        for module, record in (
            (model.vision_encoder, self._vision),
            (model.vision_proj, self._tensor("vision_proj")),
            (model.text_proj, self._tensor("text_proj")),
            (model.itm_head, self._tensor("vtm_logits")),
        ):
            stack.callback(module.register_forward_hook(record).remove)
        if self._objective.teacher is not None:
            stack.callback(self._objective.teacher.register_forward_hook(self._teacher).remove)
        for name, record in (("encode_text", self._text), ("fuse", self._fused)):
            method = getattr(model, name)
            stack.enter_context(patch.object(model, name, _recorded(method, record)))
        real = objective_module.alignment_loss
        recorded = _recorded(real, self._alignment)
        stack.enter_context(patch.object(objective_module, "alignment_loss", recorded))

    def _tensor(self, name: str) -> Any:
        def record(_module: object, _inputs: object, output: Tensor) -> None:
            self.seen[name] = output

        return record

    def _vision(self, _module: object, _inputs: object, output: Any) -> None:
        self.seen["vision_embeds"] = output.tokens
        self.seen["pooled_vision_embeds"] = output.pooled

    def _teacher(self, _module: object, _inputs: object, output: Any) -> None:
        self.seen["teacher_feat"] = output.features
        self.seen["teacher_attn"] = output.attention

    def _text(self, _arguments: tuple[Any, ...], output: Tensor) -> None:
        # The captions as they are come first, those with hidden tokens second.
        self.seen.setdefault("text_embeds", output)
        self.seen.setdefault("pooled_text_embeds", output[:, 0])

    def _fused(self, _arguments: tuple[Any, ...], output: Tensor) -> None:
        self.seen["last_fused"] = output

    def _alignment(self, arguments: tuple[Any, ...], _output: Tensor) -> None:
        self.seen["student_output"], self.seen["clip_output"] = arguments[:2]

    def _after(self) -> None:
        """The objective asks for the logits of hidden tokens only; here they are for all."""
        if self._objective.losses.masked_language:
            with torch.no_grad():
                logits = self._objective.model.predict_tokens(self.seen["last_fused"])
            self.seen["mlm_logits"] = logits


def _recorded(function: Any, record: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        output = function(*arguments, **options)
        record(arguments, output)
        return output

    return call
