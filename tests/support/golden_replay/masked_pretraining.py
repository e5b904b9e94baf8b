"""sm_masked_pretrain_*: one step of the first stage, clips alone, by the actual objective."""

import torch
from torch.nn import functional as F

from golden_replay.case import Case
from golden_replay.objective_watch import Watched
from golden_replay.stored_teacher import stored_teacher
from golden_replay.training_step import compare_attention_mask
from golden_replay.vision import feed_drop_path
from golden_replay.vision_settings import vision_config
from reelscan.models.bert import BertConfig
from reelscan.models.tokenizer import SPECIAL_TOKENS, TokenBatch, Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.weights import load_strict
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.objective import Draws, Objective, TrainingBatch
from reelscan.pretrain.pretrain_config import LossWeights, MaskConfig


def replay(case: Case) -> None:
    settings = case.settings
    settings.irrelevant(reason="a description", keys=("note",))
    kind, ratio = _mask_settings(settings["mask"])
    settings.must_be(clip_norm_type={"l2", "none"})
    normalise = settings["clip_norm_type"] == "l2"
    objective = _objective(case, kind=kind, normalise=normalise)
    model = objective.model
    remaining = feed_drop_path(case, model.vision_encoder)
    clips = case["in.video"].transpose(1, 2)
    watched = Watched(objective, _batch(clips), Draws(mask=case["rng.mask"]))
    assert not remaining, f"{len(remaining)} stored draws were not asked for"
    student, target = watched.seen["student_output"], watched.seen["clip_output"]
    case.compare("out.student", F.normalize(student, dim=-1) if normalise else student)
    case.compare("out.target", target)
    case.compare("in.target_full", watched.seen["teacher_feat"])
    case.compare_if_stored("in.attn", watched.seen["teacher_attn"])
    case.compare("out.loss", watched.parts.total)
    case.compare_if_stored("const.clip_pos_embed", model.vision_encoder.alignment_positions)
    watched.parts.total.backward()
    case.compare_gradients(model.vision_encoder)
    if "rng.attn_multinomial" in case:
        compare_attention_mask(case, ratio)


def _mask_settings(told: str) -> tuple[str, float]:
    """From the published text, e.g. "attention 0.8: ..."."""
    kind, ratio = told.split(":")[0].split()
    return kind, float(ratio)


def _objective(case: Case, *, kind: str, normalise: bool) -> Objective:
    vision = vision_config(case.settings)
    text = BertConfig(
        vocab_size=len(SPECIAL_TOKENS),
        hidden_size=8,
        num_hidden_layers=1,
        fusion_layer=1,
        encoder_width=vision.width,
        num_attention_heads=1,
        intermediate_size=8,
    )
    model = VideoTextModel(VideoTextConfig(vision=vision, text=text))
    # The first stage has no normalisation after pooling, for it pools nothing.
    load_strict(model.vision_encoder, case.group("param."), allowed_missing=("pool_norm.*",))
    model.to(case.device).train(bool(case.names("rng.rand.")))
    teacher = stored_teacher(
        case,
        "teacher.",
        clips=case["in.video"].transpose(1, 2),
        features=case.stored("in.target_full"),
        return_layers=vision.alignment_layers,
        return_interval=case.settings.whole_number(
            "clip_return_interval", vision.alignment_interval
        ),
        l2_features=normalise,
    )
    objective = Objective(
        model,
        teacher=teacher,
        tokenizer=Tokenizer(SPECIAL_TOKENS),
        losses=LossWeights(contrastive=0.0, matching=0.0, masked_language=0.0),
        mask=MaskConfig(kind="tube" if kind == "tube" else "random"),
        options=LossOptions(alignment_normalise=normalise),
    )
    return objective.to(case.device)


def _batch(clips: torch.Tensor) -> TrainingBatch:
    """Captions are not read in this stage."""
    ids = torch.zeros(len(clips), 2, dtype=torch.int64, device=clips.device)
    return TrainingBatch(
        clips=clips,
        text=TokenBatch(ids, torch.ones_like(ids, dtype=torch.bool)),
        sample_ids=torch.arange(len(clips), device=clips.device),
    )
