"""`reelscan model`: what a file is, and how it becomes a model directory."""

import argparse
import json

import pytest
import torch
from published_layouts import VARIANTS, random_state


@pytest.fixture
def weights(tmp_path):
    torch.save(
        {"model": random_state("sm_videomamba_tiny", small=True), "args": argparse.Namespace(a=1)},
        tmp_path / "tiny.pth",
    )
    return tmp_path / "tiny.pth"


def test_a_weight_file_is_inspected_converted_and_inspected_again(run, weights, tmp_path):
    told = run("model", "inspect", weights)
    assert told.code == 0
    for words in ("classifier of videos", "2 blocks of width 16", "2 frames of 32 x 32 px",
                  "argparse.Namespace", "all there, all known"):  # fmt: skip
        assert words in told.out
    done = run("model", "convert", weights, tmp_path / "out", "--frames", 4, "--size", 48)
    assert done.code == 0, done.err
    assert "left out: args (argparse.Namespace)" in done.out
    again = run("model", "inspect", tmp_path / "out")
    assert "4 frames of 48 x 48 px" in again.out
    assert json.loads(run("model", "inspect", tmp_path / "out", "--json").out)["classes"] == 10
    assert run("model", "verify", tmp_path / "out").code == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_published_variant_is_told_as_json(run, tmp_path, variant):
    torch.save({"module": random_state(variant, small=True)}, tmp_path / "a.pth")
    outcome = run("model", "inspect", tmp_path / "a.pth", "--json")
    assert outcome.code == 0
    told = json.loads(outcome.out)
    assert told["layout"]["vision"]["depth"] == 2
    assert told["layout"]["teacher"] == ("teacher" in variant)
    assert told["layout"]["differences"]["missing"] == []


def test_gaps_are_listed_and_give_exit_code_1(run, tmp_path):
    state = random_state("sm_videomamba_tiny", small=True)
    del state["norm_f.weight"]
    state["extra"] = torch.ones(1)
    torch.save(state, tmp_path / "a.pth")
    outcome = run("model", "inspect", tmp_path / "a.pth")
    assert outcome.code == 1
    assert "1 missing: norm.weight" in outcome.out
    assert "1 unknown: extra" in outcome.out


def test_a_file_that_is_no_model_is_told_in_one_line(run, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"hello")
    outcome = run("model", "inspect", tmp_path / "a.pth")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "refused, it is no file of torch.save" in outcome.err
