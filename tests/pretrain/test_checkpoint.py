import json
import os
import signal

import pytest
import torch
from torch import nn

from reelscan.models import atomic_directory
from reelscan.pretrain.checkpoint import (
    RunState,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from reelscan.pretrain.optimizer import build_optimizer


class TiedModel(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, width)
        self.decoder = nn.Linear(width, 6)
        self.decoder.weight = self.embedding.weight
        self.never_used = nn.Linear(2, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.embedding(ids))


def trained(steps: int, *, seed: int = 0, start: tuple | None = None):
    torch.manual_seed(seed)
    model = TiedModel()
    optimizer = build_optimizer(model, learning_rate=0.05)
    if start is not None:
        load_checkpoint(start, model=model, optimizer=optimizer)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        model(torch.arange(6)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def save(folder, step, *, keep_last=3):
    model, optimizer = trained(2)
    state = RunState(step=step, skipped_steps=1, settings={"seed": 7})
    return save_checkpoint(
        folder, model=model, optimizer=optimizer, state=state, keep_last=keep_last
    )


def test_training_goes_on_exactly_where_it_was(tmp_path):
    model, optimizer = trained(3)
    state = RunState(step=3, skipped_steps=1, settings={"seed": 7})
    path = save_checkpoint(tmp_path, model=model, optimizer=optimizer, state=state, keep_last=1)
    assert path.name == "step-00000003"
    assert read_state(path) == state
    resumed, _ = trained(2, seed=99, start=path)
    uninterrupted, _ = trained(5)
    for name, value in uninterrupted.state_dict().items():
        if not name.startswith("never_used"):
            assert torch.equal(resumed.state_dict()[name], value), name
    assert resumed.decoder.weight is resumed.embedding.weight


def test_only_the_last_ones_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep_last=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_the_newest_is_the_highest_step_not_the_last_name(tmp_path):
    save(tmp_path, 99_999_999)
    assert newest_checkpoint(tmp_path).name == "step-99999999"
    save(tmp_path, 100_000_000)
    assert newest_checkpoint(tmp_path).name == "step-100000000"


def test_no_folder_means_no_checkpoint(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("point", range(6))
def test_a_kill_at_any_point_of_writing_leaves_a_whole_checkpoint(tmp_path, point):
    """SIGKILL at the first, second, ... sync to disk: the older or the new one counts."""
    save(tmp_path, 10)
    model, optimizer = trained(2)
    child = os.fork()
    if child == 0:
        # Only files are touched here: torch's threads do not survive a fork.
        signal.alarm(60)
        calls = iter(range(100))

        def sync_or_die(path):
            if next(calls) == point:
                os.kill(os.getpid(), signal.SIGKILL)

        atomic_directory._sync = sync_or_die
        state = RunState(step=20)
        save_checkpoint(tmp_path, model=model, optimizer=optimizer, state=state, keep_last=3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    was_killed = os.WIFSIGNALED(status)
    assert was_killed == (point < 5)
    newest = newest_checkpoint(tmp_path)
    assert newest.name == ("step-00000010" if point < 4 else "step-00000020")
    load_checkpoint(newest, model=TiedModel())
    save(tmp_path, 30)
    assert not list(tmp_path.glob(".*")), "leftovers of the kill are swept away"


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_truncated_or_missing_file_makes_it_incomplete(tmp_path, name):
    save(tmp_path, 1)
    broken = save(tmp_path, 2)
    content = (broken / name).read_bytes()
    (broken / name).write_bytes(content[: len(content) // 2])
    assert newest_checkpoint(tmp_path).name == "step-00000001"
    (broken / name).unlink()
    assert newest_checkpoint(tmp_path).name == "step-00000001"
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        load_checkpoint(broken, model=TiedModel())
    save(tmp_path, 2)
    assert newest_checkpoint(tmp_path).name == "step-00000002"


def test_another_model_is_refused_in_one_line_of_advice(tmp_path):
    path = save(tmp_path, 1)
    with pytest.raises(ValueError, match="resume with the configuration"):
        load_checkpoint(path, model=TiedModel(width=8))


def test_nothing_in_it_is_pickled(tmp_path):
    path = save(tmp_path, 1)
    assert sorted(entry.name for entry in path.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    ]
    assert json.loads((path / "state.json").read_text())["step"] == 1


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        save(tmp_path, 1, keep_last=0)
