"""From a batch of clips and captions to the losses, in one forward pass.

Axes: B clips of this process, G clips of all processes, T frames, H x W pixels, N patch tokens,
L caption tokens, C encoder width, E embedding width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    sigmoid_loss,
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
from reelscan.models.videomamba import VideoMamba, VisionOutput
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.distillation import Distillation, visible_features
from reelscan.pretrain.distributed import (
    gather,
    gather_with_gradients,
    joined_rank,
    share_of_mean,
)
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.loss_parts import (
    Embedded,
    LossParts,
    Reading,
    SharedContrast,
    WholeBatch,
)
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
    taught: TeacherOutput | None = None
    """What the teacher sees in the clips, where that was computed earlier."""


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


class Objective(nn.Module):
    """A model with its teachers and losses, as one module so that DDP can wrap the whole step.

    Teachers are frozen. Raises ValueError if their features do not fit the model's.
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
        smaller_encoder: VideoMamba | None = None,
        recompute_fusion: bool = False,
    ) -> None:
        super().__init__()
        if teacher is not None:
            check_teacher_fits(model.config.vision, teacher.config)
            teacher.requires_grad_(False).eval()
        self.model = model
        self.teacher = teacher
        self.distillation = Distillation(model.config.vision, smaller_encoder)
        self.tokenizer = tokenizer
        self.losses = losses
        self.mask = mask
        self.options = options or LossOptions()
        self.masked_language_probability = masked_language_probability
        self.recompute_fusion = recompute_fusion
        learns_bias = self.options.contrastive == "sigmoid" and losses.contrastive > 0
        self.contrastive_bias = (
            nn.Parameter(torch.tensor(self.options.sigmoid_bias)) if learns_bias else None
        )

    @property
    def contrast_parameters(self) -> tuple[nn.Parameter, ...]:
        """What the contrastive loss learns beside the encoders."""
        bias = self.contrastive_bias
        return (self.model.temp,) if bias is None else (self.model.temp, bias)

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters without the teachers'; those of `model` start with "model."."""
        return (pair for pair in self.named_parameters() if pair[1].requires_grad)

    def forward(
        self,
        batch: TrainingBatch,
        draws: Draws | None = None,
        whole: WholeBatch | None = None,
    ) -> LossParts:
        """The losses of this process's batch, or of a part of it; see `LossParts`."""
        read = self._read(batch, draws or Draws())
        zero = batch.clips.new_zeros(())
        alignment = distillation = contrastive = reported = zero
        if self.losses.alignment:
            alignment = self._alignment(read.vision, read.taught, read.mask)
        if self.losses.distillation:
            distillation = self.distillation(batch.clips, read.vision, read.mask)
        if self.losses.contrastive:
            assert read.video is not None and read.text is not None
            if whole is None:
                contrastive = reported = self.contrast(read.video, read.text, batch.sample_ids)
            else:
                assert whole.contrast is not None
                contrastive, reported = self._linearised(read, whole.contrast), whole.contrast.loss
        matching = self._matching(batch, read, draws or Draws()) if self.losses.matching else zero
        masked_language = zero
        if self.losses.masked_language:
            masked_language = self._masked_language(batch.text, read, whole)
        return LossParts(
            alignment=alignment.detach(),
            contrastive=reported.detach(),
            matching=matching.detach(),
            masked_language=masked_language.detach(),
            distillation=distillation.detach(),
            total=self.losses.alignment * alignment
            + self.losses.contrastive * contrastive
            + self.losses.matching * matching
            + self.losses.masked_language * masked_language
            + self.losses.distillation * distillation,
        )

    def embed(self, batch: TrainingBatch) -> Embedded:
        """The vectors that `forward` will compare, if torch's generators are in the same state."""
        read = self._read(batch, Draws())
        assert read.video is not None and read.text is not None, "the contrastive loss is on"
        return Embedded(video=read.video, text=read.text)

    def count_asked(self, text: TokenBatch) -> Tensor:
        """Tokens that `forward` will ask for, if torch's generators are in the same state."""
        return _asked(self._mask_tokens(text).labels)

    def _read(self, batch: TrainingBatch, draws: Draws) -> Reading:
        """Draws what is to be drawn, and runs both encoders."""
        self.model.clamp_temperature()
        masked = None
        if self.losses.masked_language:
            # First, as `count_asked` draws nothing else.
            masked = draws.masked_tokens or self._mask_tokens(batch.text)
        taught = batch.taught if batch.taught is not None else self._teach(batch.clips)
        mask = draws.mask if draws.mask is not None else self._draw_mask(batch.clips, taught)
        each_frame = self.options.each_frame and self.mask.kind in ("none", "tube")
        vision = self.model.encode_vision(batch.clips, mask, keep_temporal=each_frame)
        hidden = video = text = None
        if self.losses.contrastive or self.losses.matching:
            hidden = self.model.encode_text(batch.text.input_ids, batch.text.attention_mask)
            video = self.model.project_vision(vision.pooled)
            text = self.model.project_text(hidden, batch.text.attention_mask)
        return Reading(
            taught=taught,
            mask=mask,
            masked=masked,
            vision=vision,
            hidden=hidden,
            video=video,
            text=text,
        )

    def _teach(self, clips: Tensor) -> TeacherOutput | None:
        """What the teacher sees, if anything depends on it; in the teacher's own precision."""
        if self.teacher is None or not (self.losses.alignment or self.mask.kind == "attention"):
            return None
        with torch.no_grad():
            output: TeacherOutput = self.teacher(clips.to(self.teacher.proj.dtype))
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
        return alignment_loss(
            vision.alignment,
            visible_features(taught.features, mask),
            kind=self.options.alignment_distance,
            normalise=self.options.alignment_normalise,
        )

    def contrast(self, video: Tensor, text: Tensor, sample_ids: Tensor) -> Tensor:
        """Rows of this process against columns of all: [B, T, E] and [B, E] -> scalar."""
        own = joined_rank() * len(video)
        if self.contrastive_bias is not None:
            return sigmoid_loss(
                video,
                text,
                temperature=self.model.temp,
                bias=self.contrastive_bias,
                ids=sample_ids,
                all_text=gather_with_gradients(text),
                all_ids=gather(sample_ids),
                row_offset=own,
            )
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
            row_offset=own,
            gathered_gradient=self.options.contrastive_gradient,
        )

    def _linearised(self, read: Reading, contrast: SharedContrast) -> Tensor:
        """A scalar with the gradients of the loss that was computed elsewhere."""
        assert read.video is not None and read.text is not None
        by_vectors = (read.video * contrast.video_gradient).sum()
        by_vectors = by_vectors + (read.text * contrast.text_gradient).sum()
        pairs = zip(self.contrast_parameters, contrast.parameter_gradients, strict=True)
        return by_vectors + sum(parameter * gradient for parameter, gradient in pairs)

    def _matching(self, batch: TrainingBatch, read: Reading, draws: Draws) -> Tensor:
        """Own pairs against hard negatives, by the similarity [B, B] of videos and captions."""
        assert read.video is not None and read.text is not None and read.hidden is not None
        ids = batch.sample_ids
        similarity = frame_similarity(
            read.video.detach(), read.text.detach(), temperature=self.model.temp.detach()
        )
        videos = draws.video_negatives or self._draw_negatives(similarity.T, ids)
        texts = draws.text_negatives or self._draw_negatives(similarity, ids)
        pairs = matching_pairs(videos, texts)
        logits = self._fused(
            self.model.match,
            read.hidden[pairs.text_rows],
            batch.text.attention_mask[pairs.text_rows],
            read.vision.tokens[pairs.video_rows],
        )
        return matching_loss(logits, pairs)

    def _fused(self, read: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """`read`, whose activations are kept for the backward pass or computed again in it."""
        if self.recompute_fusion and torch.is_grad_enabled():
            output: Tensor = checkpoint(read, *inputs, use_reentrant=False)
            return output
        return read(*inputs)

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

    def _mask_tokens(self, text: TokenBatch) -> MaskedTokens:
        tokenizer = self.tokenizer
        return mask_tokens(
            text.input_ids,
            pad_id=tokenizer.pad_id,
            cls_id=tokenizer.cls_id,
            mask_id=tokenizer.mask_id,
            vocab_size=tokenizer.vocab_size,
            probability=self.masked_language_probability,
        )

    def _masked_language(self, text: TokenBatch, read: Reading, whole: WholeBatch | None) -> Tensor:
        assert read.masked is not None
        hidden = self.model.encode_text(read.masked.input_ids, text.attention_mask)
        fused = self._fused(self.model.fuse, hidden, text.attention_mask, read.vision.tokens)
        labels = read.masked.labels
        loss = masked_language_loss(fused, labels, head=self.model.predict_tokens)
        if self.options.masked_language_mean == "local":
            return loss
        if whole is None:
            return loss * share_of_mean(_asked(labels))
        assert whole.asked is not None
        return loss * _asked(labels) / whole.asked.clamp(min=1e-6)


def _asked(labels: Tensor) -> Tensor:
    return (labels != NOT_ASKED).sum().float()


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
