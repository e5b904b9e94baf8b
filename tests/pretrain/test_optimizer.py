import json
from pathlib import Path

import torch
from torch import nn

from reelscan.pretrain.optimizer import build_optimizer, decays, parameter_groups

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
