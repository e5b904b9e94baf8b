"""From a published weight file to a model folder.

Learned positions are carried over to another resolution or number of frames on the way, and the
patches of an image model are inflated to those of a video.
"""

from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from reelscan.models.checkpoint_layout import CheckpointLayout, describe_checkpoint
from reelscan.models.checkpoint_names import pretraining_name, without_prefix
from reelscan.models.model_directory import save_model
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextModel, load_published
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_checkpoint import fit_encoder_state
from reelscan.models.vision_directory import save_vision_model
from reelscan.models.vision_model import VisionModel
from reelscan.models.weight_file import WeightFile, open_weights

VISION = "vision_encoder."


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """What the weights do not tell, or what shall be different."""

    frames: int | None = None
    """Frames of a clip; None: as trained."""
    size: int | None = None
    """Side of a frame in pixels; None: as trained."""
    tubelet_size: int | None = None
    """Frames that one token covers, to make a video model of an image model; None: as trained."""
    max_text_tokens: int = 32
    """Tokens of a text (published: 32; DiDeMo and MSVD 64, LSMDC 96, ActivityNet 150)."""
    vocabulary: Path | None = None
    """WordPiece vocabulary; None: that of bert-base-uncased."""
    text_heads: int | None = None
    """Attention heads of the text encoder; None: one for 64 channels, as in every BERT."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was converted."""

    path: Path
    """The model folder."""
    fingerprint: str
    """Of everything in it that decides its vectors."""
    layout: CheckpointLayout
    """What the file was."""
    left_out: tuple[str, ...]
    """What lay beside the weights."""


def convert_checkpoint(
    path: str | PathLike[str],
    out: str | PathLike[str],
    *,
    options: ConversionOptions | None = None,
) -> Conversion:
    """Write the model folder `out` from a published weight file or a state dict of such names.

    A video-text file becomes a folder for `load_model`, a classifier or an encoder alone one for
    `load_vision_model`. Nothing in the file is run. Raises ValueError listing every missing,
    unknown and misshapen name, and FileExistsError for anything but a model folder at `out`.
    """
    options = options or ConversionOptions()
    file = open_weights(path)
    layout = checked_layout(file, text_heads=options.text_heads)
    assert layout.vision is not None, "a layout without complaints has an encoder"
    vision = refitted(layout.vision, options)
    preprocessing = Preprocessing(
        frames=vision.frames, size=vision.image_size, max_text_tokens=options.max_text_tokens
    )
    state = {pretraining_name(name): tensor for name, tensor in file.load().items()}
    if layout.video_text is None:
        fingerprint = _convert_vision(state, layout, vision, preprocessing, Path(out))
    else:
        fingerprint = _convert_video_text(state, layout, vision, preprocessing, options, Path(out))
    return Conversion(path=Path(out), fingerprint=fingerprint, layout=layout, left_out=file.extras)


def checked_layout(file: WeightFile, *, text_heads: int | None = None) -> CheckpointLayout:
    """What the file is. Raises ValueError if it is no VideoMamba or its names do not fit."""
    try:
        layout = describe_checkpoint(file.shapes, text_heads=text_heads)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}; it is no VideoMamba or damaged") from error
    if layout.stage == "other":
        raise ValueError(f"{file.path}: it holds {layout.architecture}")
    lines = [f"\n  {line}" for line in layout.differences.lines()]
    if lines:
        raise ValueError(
            f"{file.path}: its names do not fit a {layout.stage} checkpoint:{''.join(lines)}\n"
            "  get the file again, or convert one that a published training wrote"
        )
    return layout


def refitted(config: VideoMambaConfig, options: ConversionOptions) -> VideoMambaConfig:
    """The encoder's configuration with other frames, size or tubelets. Raises ValueError."""
    tubelet = options.tubelet_size or config.tubelet_size
    if tubelet != config.tubelet_size and config.frames != config.tubelet_size:
        raise ValueError(
            f"tubelet_size is {tubelet}, but these weights were trained on clips with "
            f"{config.tubelet_size}; only an image model can be inflated"
        )
    return replace(
        config,
        frames=options.frames
        or (tubelet if config.frames == config.tubelet_size else config.frames),
        image_size=options.size or config.image_size,
        tubelet_size=tubelet,
    )


def _convert_vision(
    state: dict[str, Tensor],
    layout: CheckpointLayout,
    vision: VideoMambaConfig,
    preprocessing: Preprocessing,
    out: Path,
) -> str:
    head = {name: tensor for name, tensor in state.items() if name.startswith("head.")}
    with torch.random.fork_rng(devices=[]):
        model = VisionModel(vision, classes=layout.classes)
    model.load_stored({**_fitted(state, vision), **head})
    return save_vision_model(model, preprocessing, out)


def _convert_video_text(
    state: dict[str, Tensor],
    layout: CheckpointLayout,
    vision: VideoMambaConfig,
    preprocessing: Preprocessing,
    options: ConversionOptions,
    out: Path,
) -> str:
    assert layout.video_text is not None, "the caller has looked"
    config = replace(layout.video_text, vision=vision)
    tokenizer = (
        Tokenizer.from_file(options.vocabulary)
        if options.vocabulary is not None
        else Tokenizer.bert_uncased()
    )
    if tokenizer.vocab_size != config.text.vocab_size:
        raise ValueError(
            f"these weights have {config.text.vocab_size} tokens, the vocabulary "
            f"{tokenizer.vocab_size}; give the one they were trained with (--vocabulary)"
        )
    with torch.random.fork_rng(devices=[]):
        # A retrieval file lacks the language head; every conversion gives it the same start.
        torch.manual_seed(0)
        model = VideoTextModel(config)
    fitted = _fitted(without_prefix(state, VISION), vision)
    load_published(model, {**state, **{VISION + name: t for name, t in fitted.items()}})
    return save_model(model, tokenizer, preprocessing, out)


def _fitted(state: dict[str, Tensor], config: VideoMambaConfig) -> dict[str, Tensor]:
    fitted = fit_encoder_state(state, config)
    if "temporal_pos_embedding" not in fitted:
        # An image model has none: it starts as published, from zero.
        fitted["temporal_pos_embedding"] = torch.zeros(1, config.grid[0], config.width)
    return fitted
