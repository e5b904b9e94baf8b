"""How scans are cut: every step once, and enough blocks for an H100."""

import pytest

from reelscan.models.cuda.scan_plan import TILE_STEPS, plan_backward, plan_forward

SIZES = [
    (sequences, length, channels, states)
    for sequences in (1, 2, 16, 128)
    for length in (1, 17, 197, 1569, 12545, 100353)
    for channels in (5, 384, 1152)
    for states in (1, 16, 64)
]


@pytest.mark.parametrize("meets", [False, True])
def test_chunks_cover_the_sequence(meets: bool) -> None:
    for sequences, length, channels, states in SIZES:
        sizes = {"length": length, "channels": channels, "states": states, "multiprocessors": 132}
        forward = plan_forward(sequences=sequences, meets=meets, **sizes)
        backward = plan_backward(sequences=sequences, **sizes)
        for plan in (forward, backward):
            assert plan.chunk_steps % TILE_STEPS == 0
            assert (plan.chunks - 1) * plan.chunk_steps < length <= plan.chunks * plan.chunk_steps
        assert forward.threads % 32 == 0
        assert forward.slices == 1 or (meets and forward.chunks == 1)
        assert forward.slices <= length // TILE_STEPS or forward.slices == 1


def test_one_long_clip_gives_every_multiprocessor_as_much() -> None:
    plan = plan_forward(sequences=1, length=12545, channels=1152, states=16, multiprocessors=132)
    assert plan.chunks * 1152 // plan.channels == 3 * 132


def test_few_long_clips_are_sliced_where_directions_meet() -> None:
    plan = plan_forward(
        sequences=16, length=12545, channels=1152, states=16, multiprocessors=132, meets=True
    )
    assert (plan.chunks, plan.slices) == (1, 12)
