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
    exp2,
    inlined,
    kernel,
    load,
    softplus,
    spread,
    store,
)


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
def task_of(number: int, sizes: Sizes) -> Task:
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
def place_of(task: Task, clip: int, chunk: int, channel: int, sizes: Sizes) -> Place:
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
        task = task_of(number, sizes)
        for clip in range(task.first_clip, task.stop_clip):
            for chunk in range(sizes.chunks):
                for channel in range(task.first_channel, task.stop_channel, LANES):
                    place = place_of(task, clip, chunk, channel, sizes)
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
    whole = place.steps - place.steps % 4
    for step in range(0, whole, 4):
        _four_steps(inputs, outputs, sizes, scratch, place, step)
    for step in range(whole, place.steps):
        _one_step(inputs, outputs, sizes, scratch, place, step)
    for n in range(states):
        at = (place.sequence * states + n) * channels + place.channel
        store(outputs.state, at, load(scratch.state, n * LANES))


@inlined
def _one_step(
    inputs: Inputs, outputs: Outputs, sizes: Sizes, scratch: Scratch, place: Place, step: int
) -> None:
    states, channels = sizes.states, sizes.channels
    rates = place.group * states * channels + place.channel
    row = place.sequence * sizes.length + place.step + step
    delta = load(scratch.delta, step * LANES)
    u = load(inputs.u, row * channels + place.channel)
    entry, y = delta * u, load(inputs.skip, place.group * channels + place.channel) * u
    for n in range(states):
        decay = exp2(delta * load(inputs.rates, rates + n * channels))
        kept = decay * load(scratch.state, n * LANES)
        state = kept + entry * spread(inputs.B, row * states + n)
        store(scratch.state, n * LANES, state)
        y = y + state * spread(inputs.C, row * states + n)
    store(outputs.y, row * channels + place.channel, y)


@inlined
def _four_steps(
    inputs: Inputs, outputs: Outputs, sizes: Sizes, scratch: Scratch, place: Place, step: int
) -> None:
    """As `_one_step` four times, but a state stays in a register meanwhile."""
    states, channels = sizes.states, sizes.channels
    rates = place.group * states * channels + place.channel
    row = place.sequence * sizes.length + place.step + step
    at = row * channels + place.channel
    delta0, delta1 = load(scratch.delta, step * LANES), load(scratch.delta, (step + 1) * LANES)
    delta2 = load(scratch.delta, (step + 2) * LANES)
    delta3 = load(scratch.delta, (step + 3) * LANES)
    u0, u1 = load(inputs.u, at), load(inputs.u, at + channels)
    u2, u3 = load(inputs.u, at + 2 * channels), load(inputs.u, at + 3 * channels)
    entry0, entry1, entry2, entry3 = delta0 * u0, delta1 * u1, delta2 * u2, delta3 * u3
    skip = load(inputs.skip, place.group * channels + place.channel)
    y0, y1, y2, y3 = skip * u0, skip * u1, skip * u2, skip * u3
    for n in range(states):
        rate, mix = load(inputs.rates, rates + n * channels), row * states + n
        state = load(scratch.state, n * LANES)
        state = exp2(delta0 * rate) * state + entry0 * spread(inputs.B, mix)
        y0 = y0 + state * spread(inputs.C, mix)
        state = exp2(delta1 * rate) * state + entry1 * spread(inputs.B, mix + states)
        y1 = y1 + state * spread(inputs.C, mix + states)
        state = exp2(delta2 * rate) * state + entry2 * spread(inputs.B, mix + 2 * states)
        y2 = y2 + state * spread(inputs.C, mix + 2 * states)
        state = exp2(delta3 * rate) * state + entry3 * spread(inputs.B, mix + 3 * states)
        y3 = y3 + state * spread(inputs.C, mix + 3 * states)
        store(scratch.state, n * LANES, state)
    store(outputs.y, at, y0)
    store(outputs.y, at + channels, y1)
    store(outputs.y, at + 2 * channels, y2)
    store(outputs.y, at + 3 * channels, y3)


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
