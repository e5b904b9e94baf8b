"""What the tests of the models share: the golden tensors and how they are compared.

A test marked `@pytest.mark.golden("ssm_scan_*")` that takes `case` runs once for every stored
case whose name fits. `$GOLDEN_DIR` names another folder of golden files.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

GOLDEN_DIR = Path(os.environ.get("GOLDEN_DIR", Path(__file__).parents[1] / "golden"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One stored case: NAME.safetensors and NAME.config.json."""

    name: str
    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def get(self, key: str) -> torch.Tensor | None:
        return self.tensors.get(key)

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors whose name starts with `prefix`, without it: `group("param.")`."""
        return {
            key.removeprefix(prefix): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(prefix)
        }


def _load(name: str) -> Case:
    tensors = load_file(GOLDEN_DIR / f"{name}.safetensors")
    config = json.loads((GOLDEN_DIR / f"{name}.config.json").read_text())
    return Case(name=name, tensors=tensors, config=config)


def _compare(
    actual: torch.Tensor, expected: torch.Tensor, *, atol: float = 1e-5, rtol: float = 1e-4
) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, check_dtype=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(pattern): run `case` once per fitting golden file")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    paths = sorted(
        path for pattern in marker.args for path in GOLDEN_DIR.glob(f"{pattern}.safetensors")
    )
    metafunc.parametrize("case", [path.stem for path in paths], indirect=True)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The stored case of a test marked `golden`."""
    return _load(request.param)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of the golden files."""
    return GOLDEN_DIR


@pytest.fixture(scope="session")
def load_case() -> Callable[[str], Case]:
    """`load_case("text_xbert") -> Case`."""
    return _load


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """`assert_close(actual, expected)` at the tolerance that the golden tensors are good for."""
    return _compare
