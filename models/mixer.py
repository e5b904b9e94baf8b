"""The mixers: a causal convolution and a selective scan, in one direction or in both.

Axes: G directions, B clips, L sequence length, C model width, D inner channels, S states, K taps,
R rank of the time steps.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from reelscan.models.directions import convolve_directions, merge_directions
from reelscan.models.norm import at_least_float32
from reelscan.models.scan_backend import uses_gpu_kernels
from reelscan.models.selective_scan import ScanOutput, selective_scan

TIME_STEP_RANGE = (0.001, 0.1)
"""Where time steps start, as in Mamba."""


@dataclass(frozen=True, kw_only=True)
class DirectionWeights:
    """The parameters of G directions, stacked."""

    conv_weight: Tensor
    """[G, D, K]"""
    conv_bias: Tensor
    """[G, D]"""
    x_proj: Tensor
    """[G, R + 2 S, D]"""
    dt_weight: Tensor
    """[G, D, R]"""
    dt_bias: Tensor
    """[G, D]"""
    A_log: Tensor
    """[G, D, S]"""
    D: Tensor
    """[G, D]"""


def scan_directions(x: Tensor, weights: DirectionWeights) -> Tensor:
    """Convolve and scan all directions at once: x [B, L, D] -> [G, B, L, D], not yet gated.

    Each direction's output is in the order in which it runs, the second's against the sequence.
    A, D and the bias of the time steps enter in float32 or wider, whatever x is.
    """
    x = convolve_directions(x, weights.conv_weight, weights.conv_bias)
    return scan_convolved(x, weights).y


def scan_convolved(
    x: Tensor, weights: DirectionWeights, *, initial_state: Tensor | None = None
) -> ScanOutput:
    """Scan what the convolution made, x [G, B, L, D]; initial_state [G, B, D, S], by default 0."""
    rank, states = weights.dt_weight.shape[-1], weights.A_log.shape[-1]
    shape = x.shape[:3]
    projected = torch.bmm(x.flatten(1, 2), weights.x_proj.transpose(1, 2))
    steps = torch.bmm(projected[..., :rank], weights.dt_weight.transpose(1, 2))
    B, C = projected[..., rank : rank + states], projected[..., rank + states :]
    return selective_scan(
        x,
        steps.view(*shape, -1),
        -torch.exp(at_least_float32(weights.A_log)),
        B.reshape(*shape, states),
        C.reshape(*shape, states),
        D=weights.D,
        delta_bias=weights.dt_bias,
        delta_softplus=True,
        initial_state=initial_state,
    )


def _mix_in_one(xz: Tensor, weights: list[Tensor], out_weight: Tensor) -> Tensor:
    # Only here, for it is of use beside a GPU alone.
    from reelscan.models.cuda.mix_directions import mix_directions

    mixed: Tensor = mix_directions(xz, weights, out_weight)
    return mixed


class MambaMixer(nn.Module):
    """Mamba's mixer, one direction, in the published parameter names (Gu and Dao, 2023)."""

    def __init__(
        self, width: int, *, state_size: int = 16, conv_width: int = 4, expand: int = 2
    ) -> None:
        super().__init__()
        inner, rank = expand * width, math.ceil(width / 16)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, conv_width, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(_first_decay_rates(inner, state_size))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        initialise_time_steps(self.dt_proj)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [B, L, C] -> [B, L, C]; in one direction a position sees itself and those before,
        in two all others.
        """
        xz = self.in_proj(hidden)
        if uses_gpu_kernels(xz):
            return _mix_in_one(xz, self._parameters_of_directions(), self.out_proj.weight)
        x, z = xz.chunk(2, dim=-1)
        mixed: Tensor = self.out_proj(merge_directions(scan_directions(x, self.weights()), z))
        return mixed

    def _parameters_of_directions(self) -> list[Tensor]:
        """As published, direction by direction, each in the order of `DirectionWeights`."""
        conv, steps = self.conv1d, self.dt_proj
        forward = [conv.weight, _bias(conv), self.x_proj.weight, steps.weight, steps.bias]
        return [*forward, self.A_log, self.D]

    def weights(self, directions: slice = slice(None)) -> DirectionWeights:
        """The parameters of these directions, the one against the sequence being the second."""
        parameters = self._parameters_of_directions()
        count = len(fields(DirectionWeights))
        stacked = [torch.stack(parameters[number::count][directions]) for number in range(count)]
        conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A_log, D = stacked
        return DirectionWeights(
            conv_weight=conv_weight.squeeze(2),
            conv_bias=conv_bias,
            x_proj=x_proj,
            dt_weight=dt_weight,
            dt_bias=dt_bias,
            A_log=A_log,
            D=D,
        )


class BidirectionalMixer(MambaMixer):
    """Mamba's mixer in both directions, input and output projections shared (Zhu et al., 2024).

    The backward direction has a convolution, projections and state-space parameters of its own
    (`_b`). Both outputs are gated alike and summed, not halved.
    """

    def __init__(
        self, width: int, *, state_size: int = 16, conv_width: int = 4, expand: int = 2
    ) -> None:
        super().__init__(width, state_size=state_size, conv_width=conv_width, expand=expand)
        inner, rank = expand * width, math.ceil(width / 16)
        self.conv1d_b = nn.Conv1d(inner, inner, conv_width, groups=inner)
        self.x_proj_b = nn.Linear(inner, rank + 2 * state_size, bias=False)
        self.dt_proj_b = nn.Linear(rank, inner)
        self.A_b_log = nn.Parameter(_first_decay_rates(inner, state_size))
        self.D_b = nn.Parameter(torch.ones(inner))
        initialise_time_steps(self.dt_proj_b)

    def _parameters_of_directions(self) -> list[Tensor]:
        conv, steps = self.conv1d_b, self.dt_proj_b
        backward = [conv.weight, _bias(conv), self.x_proj_b.weight, steps.weight, steps.bias]
        return [*super()._parameters_of_directions(), *backward, self.A_b_log, self.D_b]


def initialise_time_steps(dt_proj: nn.Linear) -> None:
    """Let the time steps start log-uniform in `TIME_STEP_RANGE`: the bias is softplus inverted."""
    low, high = (math.log(bound) for bound in TIME_STEP_RANGE)
    bound = dt_proj.in_features**-0.5
    with torch.no_grad():
        dt_proj.weight.uniform_(-bound, bound)
        steps = torch.exp(torch.rand_like(dt_proj.bias) * (high - low) + low)
        dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))


def _first_decay_rates(inner: int, states: int) -> Tensor:
    """log(1 .. S) in every channel, float32 [D, S]."""
    return torch.arange(1, states + 1, dtype=torch.float32).log().repeat(inner, 1)


def _bias(module: nn.Conv1d) -> Tensor:
    assert module.bias is not None
    return module.bias
