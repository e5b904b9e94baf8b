"""Sharding, accumulation and checkpoints over processes: two of them over gloo against one."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import run_two_processes

from reelscan.pretrain.run_log import read_metrics

SCRIPT = Path(__file__).parent / "two_process_scale.py"
KINDS = ("1-replicated", "2-replicated", "2-fully_sharded")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes and one alone made of the same clips, and of each other's checkpoints."""
    folder = tmp_path_factory.mktemp("results")
    alone = runpy.run_path(str(SCRIPT))["main"]
    alone(folder, "write")
    run_two_processes(SCRIPT, str(folder), "write", "read")
    alone(folder, "read")
    return folder


def entries(tensors: dict[str, torch.Tensor], step: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(f"{step}/"): value
        for name, value in tensors.items()
        if name.startswith(f"{step}/")
    }


@pytest.mark.parametrize(
    ("step", "reference"),
    [
        ("replicated", "replicated"),
        ("sharded", "replicated"),
        ("sharded-parts", "replicated"),
        ("replicated-parts-sigmoid", "sharded-sigmoid"),
        ("sharded-sigmoid", "sharded-sigmoid"),
    ],
)
def test_gradients_of_two_processes_are_those_of_one_with_the_whole_batch(results, step, reference):
    expected = entries(load_file(results / "1-0.safetensors"), reference)
    assert sum(bool(value.any()) for value in expected.values()) > 60
    for rank in range(2):
        given = entries(load_file(results / f"2-{rank}.safetensors"), step)
        assert given.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(given[name], value, atol=2e-5, rtol=2e-4, msg=name)


def test_both_contrastive_losses_are_exact_in_float64(results):
    expected = load_file(results / "float64-1-0")
    for rank in range(2):
        given = load_file(results / f"float64-2-{rank}")
        assert given.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(given[name], value, atol=1e-13, rtol=1e-12, msg=name)
    assert expected["sigmoid/parameter 1"].abs() > 1e-3


@pytest.mark.parametrize("reader", KINDS)
@pytest.mark.parametrize("writer", KINDS)
def test_a_checkpoint_is_read_by_any_number_of_processes(results, writer, reader):
    """Training goes on as in the run that wrote it, which did not stop for writing."""
    expected = load_file(results / writer / "after-4")
    given = load_file(results / writer / f"after-4-on-{reader}")
    assert given.keys() == expected.keys()
    for name, value in expected.items():
        if writer == reader:
            assert torch.equal(given[name], value), name
        else:
            torch.testing.assert_close(given[name], value, atol=2e-4, rtol=1e-3, msg=name)


def test_a_sharded_run_learns_what_one_process_learns_and_leaves_a_whole_model(results):
    alone, together = (read_metrics(results / f"run-{count}/metrics.jsonl") for count in (1, 2))
    assert [row["step"] for row in together] == [0, 1, 2, 3]
    for mine, theirs in zip(together, alone, strict=True):
        assert mine["contrastive"] == pytest.approx(theirs["contrastive"], rel=1e-3)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-2)
    assert together[-1]["held_out_norm"] == pytest.approx(1.0, abs=1e-5)
    weights = [
        load_file(results / f"run-{count}" / "model" / "model.safetensors") for count in (1, 2)
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, atol=2e-4, rtol=1e-3, msg=name)
