"""What stands before and after the scans of a mixer, as Numba kernels, sixteen channels at a time.

Direction 0 runs along the sequence, direction 1 against it. A direction's own sequences lie in
the order in which it runs. Arrays are flat. Tasks share no output.

Axes: G directions, B clips, L sequence length, D channels (a multiple of sixteen), K taps, P parts
of the clips.
"""

from typing import NamedTuple

from reelscan.models.simd_lanes import (
    LANES,
    Array,
    Lanes,
    constant,
    inlined,
    kernel,
    load,
    sigmoid,
    store,
)


class Shape(NamedTuple):
    """Lengths of axes."""

    directions: int
    clips: int
    length: int
    channels: int
    taps: int
    stride: int
    """From one position to the next in the sequence that all directions share (x or z)."""
    clips_of_part: int


@inlined
def _position(shape: Shape, direction: int, step: int) -> int:
    return step if direction == 0 else shape.length - 1 - step


@kernel
def convolve(x: Array, weight: Array, bias: Array, y: Array, shape: Shape, a: int, b: int) -> None:
    """Convolution and SiLU of sequences a to b of the G x B: x [B, L, D], weight [G, K, D] (the
    present first), bias [G, D] -> y [G, B, L, D].
    """
    channels, length = shape.channels, shape.length
    for sequence in range(a, b):
        direction, clip = sequence // shape.clips, sequence % shape.clips
        for step in range(length):
            row = (sequence * length + step) * channels
            for channel in range(0, channels, LANES):
                before = _convolved(x, weight, bias, shape, direction, clip, step, channel)
                store(y, row + channel, before * sigmoid(before))


@inlined
def _convolved(
    x: Array,
    weight: Array,
    bias: Array,
    shape: Shape,
    direction: int,
    clip: int,
    step: int,
    channel: int,
) -> Lanes:
    value = load(bias, direction * shape.channels + channel)
    for back in range(min(shape.taps, step + 1)):
        row = clip * shape.length + _position(shape, direction, step - back)
        tap = load(weight, (direction * shape.taps + back) * shape.channels + channel)
        value = value + tap * load(x, row * shape.stride + channel)
    return value


@kernel
def convolve_backward(
    x: Array,
    weight: Array,
    bias: Array,
    grad_y: Array,
    grad_x: Array,
    grad_weight: Array,
    grad_bias: Array,
    shape: Shape,
    first: int,
    stop: int,
) -> None:
    """Gradients for parts `first` to `stop`: of x [B, L, D], of the parameters a sum for each part,
    [P, G, K, D] and [P, G, D].
    """
    directions, channels, taps = shape.directions, shape.channels, shape.taps
    for part in range(first, stop):
        for at in range(part * directions * channels, (part + 1) * directions * channels, LANES):
            store(grad_bias, at, constant(0.0))
        width = directions * taps * channels
        for at in range(part * width, (part + 1) * width, LANES):
            store(grad_weight, at, constant(0.0))
        begin = part * shape.clips_of_part
        end = min(begin + shape.clips_of_part, shape.clips)
        clip_size = shape.length * channels
        for at in range(begin * clip_size, end * clip_size, LANES):
            store(grad_x, at, constant(0.0))
        for clip in range(begin, end):
            for direction in range(directions):
                for step in range(shape.length):
                    row = ((direction * shape.clips + clip) * shape.length + step) * channels
                    for channel in range(0, channels, LANES):
                        before = _convolved(x, weight, bias, shape, direction, clip, step, channel)
                        gate = sigmoid(before)
                        slope = gate + gate * before * (constant(1.0) - gate)
                        grad = load(grad_y, row + channel) * slope
                        _convolved_backward(
                            x,
                            weight,
                            grad_x,
                            grad_weight,
                            grad_bias,
                            shape,
                            part,
                            direction,
                            clip,
                            step,
                            channel,
                            grad,
                        )


@inlined
def _convolved_backward(
    x: Array,
    weight: Array,
    grad_x: Array,
    grad_weight: Array,
    grad_bias: Array,
    shape: Shape,
    part: int,
    direction: int,
    clip: int,
    step: int,
    channel: int,
    grad: Lanes,
) -> None:
    index = part * shape.directions + direction
    at = index * shape.channels + channel
    store(grad_bias, at, load(grad_bias, at) + grad)
    for back in range(min(shape.taps, step + 1)):
        row = clip * shape.length + _position(shape, direction, step - back)
        tap = load(weight, (direction * shape.taps + back) * shape.channels + channel)
        at = row * shape.channels + channel
        store(grad_x, at, load(grad_x, at) + grad * tap)
        at = (index * shape.taps + back) * shape.channels + channel
        value = load(x, row * shape.stride + channel)
        store(grad_weight, at, load(grad_weight, at) + grad * value)


@kernel
def merge(y: Array, z: Array, out: Array, shape: Shape, first: int, stop: int) -> None:
    """The directions' y [G, B, L, D] summed and times silu(z), for clips `first` to `stop`."""
    channels, length = shape.channels, shape.length
    for clip in range(first, stop):
        for step in range(length):
            row = clip * length + step
            other = (shape.clips + clip) * length + length - 1 - step
            for channel in range(0, channels, LANES):
                total = load(y, row * channels + channel)
                if shape.directions == 2:
                    total = total + load(y, other * channels + channel)
                gate = load(z, row * shape.stride + channel)
                store(out, row * channels + channel, total * gate * sigmoid(gate))


@kernel
def merge_backward(
    y: Array,
    z: Array,
    grad_out: Array,
    grad_y: Array,
    grad_z: Array,
    shape: Shape,
    first: int,
    stop: int,
) -> None:
    """Gradients of y [G, B, L, D] and z [B, L, D] for clips `first` to `stop`."""
    channels, length = shape.channels, shape.length
    for clip in range(first, stop):
        for step in range(length):
            row = clip * length + step
            other = (shape.clips + clip) * length + length - 1 - step
            for channel in range(0, channels, LANES):
                z_here = load(z, row * shape.stride + channel)
                grad = load(grad_out, row * channels + channel)
                gate = sigmoid(z_here)
                total = load(y, row * channels + channel)
                store(grad_y, row * channels + channel, grad * z_here * gate)
                if shape.directions == 2:
                    total = total + load(y, other * channels + channel)
                    store(grad_y, other * channels + channel, grad * z_here * gate)
                slope = gate + gate * z_here * (constant(1.0) - gate)
                store(grad_z, row * channels + channel, grad * total * slope)
