"""The learning rate as a pure function of the step: linear warm-up, cosine, floor."""

import math


def learning_rate_factor(step: int, *, total_steps: int, warmup_steps: int, floor: float) -> float:
    """Fraction of the peak learning rate at `step` (0 is the first step), in [floor, 1].

    The floor holds during warm-up too, so that no step is wasted at a rate of 0.
    Raises ValueError if the warm-up does not fit into the run or the floor is not in [0, 1].
    """
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"warmup_steps is {warmup_steps}, but must lie between 0 and total_steps "
            f"({total_steps}): shorten the warm-up or lengthen the run"
        )
    if not 0.0 <= floor <= 1.0:
        raise ValueError(f"floor is {floor}, but must lie between 0 and 1 (fraction of the peak)")
    if step < warmup_steps:
        factor = step / warmup_steps
    else:
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        factor = 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return max(floor, factor)
