"""Two processes against one with all of their data."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from two_processes import run_two_processes

from reelscan.pretrain.distributed import (
    choose_device,
    gather,
    gather_with_gradients,
    joined_processes,
    mean_over_processes,
)
from reelscan.pretrain.run_log import read_metrics

STEP_SCRIPT = Path(__file__).parent / "two_process_step.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes and one alone made of the same data."""
    folder = tmp_path_factory.mktemp("results")
    run_two_processes(STEP_SCRIPT, str(folder))
    runpy.run_path(str(STEP_SCRIPT))["main"](folder)
    return folder


def test_loss_and_gradients_are_those_of_one_process_with_the_whole_batch(results):
    alone = load_file(results / "1-0.safetensors")
    assert sum(bool(value.any()) for value in alone.values()) > 60
    for rank in range(2):
        together = load_file(results / f"2-{rank}.safetensors")
        assert together.keys() == alone.keys()
        for name, expected in alone.items():
            torch.testing.assert_close(together[name], expected, atol=1e-5, rtol=1e-4, msg=name)


def test_published_options_bring_back_the_published_gradients_and_mean(results):
    """With two processes half of the encoders' gradient, and all of the temperature's."""
    alone = load_file(results / "published-1-0.safetensors")
    for rank in range(2):
        together = load_file(results / f"published-2-{rank}.safetensors")
        assert together.keys() == alone.keys()
        for name, expected in alone.items():
            share = 1.0 if name in ("temp", "masked_language", "over_all") else 0.5
            torch.testing.assert_close(
                together[name], share * expected, atol=1e-5, rtol=1e-4, msg=name
            )
    assert alone["vision_proj.weight"].abs().max() > 1e-3
    assert abs(alone["masked_language"] - alone["over_all"]) > 1e-3


def test_a_run_of_two_processes_learns_what_one_learns(results):
    """Also: all stop together, one writes, and the run can be resumed."""
    alone, together = (read_metrics(results / f"run-{count}/metrics.jsonl") for count in (1, 2))
    assert [row["step"] for row in together] == [0, 1, 2, 3]
    for mine, theirs in zip(together, alone, strict=True):
        assert mine["contrastive"] == pytest.approx(theirs["contrastive"], rel=1e-3)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-2)
    weights = [
        load_file(results / f"run-{count}" / "model" / "model.safetensors") for count in (1, 2)
    ]
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, atol=2e-4, rtol=1e-3, msg=name)


def test_alone_gathering_changes_nothing():
    local = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradients(local) is local
    assert gather(local) is local
    assert torch.equal(mean_over_processes(local), local.detach())


def test_without_torchrun_this_is_the_first_and_only_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes("cpu") as processes:
        assert (processes.rank, processes.count, processes.is_first) == (0, 1, True)
        assert processes.device == torch.device("cpu")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="must be"):
        choose_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_named():
    with pytest.raises(ValueError, match="sees no GPU"):
        choose_device("cuda")
