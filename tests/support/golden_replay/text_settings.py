"""From the published names of a text encoder's settings to ours."""

from dataclasses import fields

from golden_replay.settings import Settings
from reelscan.models.bert import BertConfig


def bert_config(settings: Settings) -> BertConfig:
    """The BERT that these settings describe. Dropout only acts in training, which has none here."""
    settings.must_be(hidden_act="gelu", model_type="bert", cross_module="ca")
    settings.must_be(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    settings.must_be(position_embedding_type="absolute", add_cross_attention={True, False})
    settings.irrelevant(reason="a description", keys=("note", "architectures"))
    known = {field.name for field in fields(BertConfig)}
    return BertConfig(**{key: settings[key] for key in settings if key in known})
