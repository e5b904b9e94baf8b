"""`reelscan model`: tells what a model directory is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reelscan.models.model_directory import ModelSummary, inspect_model, load_model
from reelscan.retrieval.cli.arguments import as_json, parse_arguments


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


Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def main(arguments: list[str]) -> int:
    """Prints what was asked for."""
    command = parse_arguments(Command, "model", arguments)
    if isinstance(command, Verify):
        encoder = load_model(command.path)
        print(f"{command.path}: whole, fingerprint {encoder.fingerprint}")
        return 0
    found = inspect_model(command.path)
    print(as_json(found) if command.json else summary_text(found))
    return 0


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
