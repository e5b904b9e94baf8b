"""Text encoder, fusion encoder and caption cleaning against the published system."""

import json
from dataclasses import fields

import pytest
import torch

from reelscan.models.bert import BertConfig, BertForMaskedLM, BertModel, bert_base
from reelscan.models.tokenizer import clean_caption


def config_of(case):
    names = {field.name for field in fields(BertConfig)}
    return BertConfig(**{key: value for key, value in case.config.items() if key in names})


@pytest.mark.golden("text_*")
def test_text_and_fusion_layers(case, assert_close):
    model = BertModel(config_of(case))
    model.load_state_dict(case.group("param."))
    mask = case["in.attention_mask"]

    embedded = model.embeddings(case["in.input_ids"])
    text = model.encode_text(case["in.input_ids"], mask)
    fused = model.fuse(text, mask, case["in.vision"])
    fused_masked = model.fuse(text, mask, case["in.vision"], case["in.vision_att"])

    results = {
        "embeddings": embedded,
        "text": text,
        "fusion_noatt": fused,
        "fusion_vatt": fused_masked,
        "multi_modal": fused_masked,
    }
    for name, expected in case.group("out.").items():
        assert_close(results[name], expected)


@pytest.mark.parametrize("stored", ["masked_with_teacher", "unmasked"])
def test_pretraining_names_and_shapes_are_the_published_ones(golden_dir, stored):
    names = json.loads((golden_dir / "checkpoint_names.json").read_text())
    published = names[f"UMT_VIDEOMAMBA_middle_pretrain_{stored}"]
    with torch.device("meta"):
        ours = BertForMaskedLM(bert_base()).state_dict()
    assert described(ours, "text_encoder.") == text_entries(published)


def test_retrieval_names_and_shapes_are_the_published_ones(golden_dir):
    names = json.loads((golden_dir / "checkpoint_names.json").read_text())
    with torch.device("meta"):
        ours = BertModel(bert_base()).state_dict()
    assert described(ours, "text_encoder.") == text_entries(
        names["UMT_VIDEOMAMBA_middle_retrieval"]
    )


def described(state, prefix):
    return {
        prefix + name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in state.items()
    }


def text_entries(published):
    return {name: what for name, what in published.items() if name.startswith("text_encoder.")}


def test_caption_cleaning(golden_dir):
    cases = json.loads((golden_dir / "pre_text.json").read_text())
    assert cases
    for case in cases:
        assert clean_caption(case["inp"]) == case["out"]
        assert clean_caption(case["inp"], max_words=5) == case["out_max5"]
        assert clean_caption(case["out"]) == case["out"]
