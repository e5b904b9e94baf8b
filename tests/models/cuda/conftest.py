"""The CUDA kernels, emulated on the CPU."""

import pytest
from tests.support.emulated_kernels import compiler, load_emulated

from reelscan.models.cuda import add_norm, convolve, gate, gather, scan


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets everything that launches kernels run them on the CPU."""
    if compiler() is None:
        pytest.skip("emulating the kernels needs a C++ compiler (on Debian: apt-get install g++)")
    for module in (add_norm, convolve, gate, gather, scan):
        monkeypatch.setattr(module, "load_kernel", load_emulated)
