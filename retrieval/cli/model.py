"""`reelscan model`: tells what a model directory is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reelscan.models.clip_weights import clip_vision_from_weights
from reelscan.models.model_directory import ModelSummary, inspect_model, load_model
from reelscan.models.weights import load_weights
from reelscan.pretrain.clip_training import save_teacher
from reelscan.retrieval.cli.arguments import as_json, parse_action


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Tells what a model directory holds, without loading its weights.

    Examples:
      reelscan model inspect demo-run/pretrain/model
      reelscan model inspect my-model --json
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model directory."""
    json: bool = False
    """Print json, with the whole configuration."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Loads a model directory and checks every weight against its fingerprint.

    Examples:
      reelscan model verify my-model
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model directory."""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Writes the image tower of a CLIP as a teacher for `reelscan pretrain --teacher`.

    Takes weights in the names of open_clip, of a Hugging Face CLIP, or a published extract.
    Nothing in the file is run.

    Examples:
      reelscan model teacher ViT-B-16.pt --to clip-b16.safetensors
      reelscan model teacher open_clip_model.safetensors --to laion-b16.safetensors --gelu
    """

    weights: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="WEIGHTS")]
    """Weight file (.safetensors, .pt, .pth, .bin)."""
    to: Path
    """File to write."""
    gelu: bool = False
    """The weights were trained with plain GELU (LAION's), not OpenAI's quick one."""
    heads: int | None = None
    """Attention heads of a block; None: one for 64 channels, as in every published CLIP."""


ACTIONS = {"inspect": Inspect, "verify": Verify, "teacher": Teacher}


def main(arguments: list[str]) -> int:
    """Prints what was asked for."""
    command = parse_action(ACTIONS, "model", arguments)
    match command:
        case Verify():
            fingerprint = load_model(command.path).fingerprint
            print(f"{command.path}: whole, fingerprint {fingerprint}")
        case Teacher():
            print(write_teacher(command))
        case Inspect():
            found = inspect_model(command.path)
            print(as_json(found) if command.json else summary_text(found))
    return 0


def write_teacher(command: Teacher) -> str:
    state = load_weights(command.weights)
    vision = clip_vision_from_weights(state, quick_gelu=not command.gelu, heads=command.heads)
    save_teacher(vision, command.to)
    config = vision.config
    return f"{command.to}: ViT/{config.patch_size}, {config.layers} blocks of {config.width}"


def summary_text(found: ModelSummary) -> str:
    vision, text = found.config.vision, found.config.text
    rows = [
        ("model", str(found.path)),
        ("fingerprint", found.fingerprint),
        ("parameters", f"{found.parameters / 1e6:.2f} M, {found.weights_bytes / 2**20:.1f} MiB"),
        ("video", f"VideoMamba, {vision.depth} blocks of width {vision.width}"),
        ("clips", f"{found.frames} frames of {found.image_size} x {found.image_size} px"),
        ("text", f"BERT, {text.fusion_layer} layers of width {text.hidden_size}"),
        ("fusion", f"{text.num_hidden_layers - text.fusion_layer} layers"),
        ("captions", f"up to {found.max_text_tokens} tokens"),
        ("vectors", f"{found.embed_dim} numbers"),
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)
