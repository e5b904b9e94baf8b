import json
import os
import signal
from itertools import count

import pytest
import torch
from torch import nn

from reelscan.pretrain import checkpoint_files
from reelscan.pretrain.checkpoint import CheckpointWriter, checkpoint_weights, load_checkpoint
from reelscan.pretrain.checkpoint_files import RunState, newest_checkpoint, read_state
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
        load_checkpoint(start, module=model, optimizer=optimizer)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        model(torch.arange(6)).square().sum().backward()
        optimizer.step()
    return model, optimizer


TENSORS = "shard-00001-model-00001-of-00001.safetensors"
STATE = RunState(
    step=3,
    position=4,
    skipped_steps=1,
    roll_backs=1,
    recent_losses=(0.1, 2.5),
    settings={"seed": 7},
)


def save(folder, step, *, keep_last=3):
    model, optimizer = trained(2)
    with CheckpointWriter(folder, keep_last=keep_last) as checkpoints:
        return checkpoints.save(model, optimizer, RunState(step=step, skipped_steps=1))


def test_training_goes_on_exactly_where_it_was(tmp_path):
    model, optimizer = trained(3)
    with CheckpointWriter(tmp_path, keep_last=1) as checkpoints:
        path = checkpoints.save(model, optimizer, STATE)
        with torch.no_grad():
            model.embedding.weight.fill_(7.0)  # Training does not wait for the disk.
    assert path.name == "step-00000003"
    assert read_state(path) == STATE
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


@pytest.mark.parametrize("point", range(7))
def test_a_kill_at_any_point_of_writing_leaves_a_whole_checkpoint(tmp_path, point):
    """SIGKILL at the first, second, ... sync to disk: the older or the new one counts."""
    save(tmp_path, 10)
    model, optimizer = trained(2)
    child = os.fork()
    if child == 0:
        # Only files are touched here: torch's threads do not survive a fork.
        signal.alarm(60)
        points = count()
        usual = os.fsync

        def sync_or_die(file):
            if next(points) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            usual(file)

        os.fsync = sync_or_die
        with CheckpointWriter(tmp_path, keep_last=3) as checkpoints:
            checkpoints.save(model, optimizer, RunState(step=20))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) == (point < 5)
    newest = newest_checkpoint(tmp_path)
    assert newest.name == ("step-00000010" if point < 4 else "step-00000020")
    load_checkpoint(newest, module=TiedModel())
    save(tmp_path, 30)
    assert not list(tmp_path.glob(".*")), "leftovers of the kill are swept away"


@pytest.mark.parametrize("name", [TENSORS, "state.json"])
def test_a_truncated_or_missing_file_makes_it_incomplete(tmp_path, name):
    save(tmp_path, 1)
    broken = save(tmp_path, 2)
    content = (broken / name).read_bytes()
    (broken / name).write_bytes(content[: len(content) // 2])
    assert newest_checkpoint(tmp_path).name == "step-00000001"
    (broken / name).unlink()
    assert newest_checkpoint(tmp_path).name == "step-00000001"
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        load_checkpoint(broken, module=TiedModel())
    save(tmp_path, 2)
    assert newest_checkpoint(tmp_path).name == "step-00000002"


def test_another_model_is_refused_in_one_line_of_advice(tmp_path):
    path = save(tmp_path, 1)
    with pytest.raises(ValueError, match="resume with the configuration"):
        load_checkpoint(path, module=TiedModel(width=8))


def test_nothing_in_it_is_pickled(tmp_path):
    path = save(tmp_path, 1)
    assert sorted(entry.name for entry in path.iterdir()) == [TENSORS, "state.json"]
    assert json.loads((path / "state.json").read_text())["step"] == 1


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        save(tmp_path, 1, keep_last=0)


def test_weights_alone_can_be_read_with_tied_ones_once(tmp_path):
    model, _ = trained(2)
    weights = checkpoint_weights(save(tmp_path, 1))
    assert weights.keys() == {"embedding.weight", "decoder.bias"} | {
        f"never_used.{name}" for name in ("weight", "bias")
    }
    assert torch.equal(weights["embedding.weight"], model.embedding.weight)


def test_a_checkpoint_of_another_version_is_not_taken_for_none(tmp_path):
    state = save(tmp_path, 1) / checkpoint_files.STATE_FILE
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": 1}))
    with pytest.raises(ValueError, match="format 1, this version reads 2"):
        newest_checkpoint(tmp_path)


def test_what_goes_wrong_while_writing_is_told(tmp_path, monkeypatch):
    model, optimizer = trained(2)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_files, "_sync", full)
    checkpoints = CheckpointWriter(tmp_path, keep_last=1)
    checkpoints.save(model, optimizer, RunState(step=1))
    with pytest.raises(OSError, match=r"could not be written to .*: process 0: .*No space left"):
        checkpoints.wait()
    assert newest_checkpoint(tmp_path) is None
