"""Tests that need a GPU: not run where there is none, unless `$REELSCAN_REQUIRE_GPU` is set."""

import os

import pytest
import torch

SWITCH = "REELSCAN_REQUIRE_GPU"
"""Set (to anything but 0), a test that needs a GPU fails where it cannot run."""


def require_gpu(obstacle: str | None = None) -> torch.device:
    """The GPU, to be asked for at the start of a test that needs one.

    `obstacle` says what else keeps the test from running, e.g. a package that is not installed.
    Without a GPU or with an obstacle the test is reported as not run, or fails if `SWITCH` is set.
    """
    obstacle = obstacle if torch.cuda.is_available() else "there is no GPU"
    if obstacle is None:
        return torch.device("cuda")
    if os.environ.get(SWITCH, "0") not in ("", "0"):
        pytest.fail(f"{obstacle}, and {SWITCH} is set")
    pytest.skip(f"{obstacle}; set {SWITCH}=1 to have this fail")
