"""How far a value may lie from the stored one, and how far it does."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ATOL, RTOL = 1e-5, 1e-4
"""What the stored float32 tensors are good for."""

HALF_PRECISION = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Both tolerances of tensors that were stored in fewer bits: two units in their last place."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The worst entry of a comparison."""

    absolute: float
    """|found - stored|; infinite where one of them is not a number."""
    of_tolerance: float
    """|found - stored| / (atol + rtol |stored|): at most 1 where they agree."""


def difference(found: Tensor, stored: Tensor) -> Difference:
    """Compares on the CPU in float64; bool and integer tensors have to be equal."""
    found, stored = found.detach().cpu(), stored.detach().cpu()
    atol, rtol = ATOL, RTOL
    if not stored.is_floating_point():
        atol = rtol = 0.0
    elif stored.dtype in HALF_PRECISION:
        atol = rtol = HALF_PRECISION[stored.dtype]
    wanted, gap = stored.double(), (found.double() - stored.double()).abs()
    gap = torch.where(found.double() == wanted, 0.0, gap).nan_to_num(math.inf)
    if gap.numel() == 0 or not bool(gap.any()):
        return Difference(absolute=0.0, of_tolerance=0.0)
    return Difference(
        absolute=gap.max().item(),
        of_tolerance=(gap / (atol + rtol * wanted.abs()).clamp(min=1e-300)).max().item(),
    )
