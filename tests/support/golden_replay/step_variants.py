"""Training steps of our own in the stored format, put together from models and losses by hand.

They show that the replays take other settings than the published cases have: layers, masks,
distances, poolings, losses that are off. What a step is made of is compared with the published
system elsewhere.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from golden_replay.variants import vision_settings, write_case
from reelscan.models.bert import BertConfig
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.losses import (
    Negatives,
    alignment_loss,
    contrastive_loss,
    masked_language_loss,
    matching_loss,
    matching_pairs,
)
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba_config import VideoMambaConfig

BERT = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "fusion_layer": 1,
    "encoder_width": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
EVERYONE = torch.ones(3, dtype=torch.bool)


def step_case(
    folder: Path,
    name: str,
    *,
    mask: Tensor | None,
    mask_kind: str,
    layers: int,
    distance: str,
    keep_temporal: bool,
    weights: dict[str, float],
    frames: int = 4,
) -> Path:
    """umt_variant_NAME; three clips and captions."""
    torch.manual_seed(len(name))
    model, teacher = _model(layers), _teacher(layers) if weights["uta"] else None
    clips, ids = torch.randn(3, frames, 3, 16, 16), torch.randint(5, 60, (3, 6))
    text_mask = torch.ones(3, 6, dtype=torch.int64)
    even = mask is None or mask_kind == "tube"
    vision = model.encode_vision(clips, mask, keep_temporal=keep_temporal and even)
    hidden = model.encode_text(ids, text_mask)
    rows = {"vision": torch.tensor([1, 2, 0]), "text": torch.tensor([2, 0, 1])}
    pairs = matching_pairs(Negatives(rows["vision"], EVERYONE), Negatives(rows["text"], EVERYONE))
    shown = ids.clone()
    shown[:, 2] = 4
    labels = torch.full_like(ids, -100)
    labels[:, 2] = ids[:, 2]
    fused = model.fuse(model.encode_text(shown, text_mask), text_mask, vision.tokens)
    losses = {
        "vtc": contrastive_loss(
            model.project_vision(vision.pooled),
            model.project_text(hidden, text_mask),
            temperature=model.temp,
            ids=torch.tensor([4, 7, 9]),
        ),
        "vtm": matching_loss(
            model.match(
                hidden[pairs.text_rows], text_mask[pairs.text_rows], vision.tokens[pairs.video_rows]
            ),
            pairs,
        ),
        "mlm": masked_language_loss(fused, labels, head=model.predict_tokens),
        "uta": torch.zeros(()),
    }
    tensors: dict[str, Tensor] = {f"param.{n}": t for n, t in model.state_dict().items()}
    if teacher is not None:
        with torch.no_grad():
            features = teacher(clips).features
        tensors |= {f"param.clip_teacher.{n}": t for n, t in teacher.state_dict().items()}
        target = features if mask is None else features[:, ~mask].view(layers, 3, -1, 12)
        assert vision.alignment is not None
        losses["uta"] = alignment_loss(vision.alignment, target, kind=distance, normalise=True)
        tensors |= {"out.teacher_feat": features, "out.clip_output": target}
        tensors["out.student_output"] = vision.alignment
    total = sum(weight * losses[key] for key, weight in weights.items() if weight)
    assert isinstance(total, Tensor)
    total.backward()
    tensors |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    tensors |= {
        f"out.loss_{key}": loss if weights[key] else torch.zeros(()) for key, loss in losses.items()
    }
    tensors |= {"out.loss": total, "out.vision_embeds": vision.tokens, "in.image": clips}
    tensors |= {"in.input_ids": ids, "in.attention_mask": text_mask}
    tensors |= {"in.idx": torch.tensor([4, 7, 9]), "out.pooled_vision_embeds": vision.pooled}
    if weights["vtm"]:
        tensors |= {f"rng.{key}_neg_indices": value for key, value in rows.items()}
    if weights["mlm"]:
        tensors |= {"rng.mlm_masked_ids": shown, "rng.mlm_labels": labels}
    if mask is not None:
        tensors["rng.mask"] = mask
    vision_options = vision_settings(clip_return_layer=layers) | {
        "pool_type": "cls+avg",
        "keep_temporal": keep_temporal,
        "clip_return_interval": 1,
        "video_mask_type": mask_kind,
        "image_mask_type": mask_kind,
        "video_mask_ratio": 0.3,
        "image_mask_ratio": 0.3,
        "clip_teacher": "none" if teacher is None else "small",
    }
    text_options = {"d_model": 24, "fusion_layer": 1}
    config: dict[str, Any] = {
        "model": {
            "vision_encoder": vision_options,
            "text_encoder": text_options,
            "multimodal": {"enable": True},
            "embed_dim": 10,
            "temp": 0.07,
        },
        "criterion": {"loss_weight": weights, "uta_loss_type": distance, "uta_norm_type": "l2"},
        "bert": BERT,
        "losses": {f"loss_{key}": tensors[f"out.loss_{key}"].item() for key in losses},
    }
    return write_case(folder, f"umt_variant_{name}", tensors, config)


def first_stage_case(folder: Path, *, mask: Tensor, kind: str, layers: int) -> Path:
    """sm_masked_pretrain_variant: alignment alone."""
    torch.manual_seed(layers)
    model, teacher = _model(layers).vision_encoder, _teacher(layers, l2_features=True)
    clips = torch.randn(3, 4, 3, 16, 16)
    with torch.no_grad():
        taught = teacher(clips)
    target = taught.features[:, ~mask].view(layers, 3, -1, 12)
    student = model(clips, mask=mask, keep_temporal=False).alignment
    loss = (2 - 2 * (F.normalize(student, dim=-1) * target).sum(-1)).mean()
    loss.backward()
    tensors: dict[str, Tensor] = {
        f"param.{n}": t for n, t in model.state_dict().items() if not n.startswith("pool_norm.")
    }
    tensors |= {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    tensors |= {f"teacher.{n}": t for n, t in teacher.state_dict().items()}
    tensors |= {"in.video": clips.transpose(1, 2), "in.target_full": taught.features}
    tensors |= {"in.attn": taught.attention, "out.target": target, "rng.mask": mask}
    tensors |= {"out.student": F.normalize(student, dim=-1), "out.loss": loss}
    config = vision_settings(clip_return_layer=layers) | {
        "mask": f"{kind} 0.3",
        "clip_norm_type": "l2",
    }
    return write_case(folder, f"sm_masked_pretrain_variant_{kind}", tensors, config)


def _model(layers: int) -> VideoTextModel:
    config = VideoMambaConfig(
        image_size=16,
        patch_size=4,
        frames=4,
        depth=3,
        width=24,
        alignment_layers=layers,
        alignment_width=12,
    )
    text = BertConfig(**{"initializer_range": 0.2, **BERT})
    return VideoTextModel(VideoTextConfig(vision=config, text=text, embed_dim=10)).eval()


def _teacher(layers: int, *, l2_features: bool = False) -> ClipVision:
    return ClipVision(
        ClipVisionConfig(
            image_size=16,
            patch_size=4,
            width=12,
            layers=3,
            heads=3,
            output_dim=12,
            return_layers=layers,
            l2_features=l2_features,
        )
    ).eval()
