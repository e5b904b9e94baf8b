"""Weights that a run starts from: an earlier stage, a published checkpoint, a text encoder."""

from pathlib import Path
from typing import Literal

from torch import Tensor

from reelscan.models.bert_checkpoint import huggingface_bert_state
from reelscan.models.model_directory import WEIGHTS_FILE, load_model
from reelscan.models.plain_config import from_plain
from reelscan.models.video_text import VideoTextConfig, VideoTextModel, load_published
from reelscan.models.videomamba import VideoMamba
from reelscan.models.vision_checkpoint import fit_encoder_state
from reelscan.models.weights import load_strict, load_weights
from reelscan.pretrain.checkpoint import checkpoint_weights
from reelscan.pretrain.checkpoint_files import is_checkpoint, read_state

VISION_PREFIX = "vision_encoder."
TRAINED_MODEL = "model."
"""What `Objective` puts before the names of the model's parameters."""


def load_initial_model(
    model: VideoTextModel, path: Path, *, part: Literal["everything", "vision_encoder"]
) -> None:
    """Loads a model directory, a checkpoint, or a weight file in the published names, in place.

    The encoder is fitted to the model's frames and frame size. If it is taken alone, weights may
    lack what the first published stage lacks (the normalisation after pooling) and what depends on
    the teacher (the alignment decoders). Raises ValueError if they do not fit.
    """
    state = _weights_at(path)
    if part == "vision_encoder":
        load_strict(
            model.vision_encoder,
            fit_encoder_state(_vision_part(state) or state, model.config.vision),
            allowed_missing=("clip_decoder.*", "pool_norm.*"),
            allowed_unknown=("clip_decoder.*",),
        )
        return
    vision = fit_encoder_state(_vision_part(state), model.config.vision)
    load_published(model, {**state, **{VISION_PREFIX + name: vision[name] for name in vision}})


def load_initial_text_encoder(model: VideoTextModel, path: Path) -> None:
    """Loads a Hugging Face BERT's weight file in place; the fusion's cross-attention stays new.

    A file without a language head leaves that as it is too. Raises ValueError if it does not fit.
    """
    state = huggingface_bert_state(load_weights(path), language_head=True)
    has_head = any(name.startswith("cls.") for name in state)
    load_strict(
        model.text_encoder,
        state,
        allowed_missing=(
            "bert.encoder.layer.*.crossattention.*",
            *(() if has_head else ("cls.*",)),
        ),
    )


def load_smaller_encoder(path: Path) -> VideoMamba:
    """The video encoder of a model directory, or of the run that a checkpoint belongs to."""
    if is_checkpoint(path):
        settings = read_state(path).settings.get("model")
        config = from_plain(VideoTextConfig, settings, where=f"the model in {path}")
        vision = VideoMamba(config.vision)
        load_strict(vision, _vision_part(_weights_at(path)))
        return vision
    if not path.is_dir():
        raise ValueError(
            f"{path} is no folder; give a model directory or a checkpoint, which tell the sizes of "
            "their encoder (`reelscan model convert` makes a model directory of a weight file)"
        )
    return load_model(path).model.vision_encoder


def _weights_at(path: Path) -> dict[str, Tensor]:
    """The video-text model's weights in a model directory, a checkpoint, or a weight file."""
    if is_checkpoint(path):
        return {
            name.removeprefix(TRAINED_MODEL): tensor
            for name, tensor in checkpoint_weights(path).items()
            if name.startswith(TRAINED_MODEL)
        }
    return load_weights(path / WEIGHTS_FILE if path.is_dir() else path)


def _vision_part(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The vision encoder's weights of a video-text model; none in a file of an encoder alone."""
    return {
        name.removeprefix(VISION_PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(VISION_PREFIX)
    }
