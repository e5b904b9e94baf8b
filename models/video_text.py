"""The video-text model: a VideoMamba and a BERT that meet in one space, and in fusion layers.

It gives vectors, tokens and logits; the losses are put together elsewhere. Parameter names are
the published ones.

Axes: B clips or texts, T frames, H x W pixels, N vision tokens, L text tokens, E embedding width,
C the width of the encoder in question.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reelscan.models.bert import BertConfig, BertForMaskedLM, bert_base
from reelscan.models.checkpoint_names import TIED_NAMES, pretraining_name
from reelscan.models.losses import clamp_temperature_
from reelscan.models.norm import at_least_float32
from reelscan.models.videomamba import VideoMamba, VisionOutput
from reelscan.models.videomamba_config import (
    VideoMambaConfig,
    videomamba_middle,
    videomamba_small,
    videomamba_tiny,
)
from reelscan.models.weights import LoadReport, load_strict

MIN_TEMPERATURE = 0.001
MAX_TEMPERATURE = 0.5


@dataclass(frozen=True, kw_only=True)
class VideoTextConfig:
    """Two encoders and the space in which they meet."""

    vision: VideoMambaConfig
    """The video encoder."""
    text: BertConfig
    """The text encoder; its encoder_width is the width of the video encoder."""
    embed_dim: int = 512
    """Width E of the vectors that are compared."""
    temperature: float = 0.07
    """What similarities are divided by in training, at its start."""
    matching_trained: bool = True
    """Whether the matching head is worth asking; without it nothing is reranked."""

    def __post_init__(self) -> None:
        if self.text.encoder_width != self.vision.width:
            raise ValueError(
                f"text.encoder_width is {self.text.encoder_width}, but the video encoder is "
                f"{self.vision.width} wide; set text.encoder_width to {self.vision.width}"
            )
        if self.embed_dim < 1:
            raise ValueError(f"embed_dim is {self.embed_dim}; give a number of at least 1")
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(
                f"temperature is {self.temperature}; "
                f"give one from {MIN_TEMPERATURE} to {MAX_TEMPERATURE}"
            )


def video_text_tiny() -> VideoTextConfig:
    """VideoMamba-Ti (7 M parameters) and bert-base-uncased."""
    return _with_bert_base(videomamba_tiny())


def video_text_small() -> VideoTextConfig:
    """VideoMamba-S (26 M parameters) and bert-base-uncased."""
    return _with_bert_base(videomamba_small())


def video_text_middle() -> VideoTextConfig:
    """VideoMamba-M (74 M parameters) and bert-base-uncased: the published model."""
    return _with_bert_base(videomamba_middle())


def _with_bert_base(vision: VideoMambaConfig) -> VideoTextConfig:
    return VideoTextConfig(vision=vision, text=bert_base(encoder_width=vision.width))


class VideoTextModel(nn.Module):
    """Embeds clips and texts, and judges whether a pair of them matches."""

    def __init__(self, config: VideoTextConfig) -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = VideoMamba(config.vision)
        self.text_encoder = BertForMaskedLM(config.text)
        self.vision_proj = nn.Linear(config.vision.width, config.embed_dim)
        self.text_proj = nn.Linear(config.text.hidden_size, config.embed_dim)
        self.itm_head = nn.Linear(config.text.hidden_size, 2)
        self.temp = nn.Parameter(torch.tensor(config.temperature))

    def encode_vision(
        self, clips: Tensor, mask: Tensor | None = None, *, keep_temporal: bool = True
    ) -> VisionOutput:
        """See `VideoMamba.forward`: clips [B, T, 3, H, W], mask bool [B, 1 + N], True = hidden."""
        output: VisionOutput = self.vision_encoder(clips, mask=mask, keep_temporal=keep_temporal)
        return output

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The text read alone: int64 [B, L], mask [B, L] true at tokens -> hidden [B, L, C]."""
        return self.text_encoder.encode_text(input_ids, attention_mask)

    def project_vision(self, pooled: Tensor) -> Tensor:
        """Pooled vectors [B, T, C] -> float32 [B, T, E] of length 1."""
        return F.normalize(at_least_float32(self.vision_proj(pooled)), dim=-1)

    def project_text(self, text_hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [B, L, C] -> float32 [B, E] of length 1."""
        vector = self.text_encoder.text_vector(text_hidden, attention_mask)
        return F.normalize(at_least_float32(self.text_proj(vector)), dim=-1)

    def embed_video(self, clips: Tensor) -> Tensor:
        """Clips [B, T, 3, H, W] -> float32 [B, T, E], each frame's vector of length 1."""
        return self.project_vision(self.encode_vision(clips).pooled)

    def embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Texts int64 [B, L] -> float32 [B, E] of length 1."""
        return self.project_text(self.encode_text(input_ids, attention_mask), attention_mask)

    def fuse(self, text_hidden: Tensor, text_mask: Tensor, vision_tokens: Tensor) -> Tensor:
        """The text read again beside the video's tokens [B, N, C]: [B, L, C] -> [B, L, C]."""
        return self.text_encoder.fuse(text_hidden, text_mask, vision_tokens)

    def match(self, text_hidden: Tensor, text_mask: Tensor, vision_tokens: Tensor) -> Tensor:
        """Logits [B, 2] of "no match" and "match" of each text with the video of its row.

        vision_tokens [1, N, C] match one video with all texts, much cheaper than B copies of it.
        """
        fused = self.fuse(text_hidden, text_mask, vision_tokens)
        logits: Tensor = self.itm_head(self.text_encoder.text_vector(fused, text_mask))
        return logits

    def predict_tokens(self, fused: Tensor) -> Tensor:
        """Logits over the vocabulary from fused hidden states: [..., C] -> [..., vocabulary]."""
        return self.text_encoder.predict_tokens(fused)

    def clamp_temperature(self) -> None:
        """Keep the learned temperature in its range; for the start of every training step."""
        clamp_temperature_(self.temp, minimum=MIN_TEMPERATURE, maximum=MAX_TEMPERATURE)


def load_published(model: VideoTextModel, state: Mapping[str, Tensor]) -> LoadReport:
    """Load a published checkpoint, of pretraining or of retrieval.

    Retrieval checkpoints name the text encoder without "bert." and have no language head, which
    then stays as it is; a teacher inside is left out. Position ids and either name of a tied
    parameter may be missing. Raises ValueError for anything else that does not fit.
    """
    renamed = {pretraining_name(name): tensor for name, tensor in state.items()}
    missing = ["text_encoder.bert.embeddings.position_ids"]
    if not any(name.startswith("text_encoder.cls.") for name in state):
        missing.append("text_encoder.cls.*")
    for first, second in TIED_NAMES:
        if first in renamed and second in renamed:
            _check_tied(first, renamed[first], second, renamed[second])
        elif first in renamed or second in renamed:
            missing += [first, second]
    return load_strict(model, renamed, allowed_missing=missing, allowed_unknown=("clip_teacher.*",))


def _check_tied(first: str, one: Tensor, second: str, other: Tensor) -> None:
    if one.shape != other.shape or one.is_meta or other.is_meta:
        return  # Shapes are load_strict's matter, and meta tensors have no numbers.
    if not torch.equal(one, other):
        raise ValueError(
            f"{first} and {second} differ, but they are one parameter; the file was made by "
            "another model or is damaged: get it again"
        )
