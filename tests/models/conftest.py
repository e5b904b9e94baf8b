"""What the tests of the models share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of the golden files."""
    return Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """`assert_close(actual, expected)` at the tolerance that the golden tensors are good for."""
    return _compare


def _compare(
    actual: torch.Tensor, expected: torch.Tensor, *, atol: float = 1e-5, rtol: float = 1e-4
) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, check_dtype=False)
