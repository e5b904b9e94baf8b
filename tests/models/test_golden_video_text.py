"""The whole video-text model: a published training step, with gradients, and an evaluation."""

import pytest
import torch
from torch import Tensor

from reelscan.models.bert import BertConfig
from reelscan.models.losses import (
    MatchingPairs,
    Negatives,
    alignment_loss,
    contrastive_loss,
    masked_language_loss,
    matching_loss,
    matching_pairs,
)
from reelscan.models.video_text import VideoTextConfig, VideoTextModel, load_published
from reelscan.models.videomamba_config import VideoMambaConfig

BERT_FIELDS = (
    "attention_probs_dropout_prob",
    "encoder_width",
    "fusion_layer",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "type_vocab_size",
    "vocab_size",
)


def build_model(case) -> VideoTextModel:
    vision = case.config["model"]["vision_encoder"]
    config = VideoTextConfig(
        vision=VideoMambaConfig(
            image_size=vision["img_size"],
            patch_size=vision["patch_size"],
            frames=vision["num_frames"],
            tubelet_size=vision["kernel_size"],
            depth=vision["depth"],
            width=vision["embed_dim"],
            drop_path_rate=vision["drop_path_rate"],
            norm="rms" if vision["rms_norm"] else "layer",
            norm_epsilon=vision["norm_epsilon"],
            pooling=vision["pool_type"],
            alignment_layers=vision["clip_return_layer"],
            alignment_interval=vision["clip_student_return_interval"],
            alignment_width=vision["clip_output_dim"],
            last_alignment_before_mixer=vision["fused_add_norm"],
        ),
        text=BertConfig(**{name: case.config["bert"][name] for name in BERT_FIELDS}),
        embed_dim=case.config["model"]["embed_dim"],
        temperature=case.config["model"]["temp"],
    )
    model = VideoTextModel(config)
    load_published(model, case.group("param."))
    return model


def pools_each_frame(case, mask: Tensor | None) -> bool:
    """Published: a mask that may hide more of one frame than of another forbids it."""
    vision = case.config["model"]["vision_encoder"]
    uneven = {vision["video_mask_type"], vision["image_mask_type"]} != {"tube"}
    return vision["keep_temporal"] and not (mask is not None and uneven)


class Step:
    """One training step on a stored batch, with the stored random draws."""

    def __init__(self, case) -> None:
        self.case = case
        self.model = build_model(case)
        self.model.clamp_temperature()
        self.mask = case.tensors.get("rng.mask")
        self.attention = case["in.attention_mask"]
        self.vision = self.model.encode_vision(
            case["in.image"], self.mask, keep_temporal=pools_each_frame(case, self.mask)
        )
        self.text = self.model.encode_text(case["in.input_ids"], self.attention)
        self.pairs = self._pairs()
        self.match_logits = self.model.match(
            self.text[self.pairs.text_rows],
            self.attention[self.pairs.text_rows],
            self.vision.tokens[self.pairs.video_rows],
        )
        masked = self.model.encode_text(case["rng.mlm_masked_ids"], self.attention)
        self.fused = self.model.fuse(masked, self.attention, self.vision.tokens)

    def _pairs(self) -> MatchingPairs:
        video, text = (
            Negatives(rows, torch.ones(len(rows), dtype=torch.bool))
            for rows in (self.case["rng.vision_neg_indices"], self.case["rng.text_neg_indices"])
        )
        return matching_pairs(video, text)

    def teacher_targets(self) -> Tensor:
        """The stored teacher's features [K, B, 1 + N, E] at what the student sees."""
        features = self.case["out.teacher_feat"]
        if self.mask is None:
            return features
        layers, clips, _, width = features.shape
        return features[:, ~self.mask].view(layers, clips, -1, width)

    def losses(self) -> dict[str, Tensor]:
        options = self.case.config["criterion"]
        losses = {
            "vtc": contrastive_loss(
                self.model.project_vision(self.vision.pooled),
                self.model.project_text(self.text, self.attention),
                temperature=self.model.temp,
                ids=self.case["in.idx"],
            ),
            "vtm": matching_loss(self.match_logits, self.pairs),
            "mlm": masked_language_loss(
                self.fused, self.case["rng.mlm_labels"], head=self.model.predict_tokens
            ),
        }
        if "out.teacher_feat" in self.case:
            losses["uta"] = alignment_loss(
                self.vision.alignment,
                self.teacher_targets(),
                kind=options["uta_loss_type"],
                normalise=options["uta_norm_type"] == "l2",
            )
        return losses


@pytest.mark.golden("umt_*")
def test_training_step_gives_the_published_values(case, assert_close):
    step = Step(case)
    model = step.model
    assert_close(step.vision.tokens, case["out.vision_embeds"])
    assert_close(step.vision.pooled, case["out.pooled_vision_embeds"])
    assert_close(step.text, case["out.text_embeds"])
    assert_close(step.text[:, 0], case["out.pooled_text_embeds"])
    assert_close(model.vision_proj(step.vision.pooled), case["out.vision_proj"])
    assert_close(model.text_proj(step.text[:, 0]), case["out.text_proj"])
    assert_close(step.match_logits, case["out.vtm_logits"])
    assert_close(model.predict_tokens(step.fused), case["out.mlm_logits"])
    if "out.student_output" in case:
        assert_close(step.vision.alignment, case["out.student_output"])
        assert_close(step.teacher_targets(), case["out.clip_output"])


@pytest.mark.golden("umt_*")
def test_training_step_gives_the_published_losses_and_gradients(case, assert_close):
    step = Step(case)
    losses = step.losses()
    weights = case.config["criterion"]["loss_weight"]
    for name, weight in weights.items():
        if weight:
            assert_close(losses[name], case[f"out.loss_{name}"])
    total = sum(weight * losses[name] for name, weight in weights.items() if weight)
    assert_close(total, case["out.loss"])

    total.backward()
    gradients = case.group("grad.")
    assert gradients, f"{case.name} has no gradients to compare"
    for name, expected in gradients.items():
        found = step.model.get_parameter(name).grad
        assert found is not None, f"{name} got no gradient"
        assert_close(found, expected)


@pytest.mark.golden("eval_pipeline_*")
def test_evaluation_gives_the_published_vectors_and_similarities(case, assert_close):
    model = build_model(case).eval()
    with torch.no_grad():
        vision = model.encode_vision(case["in.videos"], keep_temporal=pools_each_frame(case, None))
        texts = model.embed_text(case["in.input_ids"], case["in.attention_mask"])
        videos = model.project_vision(vision.pooled).mean(dim=1)
    assert_close(vision.tokens, case["out.vision_embeds"])
    assert_close(vision.pooled, case["out.pooled_vision"])
    assert_close(videos @ texts.T, case["out.i2t_emb"])
    assert_close(texts @ videos.T, case["out.t2i_emb"])


@pytest.mark.golden("eval_pipeline_*")
def test_evaluation_gives_the_published_matching_scores(case, assert_close):
    model = build_model(case).eval()
    attention = case["in.attention_mask"]
    with torch.no_grad():
        tokens = model.encode_vision(case["in.videos"]).tokens
        hidden = model.encode_text(case["in.input_ids"], attention)
        scores = torch.stack(
            [
                model.match(hidden, attention, video.expand(len(hidden), -1, -1))[:, 1]
                for video in tokens
            ]
        )
    names = [name for name in case.tensors if name.startswith("out.k")]
    assert names, f"{case.name} has no matching scores"
    for name in names:
        expected = case[name]
        found = scores if name.endswith("i2t_x") else scores.T
        scored = expected > -100
        shortlist = int(name.removeprefix("out.k").split(".")[0])
        assert (scored.sum(dim=1) == min(shortlist, expected.shape[1])).all()
        assert_close(found[scored], expected[scored])
