"""loss_mlm*: masking by the stored draws, logits, loss and gradients."""

from golden_replay.case import Case
from golden_replay.matching import compare_text_gradients, text_encoder
from reelscan.models.losses import MaskingDraws, mask_tokens, masked_language_loss


def replay(case: Case) -> None:
    settings = case.settings
    settings.irrelevant(
        reason="which tensors are one and the same; draws take the place of the probability; "
        "[SEP] is masked like a word",
        keys=("tied", "mlm_masking_prob", "sep"),
    )
    encoder = text_encoder(case)
    masked = mask_tokens(
        case["in.input_ids"],
        pad_id=settings["pad"],
        cls_id=settings["cls"],
        mask_id=settings["mask"],
        vocab_size=settings["vocab_size"],
        draws=MaskingDraws(
            chosen=case["rng.0.bernoulli"].bool(),
            masked=case["rng.1.bernoulli"].bool(),
            replaced=case["rng.2.bernoulli"].bool(),
            random_ids=case["rng.3.randint"],
        ),
    )
    case.compare("rng.masked_input_ids", masked.input_ids)
    case.compare("rng.labels", masked.labels)
    vision, mask = case.leaf("in.vision_embeds"), case["in.attention_mask"]
    hidden = encoder.fuse(encoder.encode_text(masked.input_ids, mask), mask, vision)
    case.compare("out.logits", encoder.predict_tokens(hidden))
    loss = masked_language_loss(hidden, masked.labels, head=encoder.predict_tokens)
    loss.backward()
    case.compare("out.loss", loss)
    case.compare("grad.vision_embeds", vision.grad)
    compare_text_gradients(case, encoder)
