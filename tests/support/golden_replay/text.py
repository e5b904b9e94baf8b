"""text_*: BERT's text layers, fusion layers, and both in a row."""

from golden_replay.case import Case
from golden_replay.text_settings import bert_config
from reelscan.models.bert import BertForMaskedLM, BertModel
from reelscan.models.weights import load_strict


def replay(case: Case) -> None:
    config = bert_config(case.settings)
    state = case.group("param.")
    model = (BertForMaskedLM if any(n.startswith("cls.") for n in state) else BertModel)(config)
    load_strict(model, state)
    floating = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    model.to(device=case.device, dtype=floating[0]).eval()
    encoder = model.bert if isinstance(model, BertForMaskedLM) else model
    mask = case.get("in.attention_mask")
    text = model.encode_text(case["in.input_ids"], mask)
    found = {"embeddings": encoder.embeddings(case["in.input_ids"]), "text": text}
    if config.fusion_layer < config.num_hidden_layers and "in.vision" in case:
        vision = case["in.vision"]
        found["fusion_noatt"] = model.fuse(text, mask, vision)
        found["fusion_vatt"] = model.fuse(text, mask, vision, case.get("in.vision_att"))
        # The published name of text and fusion layers run in one call.
        found["multi_modal"] = found["fusion_vatt"]
    if isinstance(model, BertForMaskedLM):
        found["logits"] = model.predict_tokens(found.get("multi_modal", text))
    for name in case.names("out."):
        key = name.removeprefix("out.")
        assert key in found, f"{name} is no known output"
        case.compare(name, found[key])
