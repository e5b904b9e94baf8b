"""From a batch of clips and captions to the four losses, in one forward pass.

Axes: B clips of this process, G clips of all processes, T frames, H x W pixels, N patch tokens,
L caption tokens, C encoder width, E embedding width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reelscan.models.clip_vit import ClipVision, ClipVisionConfig, TeacherOutput
from reelscan.models.losses import (
    MaskedTokens,
    Negatives,
    alignment_loss,
    contrastive_loss,
    draw_negatives,
    frame_similarity,
    hard_negative_weights,
    mask_tokens,
    masked_language_loss,
    matching_loss,
    matching_pairs,
    uniform_negative_weights,
)
from reelscan.models.masked_language_loss import NOT_ASKED
from reelscan.models.masks import (
    attention_mask,
    clip_row_mask,
    frame_row_mask,
    random_mask,
    tube_mask,
    with_class_token,
)
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.models.video_text import VideoTextModel
from reelscan.models.videomamba import VisionOutput
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.distributed import (
    gather,
    gather_with_gradients,
    joined_rank,
    share_of_mean,
)
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.pretrain_config import LossWeights, MaskConfig

POSITION_MASKS = {
    "random": random_mask,
    "tube": tube_mask,
    "clip_row": clip_row_mask,
    "frame_row": frame_row_mask,
}


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """What one process learns from in one step, on its device."""

    clips: Tensor
    """float [B, T, 3, H, W], normalised."""
    text: TokenBatch
    """The captions, ids and mask [B, L]."""
    sample_ids: Tensor
    """int64 [B]; equal ids are each other's positives, over all processes."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Chance decisions given from outside; those left None are drawn from torch's generators."""

    mask: Tensor | None = None
    """bool [B, 1 + N], True = hidden, class token first."""
    video_negatives: Negatives | None = None
    """A video for each caption."""
    text_negatives: Negatives | None = None
    """A caption for each video."""
    masked_tokens: MaskedTokens | None = None
    """The captions with tokens hidden."""


@dataclass(frozen=True, kw_only=True)
class LossParts:
    """Scalars, unweighted but for the total; 0 for a loss that is off."""

    alignment: Tensor
    contrastive: Tensor
    matching: Tensor
    masked_language: Tensor
    total: Tensor
    """Weighted sum; its mean over processes is what is minimised."""


class Objective(nn.Module):
    """A model with its teacher and losses, as one module so that DDP can wrap the whole step.

    The teacher is frozen. Raises ValueError if its features do not fit the model's.
    """

    def __init__(
        self,
        model: VideoTextModel,
        *,
        teacher: ClipVision | None,
        tokenizer: Tokenizer,
        losses: LossWeights,
        mask: MaskConfig,
        options: LossOptions | None = None,
        masked_language_probability: float = 0.5,
    ) -> None:
        super().__init__()
        if teacher is not None:
            check_teacher_fits(model.config.vision, teacher.config)
            teacher.requires_grad_(False).eval()
        self.model = model
        self.teacher = teacher
        self.tokenizer = tokenizer
        self.losses = losses
        self.mask = mask
        self.options = options or LossOptions()
        self.masked_language_probability = masked_language_probability

    def forward(self, batch: TrainingBatch, draws: Draws | None = None) -> LossParts:
        """The losses of this process's batch; see `LossParts`."""
        draws = draws or Draws()
        self.model.clamp_temperature()
        taught = self._teach(batch.clips)
        mask = draws.mask if draws.mask is not None else self._draw_mask(batch.clips, taught)
        each_frame = self.options.each_frame and self.mask.kind in ("none", "tube")
        vision = self.model.encode_vision(batch.clips, mask, keep_temporal=each_frame)
        alignment = contrastive = matching = masked_language = batch.clips.new_zeros(())
        if self.losses.alignment:
            alignment = self._alignment(vision, taught, mask)
        if self.losses.contrastive or self.losses.matching:
            contrastive, matching = self._pair_losses(vision, batch, draws)
        if self.losses.masked_language:
            masked_language = self._masked_language(vision, batch.text, draws)
        return LossParts(
            alignment=alignment.detach(),
            contrastive=contrastive.detach(),
            matching=matching.detach(),
            masked_language=masked_language.detach(),
            total=self.losses.alignment * alignment
            + self.losses.contrastive * contrastive
            + self.losses.matching * matching
            + self.losses.masked_language * masked_language,
        )

    def _teach(self, clips: Tensor) -> TeacherOutput | None:
        """What the teacher sees, if anything depends on it."""
        if self.teacher is None or not (self.losses.alignment or self.mask.kind == "attention"):
            return None
        with torch.no_grad():
            output: TeacherOutput = self.teacher(clips)
        return output

    def _draw_mask(self, clips: Tensor, taught: TeacherOutput | None) -> Tensor | None:
        """bool [B, 1 + N], True = hidden, the class token never."""
        if self.mask.kind == "none":
            return None
        _, rows, columns = self.model.config.vision.grid
        grid = (clips.shape[1] // self.model.config.vision.tubelet_size, rows, columns)
        ratio = self.mask.image_ratio if clips.shape[1] == 1 else self.mask.ratio
        if self.mask.kind == "attention":
            assert taught is not None, "the configuration asks for a teacher with this mask"
            hidden = attention_mask(taught.attention.float(), grid, ratio=ratio)
        else:
            hidden = POSITION_MASKS[self.mask.kind](len(clips), grid, ratio=ratio)
        return with_class_token(hidden).to(clips.device)

    def _alignment(
        self, vision: VisionOutput, taught: TeacherOutput | None, mask: Tensor | None
    ) -> Tensor:
        assert taught is not None and vision.alignment is not None, "checked in the configuration"
        features = taught.features
        if mask is not None:
            layers, clips, _, width = features.shape
            features = features[:, ~mask].view(layers, clips, -1, width)
        return alignment_loss(
            vision.alignment,
            features,
            kind=self.options.alignment_distance,
            normalise=self.options.alignment_normalise,
        )

    def _pair_losses(
        self, vision: VisionOutput, batch: TrainingBatch, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Contrastive and matching loss, of one reading of the captions."""
        hidden = self.model.encode_text(batch.text.input_ids, batch.text.attention_mask)
        video = self.model.project_vision(vision.pooled)
        text = self.model.project_text(hidden, batch.text.attention_mask)
        contrastive = matching = video.new_zeros(())
        if self.losses.contrastive:
            contrastive = self._contrastive(video, text, batch.sample_ids)
        if self.losses.matching:
            similarity = frame_similarity(
                video.detach(), text.detach(), temperature=self.model.temp.detach()
            )
            matching = self._matching(vision, hidden, similarity, batch, draws)
        return contrastive, matching

    def _contrastive(self, video: Tensor, text: Tensor, sample_ids: Tensor) -> Tensor:
        """Rows of this process against columns of all: [B, T, E] and [B, E] -> scalar."""
        gather_columns = (
            gather_with_gradients if self.options.contrastive_gradient == "true" else gather
        )
        return contrastive_loss(
            video,
            text,
            temperature=self.model.temp,
            ids=sample_ids,
            all_video=gather_columns(video),
            all_text=gather_columns(text),
            all_ids=gather(sample_ids),
            row_offset=joined_rank() * len(video),
            gathered_gradient=self.options.contrastive_gradient,
        )

    def _matching(
        self,
        vision: VisionOutput,
        hidden: Tensor,
        similarity: Tensor,
        batch: TrainingBatch,
        draws: Draws,
    ) -> Tensor:
        """Own pairs against hard negatives; similarity [B, B] is videos by captions."""
        ids = batch.sample_ids
        videos = draws.video_negatives or self._draw_negatives(similarity.T, ids)
        texts = draws.text_negatives or self._draw_negatives(similarity, ids)
        pairs = matching_pairs(videos, texts)
        logits = self.model.match(
            hidden[pairs.text_rows],
            batch.text.attention_mask[pairs.text_rows],
            vision.tokens[pairs.video_rows],
        )
        return matching_loss(logits, pairs)

    def _draw_negatives(self, similarity: Tensor, ids: Tensor) -> Negatives:
        """A column for each row of [B, B]. Raises ValueError where the published way fails."""
        if self.options.negatives == "random":
            return draw_negatives(uniform_negative_weights(ids))
        weights = hard_negative_weights(similarity, ids, exclude=self.options.negative_weights)
        drawn = draw_negatives(weights)
        if self.options.negative_weights == "after_softmax" and not bool(drawn.exists.all()):
            raise ValueError(
                f"{int((~drawn.exists).sum())} of {len(ids)} samples have no negative of a weight "
                "above 0, and the published training stops here; set loss_options.negative_weights "
                "to before_softmax, which does not"
            )
        return drawn

    def _masked_language(self, vision: VisionOutput, text: TokenBatch, draws: Draws) -> Tensor:
        tokenizer = self.tokenizer
        masked = draws.masked_tokens or mask_tokens(
            text.input_ids,
            pad_id=tokenizer.pad_id,
            cls_id=tokenizer.cls_id,
            mask_id=tokenizer.mask_id,
            vocab_size=tokenizer.vocab_size,
            probability=self.masked_language_probability,
        )
        hidden = self.model.encode_text(masked.input_ids, text.attention_mask)
        fused = self.model.fuse(hidden, text.attention_mask, vision.tokens)
        loss = masked_language_loss(fused, masked.labels, head=self.model.predict_tokens)
        if self.options.masked_language_mean == "local":
            return loss
        return loss * share_of_mean((masked.labels != NOT_ASKED).sum())


def check_teacher_fits(student: VideoMambaConfig, teacher: ClipVisionConfig) -> None:
    """Raises ValueError unless each student token has one teacher feature of its width."""
    _, rows, columns = student.grid
    side = teacher.image_size // teacher.patch_size
    for what, given, needed in (
        ("patches of a frame", f"{side} x {side}", f"{rows} x {columns}"),
        ("output_dim", teacher.output_dim, student.alignment_width),
        ("return_layers", teacher.return_layers, student.alignment_layers),
        ("class_feature", teacher.class_feature, True),
        ("frames a token", 1, student.tubelet_size),
    ):
        if given != needed:
            raise ValueError(
                f"the teacher's {what}: {given}, but the video encoder needs {needed}; "
                "change the encoder's configuration or take another teacher"
            )
