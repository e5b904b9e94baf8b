"""Weight files are read without running anything, and load completely or not at all."""

import os
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from reelscan.models.weights import count_parameters, load_strict, load_weights


class TouchesFile:
    """Pickled, this creates a file as soon as it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def state() -> dict[str, torch.Tensor]:
    return {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, 2.0])}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_safetensors_and_torch_files_give_the_same_state(tmp_path):
    save_file(state(), tmp_path / "a.safetensors")
    torch.save(state(), tmp_path / "a.pth")
    assert_same(load_weights(tmp_path / "a.safetensors"), state())
    assert_same(load_weights(str(tmp_path / "a.pth")), state())


@pytest.mark.parametrize("wrappers", [["model"], ["module"], ["model", "module"]])
def test_training_wrappers_are_taken_off(tmp_path, wrappers):
    content = state()
    for name in wrappers:
        content = {name: content, "epoch": 3, "lr": 0.1}
    torch.save(content, tmp_path / "a.pth")
    assert_same(load_weights(tmp_path / "a.pth"), state())


@pytest.mark.parametrize("legacy", [False, True])
def test_hostile_pickle_is_refused_and_not_run(tmp_path, legacy):
    mark = tmp_path / "ran"
    torch.save(
        {"model": state(), "extra": TouchesFile(mark)},
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(ValueError, match=r"a\.pth: refused.*Nothing in it was run.*safetensors"):
        load_weights(tmp_path / "a.pth")
    assert not mark.exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {}}, {"weight": 1.0}, torch.ones(2)])
def test_other_content_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="state dict"):
        load_weights(tmp_path / "a.pth")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_weights(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_damaged_files_raise_one_kind_of_error(tmp_path, kind):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pth")
    if kind == "safetensors":
        save_file(state(), path)
    else:
        torch.save(state(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for attempt in range(120):
        damaged = bytearray(whole)
        if attempt % 2:
            del damaged[draw.randrange(len(damaged)) :]
        else:
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            load_weights(path)
        except ValueError as error:
            refused += path.name in str(error)
    assert refused >= 60, "every cut file must be refused, naming it"


def test_parameters_are_counted_from_the_header(tmp_path):
    save_file(state() | {"position_ids": torch.arange(9)}, tmp_path / "a.safetensors")
    assert count_parameters(tmp_path / "a.safetensors") == 8
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        count_parameters(tmp_path / "a.safetensors")


def test_load_strict_copies_every_tensor():
    module = nn.Linear(3, 2)
    report = load_strict(module, state())
    assert_same(module.state_dict(), state())
    assert report.missing == report.unknown == ()


def test_load_strict_lists_all_complaints_and_changes_nothing():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    wrong = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(5), "head": torch.ones(7)}
    with pytest.raises(ValueError) as error:
        load_strict(module, wrong)
    message = str(error.value)
    assert "2 missing: 1.weight [2, 2], 1.bias [2]" in message
    assert "1 unknown: head [7]" in message
    assert "1 of another shape: 0.bias [5] instead of [2]" in message
    assert_same(module.state_dict(), before)


def test_load_strict_keeps_long_lists_short():
    module = nn.Linear(3, 2)
    many = state() | {f"extra{number}": torch.ones(1) for number in range(500)}
    with pytest.raises(ValueError, match=r"500 unknown: .* and 492 more") as error:
        load_strict(module, many)
    assert len(str(error.value)) < 600


def test_allowed_differences_are_reported():
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    given = {f"0.{name}": tensor for name, tensor in state().items()} | {"teacher.x": torch.ones(1)}
    report = load_strict(module, given, allowed_missing=["1.*"], allowed_unknown=["teacher.*"])
    assert report.missing == ("1.weight", "1.bias")
    assert report.unknown == ("teacher.x",)
    assert torch.equal(module[0].weight, given["0.weight"])


def test_allowed_names_do_not_excuse_a_wrong_shape():
    with pytest.raises(ValueError, match="another shape"):
        load_strict(nn.Linear(3, 2), {"weight": torch.ones(9)}, allowed_missing=["*"])
