"""Which device the networks run on."""

import torch


def best_device(wanted: str) -> torch.device:
    """`auto` is a GPU where there is one. Raises ValueError for one that is not here."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted not in ("cpu", "cuda"):
        raise ValueError(f"device is {wanted!r}; choose auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("there is no CUDA device here (`reelscan doctor` says why); use cpu")
    return torch.device(wanted)
