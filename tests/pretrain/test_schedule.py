import json
from pathlib import Path

import pytest

from reelscan.pretrain.schedule import learning_rate_factor

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "lr_schedule.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['total']}-{case['warmup']}")
def test_every_step_is_the_published_one(case):
    rates = [
        case["base_lr"]
        * learning_rate_factor(
            step,
            total_steps=case["total"],
            warmup_steps=case["warmup"],
            floor=case["min_lr_multi"],
        )
        for step in range(len(case["lr_at_step"]))
    ]
    assert rates == pytest.approx(case["lr_at_step"], rel=1e-12, abs=1e-18)


def test_after_the_end_the_rate_stays_at_the_floor():
    assert learning_rate_factor(500, total_steps=100, warmup_steps=0, floor=0.01) == 0.01


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="shorten the warm-up"):
        learning_rate_factor(0, total_steps=10, warmup_steps=11, floor=0.0)


def test_a_floor_above_one_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        learning_rate_factor(0, total_steps=10, warmup_steps=1, floor=1.5)
