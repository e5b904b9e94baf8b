"""The backward pass of the selective scan as Numba kernels; see `scan_kernels` for the rest.

Axes: G groups, B clips, L sequence length, D channels (a multiple of sixteen), S states, V blocks
of channels, P parts of the clips, K chunks of the sequence.
"""

from reelscan.models.scan_kernels import (
    Gradients,
    Inputs,
    Place,
    Scratch,
    Sizes,
    place_of,
    task_of,
)
from reelscan.models.simd_lanes import (
    LANES,
    Array,
    Lanes,
    constant,
    exp2,
    inlined,
    kernel,
    load,
    sigmoid,
    softplus,
    spread,
    store,
    total,
)

LN_2 = 0.6931471805599453


@kernel
def backward_tasks(
    inputs: Inputs,
    kept: Array,
    grad_y: Array,
    gradients: Gradients,
    sizes: Sizes,
    scratch: Scratch,
    first: int,
    stop: int,
) -> None:
    """Run the tasks from `first` to before `stop`; every element of their outputs is written."""
    for number in range(first, stop):
        task = task_of(number, sizes)
        for channel in range(task.first_channel, task.stop_channel, LANES):
            _clear_sums(gradients, sizes, place_of(task, task.first_clip, 0, channel, sizes))
        for clip in range(task.first_clip, task.stop_clip):
            for chunk in range(sizes.chunks - 1, -1, -1):
                place = place_of(task, clip, chunk, task.first_channel, sizes)
                for index in range(place.steps * sizes.states):
                    store(scratch.B, index * LANES, constant(0.0))
                    store(scratch.C, index * LANES, constant(0.0))
                for channel in range(task.first_channel, task.stop_channel, LANES):
                    place = place_of(task, clip, chunk, channel, sizes)
                    _recompute_chunk(inputs, kept, sizes, scratch, place)
                    _backward_chunk(inputs, grad_y, gradients, sizes, scratch, place)
                _sum_channels(gradients, sizes, scratch, task.block, place)


@inlined
def _clear_sums(gradients: Gradients, sizes: Sizes, place: Place) -> None:
    at = place.part * sizes.channels + place.channel
    store(gradients.skip, at, constant(0.0))
    store(gradients.bias, at, constant(0.0))
    for n in range(sizes.states):
        at = (place.part * sizes.states + n) * sizes.channels + place.channel
        store(gradients.rates, at, constant(0.0))


@inlined
def _time_steps_and_slopes(inputs: Inputs, sizes: Sizes, scratch: Scratch, place: Place) -> None:
    """Fill delta and slope of the scratch, the derivative of the softplus."""
    bias = load(inputs.bias, place.group * sizes.channels + place.channel)
    for step in range(place.steps):
        row = place.sequence * sizes.length + place.step + step
        delta = load(inputs.delta, row * sizes.channels + place.channel) + bias
        slope = constant(1.0)
        if sizes.softplus:
            slope = sigmoid(delta)
            delta = softplus(delta)
        store(scratch.delta, step * LANES, delta)
        store(scratch.slope, step * LANES, slope)


@inlined
def _recompute_chunk(
    inputs: Inputs, kept: Array, sizes: Sizes, scratch: Scratch, place: Place
) -> None:
    """Fill states, decays, delta and slope of the scratch."""
    states, channels = sizes.states, sizes.channels
    for n in range(states):
        state = load(kept, (place.chunk * states + n) * channels + place.channel)
        store(scratch.states, n * LANES, state)
    _time_steps_and_slopes(inputs, sizes, scratch, place)
    whole = place.steps - place.steps % 4
    for step in range(0, whole, 4):
        _recompute_four_steps(inputs, sizes, scratch, place, step)
    for step in range(whole, place.steps):
        _recompute_one_step(inputs, sizes, scratch, place, step)


@inlined
def _recompute_one_step(
    inputs: Inputs, sizes: Sizes, scratch: Scratch, place: Place, step: int
) -> None:
    states, channels = sizes.states, sizes.channels
    rates = place.group * states * channels + place.channel
    row = place.sequence * sizes.length + place.step + step
    delta = load(scratch.delta, step * LANES)
    entry = delta * load(inputs.u, row * channels + place.channel)
    for n in range(states):
        at = (step * states + n) * LANES
        decay = exp2(delta * load(inputs.rates, rates + n * channels))
        state = decay * load(scratch.states, at) + entry * spread(inputs.B, row * states + n)
        store(scratch.decays, at, decay)
        store(scratch.states, at + states * LANES, state)


@inlined
def _recompute_four_steps(
    inputs: Inputs, sizes: Sizes, scratch: Scratch, place: Place, step: int
) -> None:
    """As `_recompute_one_step` four times, but a state stays in a register meanwhile."""
    states, channels = sizes.states, sizes.channels
    rates, width = place.group * states * channels + place.channel, states * LANES
    row = place.sequence * sizes.length + place.step + step
    u = row * channels + place.channel
    delta0, delta1 = load(scratch.delta, step * LANES), load(scratch.delta, (step + 1) * LANES)
    delta2 = load(scratch.delta, (step + 2) * LANES)
    delta3 = load(scratch.delta, (step + 3) * LANES)
    entry0, entry1 = delta0 * load(inputs.u, u), delta1 * load(inputs.u, u + channels)
    entry2 = delta2 * load(inputs.u, u + 2 * channels)
    entry3 = delta3 * load(inputs.u, u + 3 * channels)
    for n in range(states):
        rate, mix = load(inputs.rates, rates + n * channels), row * states + n
        at = (step * states + n) * LANES
        decay0, decay1 = exp2(delta0 * rate), exp2(delta1 * rate)
        decay2, decay3 = exp2(delta2 * rate), exp2(delta3 * rate)
        state1 = decay0 * load(scratch.states, at) + entry0 * spread(inputs.B, mix)
        state2 = decay1 * state1 + entry1 * spread(inputs.B, mix + states)
        state3 = decay2 * state2 + entry2 * spread(inputs.B, mix + 2 * states)
        state4 = decay3 * state3 + entry3 * spread(inputs.B, mix + 3 * states)
        store(scratch.decays, at, decay0)
        store(scratch.decays, at + width, decay1)
        store(scratch.decays, at + 2 * width, decay2)
        store(scratch.decays, at + 3 * width, decay3)
        store(scratch.states, at + width, state1)
        store(scratch.states, at + 2 * width, state2)
        store(scratch.states, at + 3 * width, state3)
        store(scratch.states, at + 4 * width, state4)


@inlined
def _backward_chunk(
    inputs: Inputs,
    grad_y: Array,
    gradients: Gradients,
    sizes: Sizes,
    scratch: Scratch,
    place: Place,
) -> None:
    states, channels = sizes.states, sizes.channels
    for n in range(states):
        at = (place.sequence * states + n) * channels + place.channel
        store(scratch.state, n * LANES, load(gradients.state, at))
        store(scratch.rates, n * LANES, constant(0.0))
    skip_sum, bias_sum = constant(0.0), constant(0.0)
    whole = place.steps - place.steps % 4
    for step in range(place.steps - 1, whole - 1, -1):
        sums = _back_one_step(inputs, grad_y, gradients, sizes, scratch, place, step)
        skip_sum, bias_sum = skip_sum + sums[0], bias_sum + sums[1]
    for step in range(whole - 4, -1, -4):
        sums = _back_four_steps(inputs, grad_y, gradients, sizes, scratch, place, step)
        skip_sum, bias_sum = skip_sum + sums[0], bias_sum + sums[1]
    _add_sums(gradients, sizes, scratch, place, skip_sum, bias_sum)


@inlined
def _back_one_step(
    inputs: Inputs,
    grad_y: Array,
    gradients: Gradients,
    sizes: Sizes,
    scratch: Scratch,
    place: Place,
    step: int,
) -> tuple[Lanes, Lanes]:
    """Pass the state's gradient back over a step; what the step gives to D and delta_bias."""
    states, channels = sizes.states, sizes.channels
    rates = place.group * states * channels + place.channel
    row = place.sequence * sizes.length + place.step + step
    delta = load(scratch.delta, step * LANES)
    dy = load(grad_y, row * channels + place.channel)
    entry = delta * load(inputs.u, row * channels + place.channel)
    grad_entry, grad_delta = constant(0.0), constant(0.0)
    for n in range(states):
        at = (step * states + n) * LANES
        adjoint = load(scratch.state, n * LANES) + dy * spread(inputs.C, row * states + n)
        state = load(scratch.states, at + states * LANES)
        store(scratch.C, at, load(scratch.C, at) + dy * state)
        store(scratch.B, at, load(scratch.B, at) + entry * adjoint)
        grad_entry = grad_entry + adjoint * spread(inputs.B, row * states + n)
        adjoint = adjoint * load(scratch.decays, at)
        store(scratch.state, n * LANES, adjoint)
        exponent = adjoint * load(scratch.states, at)
        grad_delta = grad_delta + exponent * load(inputs.rates, rates + n * channels)
        store(scratch.rates, n * LANES, load(scratch.rates, n * LANES) + exponent * delta)
    return _finish_step(
        inputs, gradients, sizes, scratch, place, step, dy, delta, grad_entry, grad_delta
    )


@inlined
def _finish_step(
    inputs: Inputs,
    gradients: Gradients,
    sizes: Sizes,
    scratch: Scratch,
    place: Place,
    step: int,
    dy: Lanes,
    delta: Lanes,
    grad_entry: Lanes,
    grad_delta: Lanes,
) -> tuple[Lanes, Lanes]:
    """Write the step's gradients; what it gives to D and delta_bias."""
    row = place.sequence * sizes.length + place.step + step
    at = row * sizes.channels + place.channel
    u, skip = load(inputs.u, at), load(inputs.skip, place.group * sizes.channels + place.channel)
    grad_delta = grad_delta * constant(LN_2) + grad_entry * u
    grad_delta = grad_delta * load(scratch.slope, step * LANES)
    store(gradients.delta, at, grad_delta)
    store(gradients.u, at, grad_entry * delta + dy * skip)
    return dy * u, grad_delta


@inlined
def _back_four_steps(
    inputs: Inputs,
    grad_y: Array,
    gradients: Gradients,
    sizes: Sizes,
    scratch: Scratch,
    place: Place,
    step: int,
) -> tuple[Lanes, Lanes]:
    """As `_back_one_step` four times, from `step + 3` to `step`."""
    states, channels = sizes.states, sizes.channels
    rates, width = place.group * states * channels + place.channel, states * LANES
    row = place.sequence * sizes.length + place.step + step
    u = row * channels + place.channel
    delta0, delta1 = load(scratch.delta, step * LANES), load(scratch.delta, (step + 1) * LANES)
    delta2 = load(scratch.delta, (step + 2) * LANES)
    delta3 = load(scratch.delta, (step + 3) * LANES)
    entry0, entry1 = delta0 * load(inputs.u, u), delta1 * load(inputs.u, u + channels)
    entry2 = delta2 * load(inputs.u, u + 2 * channels)
    entry3 = delta3 * load(inputs.u, u + 3 * channels)
    dy0, dy1 = load(grad_y, u), load(grad_y, u + channels)
    dy2, dy3 = load(grad_y, u + 2 * channels), load(grad_y, u + 3 * channels)
    zero = constant(0.0)
    grad_entry0, grad_entry1, grad_entry2, grad_entry3 = zero, zero, zero, zero
    grad_delta0, grad_delta1, grad_delta2, grad_delta3 = zero, zero, zero, zero
    for n in range(states):
        rate, mix = load(inputs.rates, rates + n * channels), row * states + n
        at = (step * states + n) * LANES
        adjoint, rate_sum = load(scratch.state, n * LANES), load(scratch.rates, n * LANES)
        state = load(scratch.states, at + 4 * width)

        adjoint = adjoint + dy3 * spread(inputs.C, mix + 3 * states)
        _add_to(scratch.C, at + 3 * width, dy3 * state)
        _add_to(scratch.B, at + 3 * width, entry3 * adjoint)
        grad_entry3 = grad_entry3 + adjoint * spread(inputs.B, mix + 3 * states)
        adjoint = adjoint * load(scratch.decays, at + 3 * width)
        state = load(scratch.states, at + 3 * width)
        exponent = adjoint * state
        grad_delta3 = grad_delta3 + exponent * rate
        rate_sum = rate_sum + exponent * delta3

        adjoint = adjoint + dy2 * spread(inputs.C, mix + 2 * states)
        _add_to(scratch.C, at + 2 * width, dy2 * state)
        _add_to(scratch.B, at + 2 * width, entry2 * adjoint)
        grad_entry2 = grad_entry2 + adjoint * spread(inputs.B, mix + 2 * states)
        adjoint = adjoint * load(scratch.decays, at + 2 * width)
        state = load(scratch.states, at + 2 * width)
        exponent = adjoint * state
        grad_delta2 = grad_delta2 + exponent * rate
        rate_sum = rate_sum + exponent * delta2

        adjoint = adjoint + dy1 * spread(inputs.C, mix + states)
        _add_to(scratch.C, at + width, dy1 * state)
        _add_to(scratch.B, at + width, entry1 * adjoint)
        grad_entry1 = grad_entry1 + adjoint * spread(inputs.B, mix + states)
        adjoint = adjoint * load(scratch.decays, at + width)
        state = load(scratch.states, at + width)
        exponent = adjoint * state
        grad_delta1 = grad_delta1 + exponent * rate
        rate_sum = rate_sum + exponent * delta1

        adjoint = adjoint + dy0 * spread(inputs.C, mix)
        _add_to(scratch.C, at, dy0 * state)
        _add_to(scratch.B, at, entry0 * adjoint)
        grad_entry0 = grad_entry0 + adjoint * spread(inputs.B, mix)
        adjoint = adjoint * load(scratch.decays, at)
        exponent = adjoint * load(scratch.states, at)
        grad_delta0 = grad_delta0 + exponent * rate
        store(scratch.rates, n * LANES, rate_sum + exponent * delta0)
        store(scratch.state, n * LANES, adjoint)
    sums3 = _finish_step(
        inputs, gradients, sizes, scratch, place, step + 3, dy3, delta3, grad_entry3, grad_delta3
    )
    sums2 = _finish_step(
        inputs, gradients, sizes, scratch, place, step + 2, dy2, delta2, grad_entry2, grad_delta2
    )
    sums1 = _finish_step(
        inputs, gradients, sizes, scratch, place, step + 1, dy1, delta1, grad_entry1, grad_delta1
    )
    sums0 = _finish_step(
        inputs, gradients, sizes, scratch, place, step, dy0, delta0, grad_entry0, grad_delta0
    )
    skip_sum = (sums0[0] + sums1[0]) + (sums2[0] + sums3[0])
    return skip_sum, (sums0[1] + sums1[1]) + (sums2[1] + sums3[1])


@inlined
def _add_to(array: Array, at: int, value: Lanes) -> None:
    store(array, at, load(array, at) + value)


@inlined
def _add_sums(
    gradients: Gradients,
    sizes: Sizes,
    scratch: Scratch,
    place: Place,
    skip_sum: Lanes,
    bias_sum: Lanes,
) -> None:
    """Hand on what a chunk's sixteen channels give to the parameters and to the state before."""
    at = place.part * sizes.channels + place.channel
    store(gradients.skip, at, load(gradients.skip, at) + skip_sum)
    store(gradients.bias, at, load(gradients.bias, at) + bias_sum)
    for n in range(sizes.states):
        at = (place.part * sizes.states + n) * sizes.channels + place.channel
        store(gradients.rates, at, load(gradients.rates, at) + load(scratch.rates, n * LANES))
        at = (place.sequence * sizes.states + n) * sizes.channels + place.channel
        store(gradients.state, at, load(scratch.state, n * LANES))


@inlined
def _sum_channels(
    gradients: Gradients, sizes: Sizes, scratch: Scratch, block: int, place: Place
) -> None:
    rows = (block * sizes.groups * sizes.clips + place.sequence) * sizes.length + place.step
    for index in range(place.steps * sizes.states):
        gradients.B[rows * sizes.states + index] = total(load(scratch.B, index * LANES))
        gradients.C[rows * sizes.states + index] = total(load(scratch.C, index * LANES))
