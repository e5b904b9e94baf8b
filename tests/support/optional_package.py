"""Tests of optional extras: not run where the package is not installed, unless asked for."""

import importlib.util
import os

import pytest

SWITCH = "REELSCAN_REQUIRE_EXTRAS"
"""Set (to anything but 0), a test of an extra fails where the package is not installed."""


def require_package(name: str, *, extra: str) -> None:
    """To be called at the start of a test that needs a package of `reelscan[extra]`."""
    if importlib.util.find_spec(name) is not None:
        return
    told = f"{name} is not installed (pip install 'reelscan[{extra}]')"
    if os.environ.get(SWITCH, "0") not in ("", "0"):
        pytest.fail(f"{told}, and {SWITCH} is set")
    pytest.skip(f"{told}; set {SWITCH}=1 to have this fail")
