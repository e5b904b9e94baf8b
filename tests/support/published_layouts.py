"""Random weights in the layout of the published files, at their size or shrunk."""

import json
import re
from pathlib import Path

import torch

NAMES = json.loads((Path(__file__).parents[1] / "golden" / "checkpoint_names.json").read_text())
VARIANTS = [name for name, entry in NAMES.items() if isinstance(entry, dict)]
VIDEO_TEXT = [name for name in VARIANTS if name.startswith("UMT")]
VISION_ONLY = [name for name in VARIANTS if name.startswith("sm")]

# Every number of the published shapes, made small; widths stay multiples of 16 and of their heads.
_SMALLER = {
    30522: 60,
    768: 64,
    3072: 128,
    2304: 192,
    576: 48,
    1152: 96,
    512: 32,
    400: 10,
    384: 32,
    192: 16,
    197: 5,
    8: 2,
    68: 35,
    36: 3,
    56: 34,
    24: 2,
    44: 33,
    12: 1,
    16: 16,
}
_LAYERS = re.compile(r"(?:^|\.)(?:layers|layer|resblocks)\.(\d+)\.")


def shapes_of(variant, *, small=False):
    """{name: (shape, dtype)} of a published file; shrunk ones keep two layers of each kind."""
    kept = {}
    for name, (shape, dtype) in NAMES[variant].items():
        found = _LAYERS.search(name)
        if small and found:
            number, text = int(found[1]), ".encoder.layer." in name
            numbers = {0: 0, 9: 1} if text else {0: 0, 1: 1}
            if number not in numbers:
                continue
            name = name[: found.start(1)] + str(numbers[number]) + name[found.end(1) :]
        kept[name] = (_shrunk(name, shape, variant) if small else shape, getattr(torch, dtype))
    return kept


def _shrunk(name, shape, variant):
    if "mixer" in name or "patch_embed.proj.weight" in name or "conv1.weight" in name:
        return _shrunk_mixer(name, shape, variant)
    return [_SMALLER.get(size, size) for size in shape]


def _shrunk_mixer(name, shape, variant):
    width = {"tiny": 16, "small": 32}.get(variant.rsplit("_", 1)[-1], 48)
    if "patch_embed" in name:
        return [width, 3, 1, 16, 16]
    if "conv1.weight" in name:
        return [64, 3, 1, 16, 16]
    inner, rank = 2 * width, -(-width // 16)
    for part, small in (
        ("in_proj", [2 * inner, width]),
        ("x_proj", [rank + 32, inner]),
        ("dt_proj.weight", [inner, rank]),
        ("dt_proj_b.weight", [inner, rank]),
        ("out_proj", [width, inner]),
        ("A_", [inner, 16]),
        ("conv1d", [inner, 1, 4] if "weight" in name else [inner]),
    ):
        if part in name:
            return small
    return [inner]


def random_state(variant, *, small=False, seed=0):
    """A state dict of such a file: random, tied names equal, position ids counted."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, (shape, dtype) in shapes_of(variant, small=small).items():
        if name.endswith("position_ids"):
            state[name] = torch.arange(shape[1])[None]
            continue
        tensor = torch.randn(shape, generator=generator, dtype=dtype) * 0.02
        if name.endswith(("A_log", "A_b_log")):
            tensor = torch.arange(1.0, shape[1] + 1).log().expand(shape) + tensor
        if "norm" in name.lower() and name.endswith("weight"):
            tensor = tensor + 1
        if name == "temp":
            tensor = torch.tensor(0.07)
        state[name] = tensor.contiguous()
    head = "text_encoder.cls.predictions."
    if f"{head}decoder.weight" in state:
        words = "text_encoder.bert.embeddings.word_embeddings.weight"
        state[f"{head}decoder.weight"] = state[words]
        state[f"{head}decoder.bias"] = state[f"{head}bias"]
    return state
