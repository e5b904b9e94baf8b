import json
from pathlib import Path

import torch
from torch import nn

from reelscan.pretrain.optimizer import (
    LayerDecay,
    build_optimizer,
    decays,
    parameter_groups,
    set_learning_rate,
)

NAMES = json.loads(
    (Path(__file__).parents[1] / "golden" / "checkpoint_names.json").read_text(encoding="utf-8")
)
PUBLISHED = NAMES["UMT_VIDEOMAMBA_middle_pretrain_unmasked"]


def published_parameter(name: str) -> torch.Tensor:
    return torch.empty(PUBLISHED[name][0], device="meta")


def test_ours_spares_state_space_embeddings_and_temperature_as_well():
    spared = {
        name
        for name in NAMES["_optimizer.decay"]
        if not decays(name, published_parameter(name), published_decay=False)
    }
    assert {name.rsplit(".", 1)[-1] for name in spared} == {
        "A_log",
        "A_b_log",
        "cls_token",
        "pos_embed",
        "temporal_pos_embedding",
        "temp",
    }


def test_ours_decays_nothing_the_published_groups_spare():
    for name in NAMES["_optimizer.no_decay"]:
        assert not decays(name, published_parameter(name), published_decay=False), name


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.decoder = nn.Linear(3, 5)
        self.decoder.weight = self.embedding.weight
        self.frozen = nn.Linear(3, 3).requires_grad_(False)


def test_tied_parameters_appear_once_and_frozen_ones_not_at_all():
    decayed, spared = parameter_groups(Tied(), weight_decay=0.1)
    assert [name for name, _ in decayed["params"]] == ["embedding.weight"]
    assert [name for name, _ in spared["params"]] == ["decoder.bias"]


def test_only_the_decayed_group_shrinks_under_a_zero_gradient():
    model = Tied()
    with torch.no_grad():
        model.embedding.weight.fill_(1.0)
        model.decoder.bias.fill_(1.0)
    optimizer = build_optimizer(model, learning_rate=0.1, weight_decay=0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.embedding.weight, torch.full((5, 3), 0.95))
    torch.testing.assert_close(model.decoder.bias, torch.ones(5))


def test_layer_decay_covers_the_blocks_of_the_published_names():
    """The published code looks for "blocks.", which VideoMamba does not have."""
    layers = LayerDecay(blocks=32, factor=0.5)
    found: dict[float, set[str]] = {}
    for name in PUBLISHED:
        words = name.split(".")
        kind = ".".join(words[1:3]) if words[1:2] == ["layers"] else ".".join(words[:2])
        found.setdefault(layers.scale(name), set()).add(kind)
    for block in range(32):
        assert found.pop(0.5 ** (32 - block)) == {f"layers.{block}"}
    assert found.pop(0.5**33) == {
        f"vision_encoder.{part}"
        for part in ("cls_token", "pos_embed", "temporal_pos_embedding", "patch_embed")
    }
    (behind,) = found.values()
    assert list(found) == [1.0]
    assert {"vision_encoder.norm", "vision_encoder.pool_norm", "text_encoder.bert"} <= behind


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision_encoder = nn.Module()
        self.vision_encoder.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.vision_encoder.cls_token = nn.Parameter(torch.zeros(1, 1, 2))
        self.text_encoder = nn.Linear(2, 2)


def test_early_blocks_move_less():
    """The first step of AdamW moves every weight by the learning rate."""
    model = Deep()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(
        model, learning_rate=0.1, weight_decay=0.0, layer_decay=LayerDecay(blocks=2, factor=0.5)
    )
    set_learning_rate(optimizer, 0.08)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scales = {"layers.0": 0.25, "layers.1": 0.5, "cls_token": 0.125, "text_encoder": 1.0}
    for name, parameter in model.named_parameters():
        (scale,) = (scale for part, scale in scales.items() if part in name)
        expected = torch.full_like(parameter, 0.08 * scale)
        torch.testing.assert_close(before[name] - parameter, expected, atol=1e-5, rtol=1e-4)


def test_without_layer_decay_there_are_two_groups():
    groups = parameter_groups(Deep(), weight_decay=0.1, layer_decay=LayerDecay(blocks=2, factor=1))
    assert [group["learning_rate_scale"] for group in groups] == [1.0, 1.0]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
