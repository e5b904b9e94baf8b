"""The selective scan as a plain loop: what every other implementation is compared with.

Axes: G independent groups, B clips, L sequence length, D inner channels, S states.
"""

import torch
from torch import Tensor
from torch.nn import functional


def reference_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t and y_t = C_t h_t + D u_t (Gu and Dao, 2023).

    u, delta [G, B, L, D]; A [G, D, S]; B, C [G, B, L, S]; D, delta_bias [G, D]; initial_state
    [G, B, D, S]; one floating dtype throughout. Returns y [G, B, L, D] and the last state.
    """
    if delta_bias is not None:
        delta = delta + delta_bias[:, None, None, :]
    if delta_softplus:
        delta = functional.softplus(delta)
    state = initial_state
    outputs = []
    for step in range(u.shape[2]):
        delta_step = delta[:, :, step, :, None]
        decay = torch.exp(delta_step * A[:, None])
        entry = delta_step * u[:, :, step, :, None] * B[:, :, step, None, :]
        state = decay * state + entry
        outputs.append((state * C[:, :, step, None, :]).sum(dim=-1))
    y = torch.stack(outputs, dim=2)
    if D is not None:
        y = y + u * D[:, None, None, :]
    return y, state
