"""The selective scan as Numba kernels: sixteen channels at a time, states never leave the cache.

Arrays are flat; what they hold is said below. A task is one group, some clips and a block of
channels. Tasks share no output, so that sums come out the same for any number of threads.

Axes: G groups, B clips, L sequence length, D channels (a multiple of sixteen), S states, V blocks
of channels, P parts of the clips, K chunks of the sequence.
"""

from typing import NamedTuple

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


class Sizes(NamedTuple):
    """Lengths of axes, and how they are cut."""

    groups: int
    clips: int
    length: int
    channels: int
    states: int
    chunk: int
    """Steps between the states that are kept for the backward pass."""
    chunks: int
    clips_of_task: int
    parts: int
    channels_of_task: int
    blocks: int
    softplus: bool


class Inputs(NamedTuple):
    """What the forward and the backward pass read."""

    u: Array
    """[G, B, L, D], as delta."""
    delta: Array
    rates: Array
    """A times log2(e), [G, S, D]."""
    B: Array
    """[G, B, L, S], as C."""
    C: Array
    skip: Array
    """[G, D], as bias."""
    bias: Array


class Outputs(NamedTuple):
    """What the forward pass writes."""

    y: Array
    """[G, B, L, D]"""
    state: Array
    """[G, B, S, D]: on entry the state before the sequence, then that after it."""
    kept: Array
    """[G, B, K, S, D]: the states that enter the chunks; if it is empty they are not kept."""


class Gradients(NamedTuple):
    """What the backward pass writes."""

    u: Array
    """[G, B, L, D], as delta."""
    delta: Array
    rates: Array
    """Of A, still to be summed over the parts: [G, P, S, D]."""
    B: Array
    """Still to be summed over the blocks, [V, G, B, L, S], as C."""
    C: Array
    skip: Array
    """Still to be summed over the parts, [G, P, D], as bias."""
    bias: Array
    state: Array
    """[G, B, S, D]: on entry that of the state after the sequence, then of that before it."""


class Scratch(NamedTuple):
    """What a thread has to itself, of whatever content, in vectors of sixteen channels."""

    state: Array
    """[S], and in the backward pass its gradient."""
    rates: Array
    """[S]: sums for the gradient of A."""
    states: Array
    """[chunk + 1, S]"""
    decays: Array
    """[chunk, S]"""
    delta: Array
    """[chunk], as slope."""
    slope: Array
    B: Array
    """[chunk, S], as C: each channel's own part of the gradient."""
    C: Array


class Task(NamedTuple):
    """A group, clips and channels."""

    group: int
    part: int
    first_clip: int
    stop_clip: int
    block: int
    first_channel: int
    stop_channel: int


class Place(NamedTuple):
    """Sixteen channels in a chunk of a sequence."""

    group: int
    part: int
    """Counted through all groups, as is sequence."""
    sequence: int
    chunk: int
    """Counted through all sequences."""
    step: int
    """The chunk's first."""
    steps: int
    channel: int


@inlined
def _task(number: int, sizes: Sizes) -> Task:
    block, rest = number % sizes.blocks, number // sizes.blocks
    part, group = rest % sizes.parts, rest // sizes.parts
    clip, channel = part * sizes.clips_of_task, block * sizes.channels_of_task
    return Task(
        group,
        part,
        clip,
        min(clip + sizes.clips_of_task, sizes.clips),
        block,
        channel,
        min(channel + sizes.channels_of_task, sizes.channels),
    )


@inlined
def _place(task: Task, clip: int, chunk: int, channel: int, sizes: Sizes) -> Place:
    sequence = task.group * sizes.clips + clip
    step = chunk * sizes.chunk
    return Place(
        task.group,
        task.group * sizes.parts + task.part,
        sequence,
        sequence * sizes.chunks + chunk,
        step,
        min(sizes.chunk, sizes.length - step),
        channel,
    )


@kernel
def forward_tasks(
    inputs: Inputs, outputs: Outputs, sizes: Sizes, scratch: Scratch, first: int, stop: int
) -> None:
    """Run the tasks from `first` to before `stop`."""
    for number in range(first, stop):
        task = _task(number, sizes)
        for clip in range(task.first_clip, task.stop_clip):
            for chunk in range(sizes.chunks):
                for channel in range(task.first_channel, task.stop_channel, LANES):
                    place = _place(task, clip, chunk, channel, sizes)
                    _forward_chunk(inputs, outputs, sizes, scratch, place)


@inlined
def _forward_chunk(
    inputs: Inputs, outputs: Outputs, sizes: Sizes, scratch: Scratch, place: Place
) -> None:
    states, channels = sizes.states, sizes.channels
    for n in range(states):
        state = load(outputs.state, (place.sequence * states + n) * channels + place.channel)
        store(scratch.state, n * LANES, state)
        if outputs.kept.size > 0:
            store(outputs.kept, (place.chunk * states + n) * channels + place.channel, state)
    _time_steps(inputs, sizes, scratch, place)
    skip = load(inputs.skip, place.group * channels + place.channel)
    rates = place.group * states * channels + place.channel
    for step in range(place.steps):
        row = place.sequence * sizes.length + place.step + step
        delta = load(scratch.delta, step * LANES)
        u = load(inputs.u, row * channels + place.channel)
        entry, y = delta * u, skip * u
        for n in range(states):
            decay = exp2(delta * load(inputs.rates, rates + n * channels))
            kept = decay * load(scratch.state, n * LANES)
            state = kept + entry * spread(inputs.B, row * states + n)
            store(scratch.state, n * LANES, state)
            y = y + state * spread(inputs.C, row * states + n)
        store(outputs.y, row * channels + place.channel, y)
    for n in range(states):
        at = (place.sequence * states + n) * channels + place.channel
        store(outputs.state, at, load(scratch.state, n * LANES))


@inlined
def _time_steps(inputs: Inputs, sizes: Sizes, scratch: Scratch, place: Place) -> None:
    """Fill delta of the scratch: all at once, for a softplus is long but need not wait for others.

    Within the recurrence each would hold up the step that needs it.
    """
    bias = load(inputs.bias, place.group * sizes.channels + place.channel)
    for step in range(place.steps):
        row = place.sequence * sizes.length + place.step + step
        delta = load(inputs.delta, row * sizes.channels + place.channel) + bias
        if sizes.softplus:
            delta = softplus(delta)
        store(scratch.delta, step * LANES, delta)


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
        task = _task(number, sizes)
        for channel in range(task.first_channel, task.stop_channel, LANES):
            _clear_sums(gradients, sizes, _place(task, task.first_clip, 0, channel, sizes))
        for clip in range(task.first_clip, task.stop_clip):
            for chunk in range(sizes.chunks - 1, -1, -1):
                place = _place(task, clip, chunk, task.first_channel, sizes)
                for index in range(place.steps * sizes.states):
                    store(scratch.B, index * LANES, constant(0.0))
                    store(scratch.C, index * LANES, constant(0.0))
                for channel in range(task.first_channel, task.stop_channel, LANES):
                    place = _place(task, clip, chunk, channel, sizes)
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
def _recompute_chunk(
    inputs: Inputs, kept: Array, sizes: Sizes, scratch: Scratch, place: Place
) -> None:
    """Fill states, decays, delta and slope of the scratch."""
    states, channels = sizes.states, sizes.channels
    for n in range(states):
        state = load(kept, (place.chunk * states + n) * channels + place.channel)
        store(scratch.states, n * LANES, state)
    _time_steps_and_slopes(inputs, sizes, scratch, place)
    rates = place.group * states * channels + place.channel
    for step in range(place.steps):
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
    skip = load(inputs.skip, place.group * channels + place.channel)
    rates = place.group * states * channels + place.channel
    skip_sum, bias_sum = constant(0.0), constant(0.0)
    for step in range(place.steps - 1, -1, -1):
        row = place.sequence * sizes.length + place.step + step
        delta = load(scratch.delta, step * LANES)
        u = load(inputs.u, row * channels + place.channel)
        dy = load(grad_y, row * channels + place.channel)
        entry = delta * u
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
        grad_delta = grad_delta * constant(LN_2) + grad_entry * u
        grad_delta = grad_delta * load(scratch.slope, step * LANES)
        store(gradients.delta, row * channels + place.channel, grad_delta)
        store(gradients.u, row * channels + place.channel, grad_entry * delta + dy * skip)
        skip_sum = skip_sum + dy * u
        bias_sum = bias_sum + grad_delta
    _add_sums(gradients, sizes, scratch, place, skip_sum, bias_sum)


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
