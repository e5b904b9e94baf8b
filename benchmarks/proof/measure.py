"""Zero-shot retrieval among the held-out clips, and the pairs that only time tells apart."""

import numpy as np
import torch
from benchmarks.proof.feeder import Examples
from torch import Tensor

from reelscan.models.contrastive_loss import frame_similarity
from reelscan.models.video_text import VideoTextModel
from reelscan.retrieval.metrics import retrieval_metrics
from reelscan.retrieval.order_pairs import VideoPair, order_accuracy

_AT_ONCE = 100
_UNDECIDED = 1e-6
"""Two cosines so close differ by rounding alone."""


def measure(model: VideoTextModel, examples: Examples, *, bf16: bool) -> dict[str, float]:
    """Percentages; the model ends in training mode, torch's generators are not asked.

    `undecided_pairs` are captions that score both clips of a pair the same but for rounding. In
    `pairs` a tie is wrong, and rounding decides the others; in `even_pairs` each counts half.
    """
    similarity = _similarity(model, examples, bf16=bf16).numpy()
    numbers = list(range(len(similarity)))
    found = {}
    for name, scores in (("t2v", similarity), ("v2t", similarity.T)):
        metrics = retrieval_metrics(scores, numbers)
        found[f"{name}_r1"] = metrics.recall_at_1
        found[f"{name}_r5"] = metrics.recall_at_5
        found[f"{name}_r10"] = metrics.recall_at_10
        found[f"{name}_median_rank"] = metrics.median_rank
    pairs = [
        VideoPair(kind=kind, videos=(str(first), str(second)))
        for kind, first, second in examples.pairs
    ]
    order = order_accuracy(pairs, similarity, videos=list(map(str, numbers)), caption_video=numbers)
    found["pairs"] = order.overall.percent
    for kind, accuracy in order.by_kind.items():
        found[f"{kind}_pairs"] = accuracy.percent
    leads = np.array(
        [
            similarity[own, own] - similarity[own, twin]
            for _, first, second in examples.pairs
            for own, twin in ((first, second), (second, first))
        ]
    )
    undecided = np.abs(leads) < _UNDECIDED
    found["undecided_pairs"] = 100.0 * undecided.mean()
    found["even_pairs"] = 100.0 * np.where(undecided, 0.5, leads > 0).mean()
    return {name: round(float(value), 2) for name, value in found.items()}


@torch.no_grad()
def _similarity(model: VideoTextModel, examples: Examples, *, bf16: bool) -> Tensor:
    """float32 [captions, clips] on the CPU."""
    device = examples.test_uint8.device
    model.eval()
    text = examples.tokenizer(
        examples.test_captions, max_tokens=examples.preprocessing.max_text_tokens
    ).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        videos = [
            model.embed_video(examples.preprocessing.normalise(part))
            for part in torch.split(examples.test_uint8, _AT_ONCE)
        ]
        texts = model.embed_text(text.input_ids, text.attention_mask)
    model.train()
    return frame_similarity(torch.cat(videos), texts).T.float().cpu()
