"""A tiny open_clip model that open_clip itself can build by name."""

import json
from pathlib import Path
from types import ModuleType

import pytest

from reelscan.models.torchvision_mismatch import importable_torchvision

NAME = "tiny-for-tests"


def open_clip_with_tiny_model(folder: Path) -> ModuleType:
    """open_clip, knowing the model `NAME`; the test is not run where it is not installed."""
    importable_torchvision()
    open_clip: ModuleType = pytest.importorskip(
        "open_clip", reason="needs open_clip: pip install 'reelscan[openclip]'"
    )
    path = folder / f"{NAME}.json"
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}
    path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(path)
    return open_clip
