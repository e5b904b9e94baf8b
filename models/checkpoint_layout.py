"""What a state dict is, told from its names and shapes alone: architecture, sizes, stage, gaps.

Works for every published VideoMamba file and for those of our model directories.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch

from reelscan.models.bert import BertConfig
from reelscan.models.checkpoint_names import (
    TIED_NAMES,
    pretraining_name,
    without_prefix,
)
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.vision_model import VisionModel

Shape = tuple[int, ...]
Stage = Literal[
    "video-text pretraining", "video-text retrieval", "masked pretraining", "classifier", "other"
]
CHANNELS_PER_HEAD = 64
"""Of every published BERT; weights do not tell."""


@dataclass(frozen=True, kw_only=True)
class CheckpointLayout:
    """What names and shapes tell."""

    architecture: str
    """In words, with the next step if it is nothing to convert."""
    stage: Stage
    """Which published training left such a file."""
    differences: "Differences"
    """Where the names and shapes depart from those of such a model."""
    vision: VideoMambaConfig | None = None
    """The video encoder; a tower of images has frames = 1."""
    video_text: VideoTextConfig | None = None
    """The whole model, where there is a text encoder."""
    image_only: bool = False
    """Trained on images: its patches are flat, or it has no temporal positions."""
    classes: int = 0
    """Outputs of the classifier's head."""
    teacher: bool = False
    """A CLIP teacher lies inside; it is left out."""


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Names that do not fit, and those whose absence or presence does not matter."""

    missing: tuple[str, ...] = ()
    """Names that such a model needs and the file lacks."""
    unknown: tuple[str, ...] = ()
    """Names that such a model does not have."""
    misshapen: tuple[str, ...] = ()
    """Names of another shape, with both shapes."""
    benign: tuple[str, ...] = ()
    """Patterns of names that may be missing, or are left out."""

    def lines(self) -> list[str]:
        """One line for each kind of complaint."""
        complaints = {
            "missing": self.missing,
            "unknown": self.unknown,
            "of another shape": self.misshapen,
        }
        return [f"{len(n)} {what}: {', '.join(n)}" for what, n in complaints.items() if n]


def describe_checkpoint(
    shapes: Mapping[str, Shape], *, text_heads: int | None = None
) -> CheckpointLayout:
    """What a state dict with these names and shapes is.

    `text_heads`: attention heads of the text encoder, which shapes do not tell; None for one per 64
    channels. Raises ValueError if it looks like a VideoMamba of impossible sizes.
    """
    names = {pretraining_name(name): tuple(shape) for name, shape in shapes.items()}
    if "vision_encoder.cls_token" in names and "text_proj.weight" in names:
        return _video_text(names, text_heads)
    if {"cls_token", "pos_embed", "layers.0.mixer.A_log"} <= names.keys():
        return _vision_only(names)
    return CheckpointLayout(
        architecture=_other(names), stage="other", differences=Differences(unknown=tuple(names))
    )


def _video_text(names: dict[str, Shape], text_heads: int | None) -> CheckpointLayout:
    vision = vision_config(without_prefix(names, "vision_encoder."))
    text = text_config(without_prefix(names, "text_encoder.bert."), heads=text_heads)
    config = VideoTextConfig(
        vision=vision, text=text, embed_dim=_shape(names, "text_proj.weight")[0]
    )
    language_head = any(name.startswith("text_encoder.cls.") for name in names)
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in VideoTextModel(config).state_dict().items()}
    tied = [pair[1 - i] for pair in TIED_NAMES for i in (0, 1) if pair[i] in names]
    benign = [*("clip_teacher.*", "text_encoder.bert.embeddings.position_ids"), *tied]
    if not language_head:
        benign.append("text_encoder.cls.*")
    return CheckpointLayout(
        architecture="VideoMamba and BERT, one space",
        stage="video-text pretraining" if language_head else "video-text retrieval",
        vision=vision,
        video_text=config,
        teacher=any(name.startswith("clip_teacher.") for name in names),
        differences=_differences(names, expected, benign),
    )


def _vision_only(names: dict[str, Shape]) -> CheckpointLayout:
    vision = vision_config(names)
    classes = names["head.weight"][0] if "head.weight" in names else 0
    image_only = _is_image(names)
    with torch.device("meta"):
        model = VisionModel(vision, classes=classes)
        expected = {name: tuple(t.shape) for name, t in model.stored_state().items()}
    if image_only:
        expected.pop("temporal_pos_embedding")
        weight = expected["patch_embed.proj.weight"]
        if len(names["patch_embed.proj.weight"]) == 4:
            expected["patch_embed.proj.weight"] = (*weight[:2], *weight[3:])
    what = "images" if image_only else "videos"
    return CheckpointLayout(
        architecture=f"VideoMamba, a classifier of {what}" if classes else "VideoMamba alone",
        stage="classifier" if classes else "masked pretraining",
        vision=vision,
        image_only=image_only,
        classes=classes,
        differences=_differences(names, expected, ["pool_norm.*"]),
    )


def vision_config(names: Mapping[str, Shape]) -> VideoMambaConfig:
    """The sizes of a VideoMamba from the shapes of its parameters. Raises ValueError."""
    patch = _shape(names, "patch_embed.proj.weight")
    states = _shape(names, "layers.0.mixer.A_log")
    width = _shape(names, "cls_token")[-1]
    positions = _shape(names, "pos_embed")[1] - 1
    side = math.isqrt(positions)
    if side * side != positions:
        raise ValueError(f"pos_embed has {positions} places, which are no square")
    depth = _count(names, "layers")
    decoders = _count(names, "clip_decoder")
    tubelet = patch[2] if len(patch) == 5 else 1
    temporal = names.get("temporal_pos_embedding", (1, 1, width))
    return VideoMambaConfig(
        image_size=side * patch[-1],
        patch_size=patch[-1],
        frames=temporal[1] * tubelet,
        tubelet_size=tubelet,
        depth=depth,
        width=width,
        state_size=states[1],
        conv_width=_shape(names, "layers.0.mixer.conv1d.weight")[-1],
        expand=max(1, states[0] // width),
        norm="layer" if "layers.0.norm.bias" in names else "rms",
        alignment_layers=decoders,
        alignment_width=_shape(names, "clip_decoder.0.head.weight")[0] if decoders else 512,
    )


def text_config(names: Mapping[str, Shape], *, heads: int | None) -> BertConfig:
    """The sizes of a BERT with fusion layers from the shapes of its parameters. ValueError."""
    vocabulary, width = _shape(names, "embeddings.word_embeddings.weight")
    layers = _count(names, "encoder.layer")
    crossing = "encoder.layer.{}.crossattention.self.key.weight"
    fused = [index for index in range(layers) if crossing.format(index) in names]
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        fusion_layer=fused[0] if fused else layers,
        encoder_width=names[crossing.format(fused[0])][1] if fused else 576,
        num_attention_heads=heads or max(1, width // CHANNELS_PER_HEAD),
        intermediate_size=_shape(names, "encoder.layer.0.intermediate.dense.weight")[0],
        max_position_embeddings=_shape(names, "embeddings.position_embeddings.weight")[0],
        type_vocab_size=_shape(names, "embeddings.token_type_embeddings.weight")[0],
    )


def _is_image(names: Mapping[str, Shape]) -> bool:
    flat = len(names.get("patch_embed.proj.weight", ())) == 4
    return flat or "temporal_pos_embedding" not in names


def _shape(names: Mapping[str, Shape], name: str) -> Shape:
    dimensions = {"cls_token": 3, "pos_embed": 3, "temporal_pos_embedding": 3}.get(name, 2)
    if name not in names:
        raise ValueError(f"{name} is missing, without which the sizes cannot be told")
    if len(names[name]) < dimensions or 0 in names[name]:
        raise ValueError(f"{name} has the impossible shape {list(names[name])}")
    return names[name]


def _count(names: Mapping[str, Shape], part: str) -> int:
    """How many numbered entries `part.0`, `part.1`, ... there are, counted without a gap."""
    start = f"{part}."
    found = {name.removeprefix(start).split(".")[0] for name in names if name.startswith(start)}
    return max((int(number) + 1 for number in found if number.isdecimal()), default=0)


def _differences(
    names: Mapping[str, Shape], expected: Mapping[str, Shape], benign: list[str]
) -> Differences:
    def matters(name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in benign)

    return Differences(
        missing=tuple(n for n in expected if n not in names and matters(n)),
        unknown=tuple(n for n in names if n not in expected and matters(n)),
        misshapen=tuple(
            f"{n} {list(names[n])} instead of {list(shape)}"
            for n, shape in expected.items()
            if n in names and names[n] != shape
        ),
        benign=tuple(
            pattern
            for pattern in benign
            if any(fnmatchcase(n, pattern) for n in names.keys() ^ expected.keys())
        ),
    )


def _other(names: Mapping[str, Shape]) -> str:
    if any(name.endswith("visual.conv1.weight") or name == "conv1.weight" for name in names) or any(
        name.startswith("vision_model.") for name in names
    ):
        return "a CLIP image tower; `reelscan model teacher` makes a teacher of it"
    if any("embeddings.word_embeddings.weight" in name for name in names):
        return "a BERT; `reelscan pretrain --initial-text-encoder` starts from it"
    return "unknown; it is no VideoMamba"
