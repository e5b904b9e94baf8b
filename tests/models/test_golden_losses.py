"""The four losses and their gradients against the published system."""

from dataclasses import fields

import pytest
import torch
from torch.nn import functional as F

from reelscan.models.bert import BertConfig, BertForMaskedLM
from reelscan.models.losses import (
    MaskingDraws,
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


def leaf(tensor):
    return tensor.clone().requires_grad_()


@pytest.mark.golden("loss_uta*")
def test_alignment(case, assert_close):
    names = [name.removesuffix(".loss") for name in case.group("out.")]
    assert names
    for name in names:
        norm, kind = name.split(".")
        student = leaf(case["in.student"])
        loss = alignment_loss(student, case["in.clip"], kind=kind, normalise=norm == "l2")
        loss.backward()
        assert_close(loss, case[f"out.{name}.loss"])
        assert_close(student.grad, case[f"grad.{name}.student"])


@pytest.mark.golden("loss_vtc")
def test_contrastive(case, assert_close):
    ids = {"none": None, "unique": torch.arange(len(case["in.idx"])), "dup": case["in.idx"]}
    names = [name for name in case.group("out.") if name.endswith(".loss")]
    assert names
    for name in names:
        name = name.removesuffix(".loss")
        video, text = leaf(case[f"in.vision_proj.{name.split('.')[0]}"]), leaf(case["in.text_proj"])
        temperature = leaf(torch.tensor(case.config["temp"]))
        loss = contrastive_loss(video, text, temperature=temperature, ids=ids[name.split(".")[1]])
        loss.backward()
        assert_close(loss, case[f"out.{name}.loss"])
        assert_close(video.grad, case[f"grad.{name}.vision_proj"])
        assert_close(text.grad, case[f"grad.{name}.text_proj"])
        assert_close(temperature.grad, case[f"grad.{name}.temp"])


@pytest.mark.golden("loss_vtc")
@pytest.mark.parametrize("over_frames", ["mean", "max"])
@pytest.mark.parametrize("shape", ["BC", "BTC"])
def test_similarity(case, assert_close, shape, over_frames):
    similarity = frame_similarity(
        case[f"in.vision_proj.{shape}"],
        case["in.text_proj"],
        temperature=case.config["temp"],
        over_frames=over_frames,
    )
    assert_close(similarity, case[f"out.{shape}.sim_{over_frames}.v2t"])
    assert_close(similarity.T, case[f"out.{shape}.sim_{over_frames}.t2v"])


@pytest.mark.golden("loss_vtc")
def test_similarity_of_texts_with_several_vectors(case, assert_close):
    similarity = frame_similarity(
        case["in.text_proj3"], case["in.vision_proj.BC"], temperature=case.config["temp"]
    )
    assert_close(similarity, case["out.text3.sim_mean.t2v"])
    assert_close(similarity.T, case["out.text3.sim_mean.v2t"])


@pytest.mark.golden("loss_vtc_*rank")
def test_contrastive_of_several_processes_with_the_published_gradients(case, assert_close):
    processes = len(case.config["rank_losses"])
    size = len(case["in.idx"]) // processes
    for rank in range(processes):
        local = slice(size * rank, size * rank + size)
        video, text = leaf(case["in.vision_proj"][local]), leaf(case["in.text_proj"][local])
        temperature = leaf(torch.tensor(0.07))
        loss = contrastive_loss(
            video,
            text,
            temperature=temperature,
            ids=case["in.idx"][local],
            all_video=case["in.vision_proj"],
            all_text=case["in.text_proj"],
            all_ids=case["in.idx"],
            row_offset=size * rank,
            gathered_gradient="local_slice",
        )
        loss.backward()
        assert_close(loss, case[f"out.rank{rank}.loss"])
        assert_close(video.grad, case[f"grad.rank{rank}.vision_proj"])
        assert_close(text.grad, case[f"grad.rank{rank}.text_proj"])
        assert_close(temperature.grad, case[f"grad.rank{rank}.temp"])


def matching_similarity(case):
    return frame_similarity(
        case["in.vision_proj"], case["in.text_proj"], temperature=case.config["temp"]
    )


@pytest.mark.golden("loss_vtm_*")
def test_hard_negative_weights(case, assert_close):
    similarity, ids = matching_similarity(case), case["in.idx"]
    for scores, name in ((similarity, "weights_v2t"), (similarity.T, "weights_t2v")):
        published = hard_negative_weights(scores, ids, exclude="after_softmax")
        assert_close(published, case[f"out.{name}"])
        ours = hard_negative_weights(scores, ids)
        assert_close(ours, published / published.sum(1, keepdim=True))


@pytest.mark.golden("loss_vtm_rand*")
def test_random_negatives(case):
    weights = uniform_negative_weights(case["in.idx"])
    videos = draw_negatives(weights, noise=case["rng.randn0"])
    texts = draw_negatives(weights, noise=case["rng.randn1"])
    assert videos.rows.tolist() == case["rng.vision_neg_indices"].tolist()
    assert texts.rows.tolist() == case["rng.text_neg_indices"].tolist()


def encoder_of(case, params):
    names = {field.name for field in fields(BertConfig)}
    config = BertConfig(**{key: value for key, value in case.config.items() if key in names})
    encoder = BertForMaskedLM(config)
    encoder.load_state_dict(params.group("param.text_encoder."))
    return encoder.eval()


def check_parameter_gradients(case, encoder, assert_close):
    parameters = dict(encoder.named_parameters())
    expected = case.group("grad.text_encoder.")
    assert expected
    for name, gradient in expected.items():
        assert_close(parameters[name].grad, gradient)


@pytest.mark.golden("loss_vtm_*")
def test_matching(case, load_case, assert_close):
    encoder = encoder_of(case, load_case("loss_vtm_hard_BTC"))
    weight, bias = leaf(case["param.itm_head.weight"]), leaf(case["param.itm_head.bias"])
    text, vision = leaf(case["in.text_embeds"]), leaf(case["in.vision_embeds"])
    every = torch.ones(len(text), dtype=torch.bool)
    pairs = matching_pairs(
        Negatives(case["rng.vision_neg_indices"], every),
        Negatives(case["rng.text_neg_indices"], every),
    )
    fused = encoder.fuse(
        text[pairs.text_rows], case["in.text_atts"][pairs.text_rows], vision[pairs.video_rows]
    )
    logits = F.linear(encoder.text_vector(fused), weight, bias)
    loss = matching_loss(logits, pairs)
    loss.backward()

    assert_close(logits, case["out.vtm_logits"])
    assert_close(loss, case["out.loss"])
    assert_close(text.grad, case["grad.text_embeds"])
    assert_close(vision.grad, case["grad.vision_embeds"])
    assert_close(weight.grad, case["grad.itm_head.weight"])
    assert_close(bias.grad, case["grad.itm_head.bias"])
    check_parameter_gradients(case, encoder, assert_close)


@pytest.mark.golden("loss_mlm*")
def test_masked_language(case, load_case, assert_close):
    encoder = encoder_of(case, load_case("loss_vtm_hard_BTC"))
    masked = mask_tokens(
        case["in.input_ids"],
        pad_id=case.config["pad"],
        cls_id=case.config["cls"],
        mask_id=case.config["mask"],
        vocab_size=case.config["vocab_size"],
        draws=MaskingDraws(
            chosen=case["rng.0.bernoulli"].bool(),
            masked=case["rng.1.bernoulli"].bool(),
            replaced=case["rng.2.bernoulli"].bool(),
            random_ids=case["rng.3.randint"],
        ),
    )
    assert masked.input_ids.equal(case["rng.masked_input_ids"])
    assert masked.labels.equal(case["rng.labels"])

    vision = leaf(case["in.vision_embeds"])
    mask = case["in.attention_mask"]
    hidden = encoder.fuse(encoder.encode_text(masked.input_ids, mask), mask, vision)
    assert_close(encoder.predict_tokens(hidden), case["out.logits"])
    loss = masked_language_loss(hidden, masked.labels, head=encoder.predict_tokens)
    loss.backward()
    assert_close(loss, case["out.loss"])
    assert_close(vision.grad, case["grad.vision_embeds"])
    check_parameter_gradients(case, encoder, assert_close)


def test_every_stored_loss_has_a_test_above(golden_dir):
    covered = {
        path
        for pattern in ("loss_uta*", "loss_vtc", "loss_vtc_*rank", "loss_vtm_*", "loss_mlm*")
        for path in golden_dir.glob(f"{pattern}.safetensors")
    }
    assert covered == set(golden_dir.glob("loss_*.safetensors"))
