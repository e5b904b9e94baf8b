"""umt_*: one step of the stages with captions, by the actual objective.

Clips and captions in, the four losses, what they are made of, and all gradients out. The stored
draws take the place of ours.
"""

import torch

from golden_replay.case import Case
from golden_replay.objective_watch import Watched
from golden_replay.settings import Settings
from golden_replay.stored_teacher import stored_teacher
from golden_replay.video_text import build_model, check_fixed
from golden_replay.vision import feed_drop_path
from reelscan.models.clip_vit import ClipVision
from reelscan.models.losses import MaskedTokens, Negatives
from reelscan.models.masks import hide_undrawn
from reelscan.models.tokenizer import SPECIAL_TOKENS, TokenBatch, Tokenizer
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.objective import Draws, Objective, TrainingBatch
from reelscan.pretrain.pretrain_config import LossWeights, MaskConfig

TEACHER = "param.clip_teacher."
LOSSES = {
    "loss": "total",
    "loss_uta": "alignment",
    "loss_vtc": "contrastive",
    "loss_vtm": "matching",
    "loss_mlm": "masked_language",
}


def replay(case: Case) -> None:
    check_fixed(case.settings)
    objective = _objective(case)
    remaining = feed_drop_path(case, objective.model.vision_encoder)
    watched = Watched(objective, _batch(case), _draws(case))
    assert not remaining, f"{len(remaining)} stored draws were not asked for"
    found = {name: getattr(watched.parts, ours) for name, ours in LOSSES.items()} | watched.seen
    for name in case.names("out."):
        key = name.removeprefix("out.")
        assert key in found, f"{name}: nothing of that name passed through the objective"
        case.compare(name, found[key])
    for name, value in case.settings["losses"].plain().items():
        case.score.add(f"config.losses.{name}", found[name].cpu(), torch.tensor(value))
    watched.parts.total.backward()
    case.compare_gradients(objective.model)
    _check_attention_draws(case)


def _objective(case: Case) -> Objective:
    settings: Settings = case.settings["criterion"]
    vision: Settings = case.settings["model"]["vision_encoder"]
    weights: Settings = settings["loss_weight"]
    settings.irrelevant(reason="stored draws take its place", keys=("mlm_masking_prob",))
    settings.must_be(uta_norm_type={"l2", "none"}, clip_loss_type=settings.get("uta_loss_type"))
    model = build_model(case).train(bool(case.names("rng.rand.")))
    kinds = {vision["video_mask_type"], vision["image_mask_type"]}
    # Published: pooling by frame needs both kinds to be tube, or no mask at all.
    kind = "none" if "rng.mask" not in case else "tube" if kinds == {"tube"} else "random"
    for key in ("video_mask_ratio", "image_mask_ratio"):
        assert 0.0 <= vision[key] < 1.0
    objective = Objective(
        model,
        teacher=_teacher(case),
        tokenizer=_tokenizer(case),
        losses=LossWeights(
            alignment=weights["uta"],
            contrastive=weights["vtc"],
            matching=weights["vtm"],
            masked_language=weights["mlm"],
        ),
        mask=MaskConfig(kind=kind),
        options=LossOptions(
            alignment_distance=settings.get("uta_loss_type", "l2"),
            alignment_normalise=settings.get("uta_norm_type", "l2") == "l2",
            negatives="hard" if settings.get("vtm_hard_neg", True) else "random",
            each_frame=vision["keep_temporal"],
        ),
    )
    return objective.to(case.device)


def _teacher(case: Case) -> ClipVision | None:
    vision: Settings = case.settings["model"]["vision_encoder"]
    layers = vision.whole_number("clip_return_layer", 1)
    interval = vision.whole_number("clip_return_interval", 1)
    vision.irrelevant(
        reason="the student's normalisation is the loss's; the teacher's size is its weights'",
        keys=("clip_norm_type", "clip_img_size"),
    )
    if vision["clip_teacher"] == "none":
        assert not case.names(TEACHER), "there are weights of a teacher that is not used"
        return None
    return stored_teacher(
        case,
        TEACHER,
        clips=case["in.image"],
        features=case.stored("out.teacher_feat"),
        return_layers=layers,
        return_interval=interval,
        l2_features=False,
    )


def _tokenizer(case: Case) -> Tokenizer:
    """Of the size of the vocabulary; its words are never asked for."""
    size = case.settings["bert"]["vocab_size"]
    words = [f"w{number}" for number in range(size - len(SPECIAL_TOKENS))]
    return Tokenizer([*SPECIAL_TOKENS, *words])


def _batch(case: Case) -> TrainingBatch:
    return TrainingBatch(
        clips=case["in.image"],
        text=TokenBatch(case["in.input_ids"], case["in.attention_mask"]),
        sample_ids=case["in.idx"],
    )


def _draws(case: Case) -> Draws:
    def negatives(name: str) -> Negatives | None:
        rows = case.get(f"rng.{name}_neg_indices")
        return None if rows is None else Negatives(rows, torch.ones_like(rows, dtype=torch.bool))

    masked = None
    if "rng.mlm_masked_ids" in case:
        masked = MaskedTokens(case["rng.mlm_masked_ids"], case["rng.mlm_labels"])
    return Draws(
        mask=case.get("rng.mask"),
        video_negatives=negatives("vision"),
        text_negatives=negatives("text"),
        masked_tokens=masked,
    )


def _check_attention_draws(case: Case) -> None:
    """The stored mask is the one that our rule makes of the stored draws."""
    if "rng.attn_multinomial" not in case:
        return
    vision: Settings = case.settings["model"]["vision_encoder"]
    image = case["in.image"].shape[1] == 1
    ratio = vision["image_mask_ratio" if image else "video_mask_ratio"]
    compare_attention_mask(case, ratio)


def compare_attention_mask(case: Case, ratio: float) -> None:
    stored = case.stored("rng.mask")
    hidden = hide_undrawn(case["rng.attn_multinomial"], ratio=ratio).view(len(stored), -1)
    visible_class = hidden.new_zeros(len(stored), 1)
    case.compare("rng.mask", torch.cat([visible_class, hidden], dim=1))
