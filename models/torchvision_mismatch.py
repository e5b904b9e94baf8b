"""Importing torchvision when its build is for CUDA and torch's is not.

torchvision then fails on import because its compiled operators, and with them the schema that
its Python half refers to, do not load. open_clip and transformers import torchvision, so they
fail too, although nothing here needs those operators.
"""

import importlib
import importlib.util
import sys

import torch

_SYMPTOM = "operator torchvision::nms does not exist"
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept_alive: list[torch.library.Library] = []


def importable_torchvision() -> bool:
    """Make `import torchvision` work if exactly this mismatch breaks it; true if it did.

    Call it just before importing open_clip or transformers. Box suppression (`ops.nms`) still
    fails when called; models and transforms work. Nothing happens where torchvision is absent or
    imports by itself; any other failure comes through.
    """
    if _kept_alive:
        return True
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _SYMPTOM not in str(error):
            raise
    else:
        return False
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)  # type: ignore[no-untyped-call]
    _kept_alive.append(library)
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    importlib.import_module("torchvision")
    return True
