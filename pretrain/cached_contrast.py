"""A contrastive loss over more clips than fit into memory at once (GradCache, Gao et al., 2021).

Vectors of all parts are computed first, without gradients; the loss and its derivatives by them
follow; then each part is computed again with gradients and pulls its vectors along those
derivatives. The gradient is that of the whole batch, up to rounding: dropout and masks are drawn
from the same seed both times.

Axes: M parts, B clips of a part, T frames, E embedding width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reelscan.pretrain.distributed import mean_over_processes
from reelscan.pretrain.loss_parts import Embedded, SharedContrast, WholeBatch
from reelscan.pretrain.objective import Objective, TrainingBatch


def survey(
    objective: Objective,
    parts: Sequence[TrainingBatch],
    *,
    seed_part: Callable[[int], None],
) -> list[WholeBatch]:
    """What each part has to know of all parts of all processes.

    `seed_part(number)` seeds torch's generators for a part; call it again before its forward
    pass, whose loss is to be divided by M. Every part must have as many clips.
    """
    embedded, ids, asked = [], [], []
    with torch.no_grad():
        for number, part in enumerate(parts):
            if objective.losses.masked_language:
                seed_part(number)
                asked.append(objective.count_asked(part.text))
            if objective.losses.contrastive:
                seed_part(number)
                embedded.append(objective.embed(part))
                ids.append(part.sample_ids)
    mean_asked = mean_over_processes(torch.stack(asked).mean()) if asked else None
    shares = (
        share_contrast(objective, embedded, torch.cat(ids)) if embedded else [None] * len(parts)
    )
    return [WholeBatch(contrast=share, asked=mean_asked) for share in shares]


def share_contrast(
    objective: Objective, embedded: Sequence[Embedded], sample_ids: Tensor
) -> list[SharedContrast]:
    """From the vectors of M parts, and the ids int64 [M * B] of their clips."""
    count = len(embedded)
    video = torch.cat([part.video for part in embedded]).requires_grad_()
    text = torch.cat([part.text for part in embedded]).requires_grad_()
    learned = objective.contrast_parameters
    with torch.enable_grad():
        loss = objective.contrast(video, text, sample_ids)
    by_video, by_text, *by_learned = torch.autograd.grad(loss, (video, text, *learned))
    slices = zip(by_video.chunk(count), by_text.chunk(count), strict=True)
    return [
        SharedContrast(
            loss=loss.detach(),
            video_gradient=count * video_gradient,
            text_gradient=count * text_gradient,
            parameter_gradients=tuple(by_learned),
        )
        for video_gradient, text_gradient in slices
    ]
