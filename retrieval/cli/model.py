"""`reelscan model`: tells what a model is, and converts published weight files."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reelscan.models.checkpoint_layout import CheckpointLayout, describe_checkpoint
from reelscan.models.clip_weights import clip_vision_from_weights
from reelscan.models.conversion import ConversionOptions, convert_checkpoint
from reelscan.models.model_directory import ModelSummary, inspect_model, load_model
from reelscan.models.video_text import VideoTextConfig
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_directory import (
    VisionSummary,
    inspect_vision_model,
    is_vision_folder,
    load_vision_model,
)
from reelscan.models.weight_file import WeightFile, open_weights
from reelscan.models.weights import load_weights
from reelscan.pretrain.clip_training import save_teacher
from reelscan.retrieval.cli.arguments import as_json, parse_action


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Tells what a model directory or a weight file is, from names and shapes alone.

    Takes model directories, published .pth and .pt files, and safetensors. Nothing in a file is
    run. Keys that are missing or unknown are listed; a file with such gaps gives exit code 1.

    Examples:
      reelscan model inspect demo-run/pretrain/model
      reelscan model inspect videomamba_m16_25M_f8_res224.pth
      reelscan model inspect my-model --json
    """

    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model directory or weight file."""
    text_heads: int | None = None
    """Attention heads of a weight file's text encoder; None: one for 64 channels."""
    json: bool = False
    """Print json, with the whole configuration."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Writes a model directory from a published weight file.

    safetensors, config.json with the preprocessing, a fingerprint of everything, and what the model
    gives for a fixed clip and sentence, which every later load compares. Settings, optimiser and
    teacher in the file are left out; nothing in it is run.

    Examples:
      reelscan model convert videomamba_m16_25M_f8_res224.pth published-25M
      reelscan model convert videomamba_m16_25M_f8_res224.pth long --frames 16 --size 384
      reelscan model convert videomamba_t16_in1k_res224.pth video-t --frames 8
    """

    weights: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="WEIGHTS")]
    """Weight file (.pth, .pt, .bin, .safetensors)."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Model directory to write; one that is there is replaced."""
    frames: int | None = None
    """Frames of a clip, temporal positions interpolated; None: as trained (1 for images)."""
    size: int | None = None
    """Side of a frame in pixels, spatial positions interpolated; None: as trained."""
    tubelet_size: int | None = None
    """Frames that one token covers, to inflate an image model; None: as trained."""
    max_text_tokens: int = 32
    """Tokens of a text (published: 32; DiDeMo and MSVD 64, LSMDC 96, ActivityNet 150)."""
    vocabulary: Path | None = None
    """WordPiece vocabulary; None: that of bert-base-uncased."""
    text_heads: int | None = None
    """Attention heads of the text encoder; None: one for 64 channels."""


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


ACTIONS = {"inspect": Inspect, "convert": Convert, "verify": Verify, "teacher": Teacher}


def main(arguments: list[str]) -> int:
    """Prints what was asked for."""
    command = parse_action(ACTIONS, "model", arguments)
    match command:
        case Verify():
            print(f"{command.path}: whole, fingerprint {verified_fingerprint(command.path)}")
        case Teacher():
            print(write_teacher(command))
        case Convert():
            print(convert(command))
        case Inspect():
            return inspect(command)
    return 0


def verified_fingerprint(path: Path) -> str:
    """Loads a model directory of either kind."""
    if path.is_dir() and is_vision_folder(path):
        return load_vision_model(path).fingerprint
    return load_model(path).fingerprint


def inspect(command: Inspect) -> int:
    """Prints what a directory or a file is; 1 if keys are missing, unknown or misshapen."""
    if command.path.is_dir():
        found: ModelSummary | VisionSummary = (
            inspect_vision_model(command.path)
            if is_vision_folder(command.path)
            else inspect_model(command.path)
        )
        text = vision_text(found) if isinstance(found, VisionSummary) else summary_text(found)
        print(as_json(found) if command.json else text)
        return 0
    file = open_weights(command.path)
    try:
        layout = describe_checkpoint(file.shapes, text_heads=command.text_heads)
    except ValueError as error:
        raise ValueError(f"{command.path}: {error}; it is no VideoMamba or damaged") from error
    print(file_json(file, layout) if command.json else file_text(file, layout))
    return 1 if layout.stage != "other" and layout.differences.lines() else 0


def convert(command: Convert) -> str:
    """Converts, and says what was written and what left out."""
    done = convert_checkpoint(
        command.weights,
        command.out,
        options=ConversionOptions(
            frames=command.frames,
            size=command.size,
            tubelet_size=command.tubelet_size,
            max_text_tokens=command.max_text_tokens,
            vocabulary=command.vocabulary,
            text_heads=command.text_heads,
        ),
    )
    lines = [f"{done.path}: {done.layout.architecture} ({done.layout.stage})"]
    lines.append(f"fingerprint {done.fingerprint}")
    left_out = [*(["the CLIP teacher"] if done.layout.teacher else []), *done.left_out]
    if left_out:
        lines.append(f"left out: {', '.join(left_out)}")
    if done.layout.stage == "video-text retrieval":
        lines.append("the language head, which such a file lacks, starts anew")
    return "\n".join(lines)


def write_teacher(command: Teacher) -> str:
    state = load_weights(command.weights)
    vision = clip_vision_from_weights(state, quick_gelu=not command.gelu, heads=command.heads)
    save_teacher(vision, command.to)
    config = vision.config
    return f"{command.to}: ViT/{config.patch_size}, {config.layers} blocks of {config.width}"


def file_json(file: WeightFile, layout: CheckpointLayout) -> str:
    return as_json(
        {
            "path": file.path,
            "container": file.container,
            "bytes": file.path.stat().st_size,
            "tensors": len(file.shapes),
            "parameters": file_parameters(file),
            "extras": list(file.extras),
            "layout": layout,
        }
    )


def file_parameters(file: WeightFile) -> int:
    """Floating-point numbers, those of a teacher and of tied copies included."""
    kinds = file.dtypes
    return sum(math.prod(shape) for n, shape in file.shapes.items() if "float" in kinds[n])


def file_text(file: WeightFile, layout: CheckpointLayout) -> str:
    size = file.path.stat().st_size / 2**20
    rows = [
        ("file", f"{file.path} ({file.container}, {size:.1f} MiB)"),
        ("architecture", layout.architecture),
        ("tensors", f"{len(file.shapes)}, {file_parameters(file) / 1e6:.2f} M numbers"),
    ]
    if layout.vision is not None:
        rows += [("stage", layout.stage), *vision_rows(layout.vision)]
        rows.append(("teacher", "inside, left out by convert" if layout.teacher else "none"))
    if layout.video_text is not None:
        rows += text_rows(layout.video_text)
    if layout.classes:
        rows.append(("classes", str(layout.classes)))
    if file.extras:
        rows.append(("beside them", ", ".join(file.extras)))
    if layout.stage != "other":
        differences = layout.differences
        rows.append(("may differ", ", ".join(differences.benign) or "nothing"))
        rows.append(
            ("keys", "\n              ".join(differences.lines()) or "all there, all known")
        )
    return table_text(rows)


def vision_rows(vision: VideoMambaConfig) -> list[tuple[str, str]]:
    size, patch = vision.image_size, vision.patch_size
    what = "an image" if vision.frames == 1 else f"{vision.frames} frames"
    return [
        ("video", f"VideoMamba, {vision.depth} blocks of width {vision.width}"),
        ("clips", f"{what} of {size} x {size} px, patches of {vision.tubelet_size} x {patch} px"),
    ]


def text_rows(config: VideoTextConfig) -> list[tuple[str, str]]:
    text = config.text
    return [
        ("text", f"BERT, {text.fusion_layer} layers of width {text.hidden_size}"),
        ("fusion", f"{text.num_hidden_layers - text.fusion_layer} layers"),
        ("vectors", f"{config.embed_dim} numbers"),
    ]


def vision_text(found: VisionSummary) -> str:
    rows = [
        ("model", str(found.path)),
        ("fingerprint", found.fingerprint),
        ("parameters", f"{found.parameters / 1e6:.2f} M, {found.weights_bytes / 2**20:.1f} MiB"),
        *vision_rows(found.config),
        ("classes", str(found.classes) if found.classes else "none, an encoder alone"),
    ]
    return table_text(rows)


def summary_text(found: ModelSummary) -> str:
    rows = [
        ("model", str(found.path)),
        ("fingerprint", found.fingerprint),
        ("parameters", f"{found.parameters / 1e6:.2f} M, {found.weights_bytes / 2**20:.1f} MiB"),
        *vision_rows(found.config.vision),
        *text_rows(found.config),
        ("captions", f"up to {found.max_text_tokens} tokens"),
    ]
    return table_text(rows)


def table_text(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"{name:<14}{value}" for name, value in rows)
