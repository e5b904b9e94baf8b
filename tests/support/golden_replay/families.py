"""Which replay a stored file belongs to, by its name; each is imported only when it is needed.

Replays of the models import `reelscan.models` alone.
"""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

FAMILIES = (
    ("ssm_scan", r"ssm_scan_.+", "scan:replay"),
    ("ssm_bimixer", r"ssm_bimixer_.+", "mixer:replay"),
    ("ssm_unimixer", r"ssm_unimixer_.+", "mixer:replay"),
    ("vision", r"vision_.+", "vision:replay"),
    ("sm_classifier", r"sm_classifier_.+", "classifier:replay"),
    ("teacher", r"teacher_.+", "teacher:replay"),
    ("text", r"text_.+", "text:replay"),
    ("loss_uta", r"loss_uta.*", "losses:replay_alignment"),
    ("loss_vtc", r"loss_vtc.*", "losses:replay_contrastive"),
    ("loss_vtm", r"loss_vtm.*", "matching:replay"),
    ("loss_mlm", r"loss_mlm.*", "masked_language:replay"),
    ("umt", r"umt_.+", "training_step:replay"),
    ("sm_masked_pretrain", r"sm_masked_pretrain_.+", "masked_pretraining:replay"),
    ("eval_pipeline", r"eval_pipeline_.+", "evaluation:replay"),
    ("retrieval_metrics", r"retrieval_metrics.*", "metrics:replay"),
    ("masks", r"masks.*", "tables:replay_masks"),
    ("sincos", r"sincos.*", "tables:replay_sincos"),
    ("ckpt_interp", r"ckpt_interp.*", "tables:replay_interpolation"),
)
"""Of NAME.safetensors with NAME.config.json: family, pattern of NAME, replay(case)."""

JSON_FAMILIES = (
    ("checkpoint_names", r"checkpoint_names.*", "checkpoint_names:replay"),
    ("frame_indices", r"frame_indices.*", "json_files:replay_frames"),
    ("init_stats", r"init_stats.*", "json_files:replay_initialisation"),
    ("lr_schedule", r"lr_schedule.*", "json_files:replay_learning_rates"),
    ("pre_text", r"pre_text.*", "json_files:replay_captions"),
)
"""Of NAME.json alone: family, pattern of NAME, replay(path, score)."""


def stored_files(folder: Path) -> list[Path]:
    """Every case and every json file of a folder, each once, and all that is neither."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    cases = {
        path.name.removesuffix(".safetensors") for path in paths if path.suffix == ".safetensors"
    }
    return [path for path in paths if path.name.removesuffix(".config.json") not in cases]


def family_of(path: Path) -> tuple[str, Callable[..., None]]:
    """The family of a stored file and its replay. Raises AssertionError if there is none."""
    table = {".safetensors": FAMILIES, ".json": JSON_FAMILIES}.get(path.suffix, ())
    for family, pattern, replay in table:
        if re.fullmatch(pattern, path.stem):
            module, function = replay.split(":")
            found: Any = getattr(import_module(f"golden_replay.{module}"), function)
            return family, found
    raise AssertionError(f"{path.name} belongs to no family with a replay; see {__file__}")
