"""The mixers. Axes: B clips, L sequence length, C model width."""

import pytest
import torch
from torch.nn import functional

from reelscan.models.mixer import TIME_STEP_RANGE, BidirectionalMixer, MambaMixer

SWAPS = {"conv1d": "conv1d_b", "x_proj": "x_proj_b", "dt_proj": "dt_proj_b"}


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    return BidirectionalMixer(32, state_size=4)


def swapped(mixer):
    """The same mixer with the parameters of its directions exchanged."""
    state = mixer.state_dict()
    exchanged = dict(state)
    for forward, backward in SWAPS.items():
        for name in list(state):
            if name.startswith(forward + "."):
                other = name.replace(forward, backward)
                exchanged[name], exchanged[other] = state[other], state[name]
    for forward, backward in (("A_log", "A_b_log"), ("D", "D_b")):
        exchanged[forward], exchanged[backward] = state[backward], state[forward]
    other = BidirectionalMixer(32, state_size=4)
    other.load_state_dict(exchanged)
    return other


def test_directions_mirror_each_other(mixer):
    with torch.no_grad():
        mixer.A_b_log += 0.5
    hidden = torch.randn(2, 9, 32)
    mirrored = swapped(mixer)(hidden.flip(1)).flip(1)
    torch.testing.assert_close(mixer(hidden), mirrored)
    assert not torch.allclose(mixer(hidden), swapped(mixer)(hidden), atol=1e-4)


def test_both_directions_are_summed(mixer):
    """Equal parameters and a palindrome: both directions give the same, and the sum is double."""
    forward = MambaMixer(32, state_size=4)
    state = forward.state_dict()
    both = dict(state)
    for name, tensor in state.items():
        if name.split(".")[0] in SWAPS:
            both[name.replace(name.split(".")[0], SWAPS[name.split(".")[0]])] = tensor
    both |= {"A_b_log": state["A_log"], "D_b": state["D"]}
    mixer.load_state_dict(both)
    hidden = torch.randn(1, 7, 32)
    expected = forward(hidden) + forward(hidden.flip(1)).flip(1)
    torch.testing.assert_close(mixer(hidden), expected)


def test_one_direction_is_causal_and_two_are_not(mixer):
    hidden = torch.randn(1, 8, 32)
    changed = hidden.clone()
    changed[:, 5] += 1
    torch.manual_seed(1)
    forward = MambaMixer(32)
    assert torch.equal(forward(hidden)[:, :5], forward(changed)[:, :5])
    assert not torch.allclose(mixer(hidden)[:, :5], mixer(changed)[:, :5], atol=1e-6)


def test_time_steps_start_in_range(mixer):
    low, high = TIME_STEP_RANGE
    for projection in (mixer.dt_proj, mixer.dt_proj_b):
        steps = functional.softplus(projection.bias)
        assert low * 0.99 <= steps.min() < steps.max() <= high * 1.01
        assert steps.max() / steps.min() > 10


@pytest.mark.parametrize("kind", [MambaMixer, BidirectionalMixer])
def test_bfloat16_autocast_keeps_parameters_and_gradients_in_float32(kind):
    torch.manual_seed(0)
    mixer = kind(32)
    hidden = torch.randn(2, 20, 32)
    expected = mixer(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = mixer(hidden)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), expected, atol=0.05, rtol=0.05)
    mixed.float().square().sum().backward()
    for name, parameter in mixer.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), name


def test_a_mixer_cast_to_bfloat16_runs(mixer):
    expected = mixer(hidden := torch.randn(2, 20, 32))
    mixed = mixer.bfloat16()(hidden.bfloat16())
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), expected, atol=0.05, rtol=0.05)


def test_a_clip_does_not_see_the_others(mixer):
    hidden = torch.randn(3, 6, 32)
    torch.testing.assert_close(mixer(hidden)[1:2], mixer(hidden[1:2]))
