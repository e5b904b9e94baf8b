"""One direction of a mixer over one piece of a sequence, going on where it left the piece before.

Axes: B clips, L tokens of the piece, C model width, D inner channels, S states, K taps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reelscan.models.directions import convolve_directions, merge_directions
from reelscan.models.mixer import BidirectionalMixer, scan_convolved


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What a direction keeps of the tokens that it has passed."""

    inputs: Tensor
    """[B, K - 1, D]: the last inputs of its convolution, in the order in which it runs."""
    state: Tensor
    """[1, B, D, S]: of its scan."""


def mix_piece(
    mixer: BidirectionalMixer, hidden: Tensor, carried: Carried | None, *, against: bool
) -> tuple[Tensor, Carried]:
    """What one direction adds to a piece [B, L, C] -> [B, L, C], and what the next piece needs.

    `against` the sequence, the next piece is the one before. The sums of both directions are what
    the mixer makes of the whole sequence, for gate and output projection act on each alike.
    """
    weights = mixer.weights(slice(1, 2) if against else slice(0, 1))
    x, z = mixer.in_proj(hidden).chunk(2, dim=-1)
    if against:
        x = x.flip(1)
    taps_before = weights.conv_weight.shape[-1] - 1
    if carried is None:
        past = x.new_zeros(len(x), taps_before, x.shape[-1])
    else:
        past = carried.inputs
    x = torch.cat([past, x], dim=1)
    convolved = convolve_directions(x, weights.conv_weight, weights.conv_bias)
    scanned = scan_convolved(
        convolved[:, :, taps_before:].contiguous(),
        weights,
        initial_state=None if carried is None else carried.state,
    )
    y = scanned.y.flip(2) if against else scanned.y
    mixed: Tensor = mixer.out_proj(merge_directions(y, z))
    # A copy, for a view would keep the whole piece.
    last_inputs = x[:, x.shape[1] - taps_before :].clone()
    return mixed, Carried(inputs=last_inputs, state=scanned.last_state)
