"""loss_vtm_*: hard and random negatives, matching logits, loss and gradients."""

import re

import torch
from torch import Tensor
from torch.nn import functional as F

from golden_replay.case import Case
from golden_replay.losses import FIRST_TEMPERATURE
from golden_replay.text_settings import bert_config
from reelscan.models.bert import BertForMaskedLM
from reelscan.models.losses import (
    Negatives,
    draw_negatives,
    frame_similarity,
    hard_negative_weights,
    matching_loss,
    matching_pairs,
    uniform_negative_weights,
)
from reelscan.models.weights import load_strict, load_weights

ORDER = "cat: [pos; (neg video, text); (video, neg text)], labels 1,0,0"
TEXT = "param.text_encoder."


def replay(case: Case) -> None:
    case.settings.must_be(order=ORDER)
    encoder = text_encoder(case)
    negatives = _negatives(case)
    pairs = matching_pairs(*negatives)
    weight, bias = case.leaf("param.itm_head.weight"), case.leaf("param.itm_head.bias")
    text, vision = case.leaf("in.text_embeds"), case.leaf("in.vision_embeds")
    fused = encoder.fuse(
        text[pairs.text_rows], case["in.text_atts"][pairs.text_rows], vision[pairs.video_rows]
    )
    logits = F.linear(encoder.text_vector(fused), weight, bias)
    loss = matching_loss(logits, pairs)
    loss.backward()
    case.compare("out.vtm_logits", logits)
    case.compare("out.loss", loss)
    found = {
        "text_embeds": text.grad,
        "vision_embeds": vision.grad,
        "itm_head.weight": weight.grad,
        "itm_head.bias": bias.grad,
    }
    for name in case.names("grad."):
        if not name.startswith("grad.text_encoder."):
            case.compare(name, found[name.removeprefix("grad.")])
    compare_text_gradients(case, encoder)


def text_encoder(case: Case) -> BertForMaskedLM:
    """The encoder with the weights of the case, or of the case that its settings point to."""
    encoder = BertForMaskedLM(bert_config(case.settings))
    state = case.group(TEXT)
    told = re.search(r"stored in (\S+)", str(case.settings.get("params", "")))
    if not state:
        assert told, f"{case.name} holds no text encoder, and does not tell where it is"
        stored = load_weights(case.folder / f"{told[1]}.safetensors")
        state = {n.removeprefix(TEXT): t for n, t in stored.items() if n.startswith(TEXT)}
    load_strict(encoder, state)
    return encoder.to(case.device).eval()


def compare_text_gradients(case: Case, encoder: BertForMaskedLM) -> None:
    case.compare_gradients(encoder, prefix="grad.text_encoder.")


def _negatives(case: Case) -> tuple[Negatives, Negatives]:
    """The stored ones: a video for each text, a text for each video; checked as far as they can."""
    ids = case["in.idx"]
    similarity = frame_similarity(
        case["in.vision_proj"],
        case["in.text_proj"],
        temperature=case.settings.get("temp", FIRST_TEMPERATURE),
    )
    for scores, name in ((similarity, "v2t"), (similarity.T, "t2v")):
        published = hard_negative_weights(scores, ids, exclude="after_softmax")
        case.compare_if_stored(f"out.weights_{name}", published)
    videos, texts = case["rng.vision_neg_indices"], case["rng.text_neg_indices"]
    if "rng.randn0" in case:
        # Published order of drawing: videos first.
        uniform = uniform_negative_weights(ids)
        for name, stored in (("randn0", "vision"), ("randn1", "text")):
            drawn = draw_negatives(uniform, noise=case[f"rng.{name}"])
            case.compare(f"rng.{stored}_neg_indices", drawn.rows)
    for rows in (videos, texts):
        assert not bool((ids[rows] == ids).any()), "a stored negative is a positive"
    return _existing(videos), _existing(texts)


def _existing(rows: Tensor) -> Negatives:
    return Negatives(rows, torch.ones_like(rows, dtype=torch.bool))
