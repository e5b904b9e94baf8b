"""Each case in its own process: a remedied or broken import would stay for the other tests."""

import subprocess
import sys

import pytest

MISMATCHED = """
import torch
import torchvision.half_imported
torch.library.register_fake("torchvision::nms")(lambda dets, scores, threshold: scores)
torch.library.register_fake("torchvision::qnms")(lambda dets, scores, threshold: scores)
"""

PROGRAM = """
from reelscan.models.torchvision_mismatch import importable_torchvision
print(importable_torchvision(), importable_torchvision())
import torchvision
print("imported")
"""


def run_beside(torchvision_source, tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(torchvision_source)
    (package / "half_imported.py").write_text("")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("source", "printed"),
    [(MISMATCHED, "True True"), ("", "False False")],
    ids=["mismatched", "healthy"],
)
def test_torchvision_becomes_importable(source, printed, tmp_path):
    result = run_beside(source, tmp_path)
    assert result.stdout.split("\n")[:2] == [printed, "imported"], result.stderr


def test_any_other_failure_comes_through(tmp_path):
    result = run_beside("raise RuntimeError('another failure')", tmp_path)
    assert result.returncode == 1
    assert "another failure" in result.stderr
    assert result.stdout == ""
