"""The selective-scan recurrence as a plain loop: what every other implementation is compared with.

Axes: G independent groups, B clips, L sequence length, D inner channels, S states.
"""

import torch
from torch import Tensor


def reference_recurrence(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t and y_t = sum_S C_t h_t (Gu and Dao, 2023).

    u, delta [G, B, L, D] (delta after softplus), A [G, D, S], B, C [G, B, L, S], initial_state [G, B, D, S], one
    floating dtype throughout. Returns y [G, B, L, D] and the last state [G, B, D, S].
    """
    state = initial_state
    outputs = []
    for step in range(u.shape[2]):
        delta_step = delta[:, :, step, :, None]
        decay = torch.exp(delta_step * A[:, None])
        entry = delta_step * u[:, :, step, :, None] * B[:, :, step, None, :]
        state = decay * state + entry
        outputs.append((state * C[:, :, step, None, :]).sum(dim=-1))
    return torch.stack(outputs, dim=2), state
