"""Every stored case of the published system in `$GOLDEN_DIR` (tests/golden), replayed.

`REELSCAN_GOLDEN_DEVICE=cuda` replays the models on a GPU.
"""

import os
from pathlib import Path

import pytest
import torch
from golden_replay.case import Case, Score
from golden_replay.families import FAMILIES, JSON_FAMILIES, family_of, stored_files
from golden_replay.table import PROPERTY

FOLDER = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
OWN_FOLDER = "GOLDEN_DIR" not in os.environ


@pytest.fixture(scope="module")
def device():
    chosen = torch.device(os.environ.get("REELSCAN_GOLDEN_DEVICE", "cpu"))
    if chosen.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return chosen


@pytest.mark.parametrize("path", stored_files(FOLDER), ids=lambda path: path.name)
def test_a_stored_case_is_met(path, device, record_property):
    family, replay = family_of(path)
    score = Score()
    try:
        if path.suffix == ".json":
            replay(path, score)
            assert score.compared, f"nothing of {path.name} was compared"
            assert not score.failures, "\n".join([path.name, *score.failures])
        else:
            case = Case(path, device=device)
            score = case.score
            replay(case)
            case.finish()
    finally:
        counts = (len(score.compared), score.absolute, score.of_tolerance)
        record_property(PROPERTY, (family, *counts))


@pytest.mark.skipif(not OWN_FOLDER, reason="another folder may hold some families only")
def test_every_family_is_there():
    there = {family_of(path)[0] for path in stored_files(FOLDER)}
    assert there == {family for family, _, _ in (*FAMILIES, *JSON_FAMILIES)}
