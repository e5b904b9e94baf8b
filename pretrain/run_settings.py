"""The settings of a run as plain values, and whether a resumed run still has the same ones."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.shard_address import base_name

FREE_TO_CHANGE = frozenset(
    {
        "data.batch_size",
        "data.max_unreadable_fraction",
        "data.shard_cache",
        "data.shard_cache_bytes",
        "data.shard_retries",
        "data.workers",
        "guard.max_in_a_row",
        "guard.max_roll_backs",
        "guard.on_divergence",
        "guard.saved_batches",
        "initial_model",
        "initial_text_encoder",
        "model.vision.checkpointed_blocks",
        "parallel.accumulate",
        "parallel.recompute_fusion",
        "parallel.sharding",
        "processes",
        "run.checkpoint_every",
        "run.device",
        "run.keep_checkpoints",
        "run.log_every",
        "run.scan",
        "run.held_out_every",
        "run.tensorboard",
        "run.wandb",
    }
)
"""Settings that do not decide what is learned once a run has begun."""

WHEN_UNNAMED: Mapping[str, object] = {
    "model.vision.scan_order": "spatial-first",
    "optimizer.vision_layer_decay": 1.0,
}
"""What runs did that began before they could say so."""


def plain_settings(config: PretrainConfig, *, processes: int) -> dict[str, object]:
    """JSON values. Paths lose their folders: data may move, but not become other data.

    How many clips a step has in all processes must stay, not how they are dealt to processes.
    """
    values = json.loads(json.dumps(asdict(config), default=_plain))
    for name in ("shards", "image_shards"):
        values["data"][name] = [base_name(str(index)) for index in getattr(config.data, name)]
    together = config.data.batch_size * processes
    return {**values, "processes": processes, "data.batch_size x processes": together}


def check_same_settings(stored: Mapping[str, object], current: Mapping[str, object]) -> None:
    """Raises ValueError that lists what a resumed run would do differently."""
    before, now = {**WHEN_UNNAMED, **flat_settings(stored)}, flat_settings(current)
    changes = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in FREE_TO_CHANGE
    ]
    if changes:
        raise ValueError(
            f"the run cannot go on with other settings: {'; '.join(changes)}. Resume with the "
            "earlier ones, or start a new run in another folder with initial_model"
        )


def _plain(value: object) -> str:
    assert isinstance(value, Path), f"settings hold a {type(value)}"
    return value.name


def flat_settings(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """{"data.batch_size": 64, ...}"""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
