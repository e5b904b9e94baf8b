"""Pickled files give their tensors and nothing of theirs is run, whatever they hold."""

import argparse
import builtins
import collections
import enum
import io
import os
import pickletools
import struct
import zipfile

import numpy as np
import pytest
import torch

from reelscan.models.inert_pickle import MAX_BYTES, Inert, read_inert
from reelscan.models.pickle_names import InertPickleError
from reelscan.models.weight_file import open_weights
from reelscan.models.weights import load_weights

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.0, 2.0])}


class DotDict(dict):
    """Like EasyDict: values as attributes."""

    __getattr__ = dict.__getitem__

    def __setstate__(self, state):
        raise AssertionError("a class of a file was run")


class OmegaLike:
    """Like a configuration object, with slots and a state of its own."""

    __slots__ = ("content",)

    def __init__(self):
        self.content = {"depth": 32}

    def __getstate__(self):
        return {"content": self.content}

    def __setstate__(self, state):
        raise AssertionError("a class of a file was run")


class Mode(enum.Enum):
    TRAIN = "train"


def harmless_extras():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "args": argparse.Namespace(lr=1e-4, out=torch.device("cpu"), mode=Mode.TRAIN),
        "config": OmegaLike(),
        "easy": DotDict(model=DotDict(depth=32)),
        "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "best": np.float64(71.5),
        "history": np.arange(4),
        "numpy_rng": np.random.get_state(),
        "torch_rng": torch.get_rng_state(),
        "seen": {1, 2},
        "counts": collections.Counter("aab"),
        "by_set": collections.defaultdict(list, msrvtt=[1]),
        "epoch": 9,
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_extras_beside_the_tensors_are_left_out_and_named(tmp_path, protocol, legacy):
    torch.save(
        {"model": collections.OrderedDict(STATE)} | harmless_extras(),
        tmp_path / "a.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    file = open_weights(tmp_path / "a.pth")
    assert file.shapes == {"weight": (2, 3), "bias": (2,)}
    assert "args (argparse.Namespace)" in file.extras
    assert len(file.extras) == len(harmless_extras())
    loaded = file.load()
    assert all(torch.equal(loaded[name], STATE[name]) for name in STATE)


def test_extras_among_the_tensors_are_left_out_too(tmp_path):
    torch.save(STATE | {"epoch": 3, "args": argparse.Namespace(a=1)}, tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth").keys() == STATE.keys()


NUMBER_TYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool,
                torch.complex64]  # fmt: skip
NEWER_TYPES = [torch.float8_e4m3fn, torch.uint16]


@pytest.mark.parametrize(
    ("legacy", "dtype"),
    [(False, dtype) for dtype in NUMBER_TYPES + NEWER_TYPES]
    + [(True, dtype) for dtype in NUMBER_TYPES],
)
def test_every_type_and_layout_comes_back(tmp_path, dtype, legacy):
    whole = torch.arange(12).to(torch.float32).view(3, 4).to(dtype)
    content = {
        "whole": whole,
        "turned": whole.T,
        "part": whole[1:, 2:],
        "parameter": torch.nn.Parameter(whole, requires_grad=False),
        "scalar": whole[2, 1],
        "none": whole[:0],
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    loaded = load_weights(tmp_path / "a.pth")
    assert loaded.keys() == content.keys()
    for name, tensor in content.items():
        assert loaded[name].dtype == dtype
        assert torch.equal(loaded[name].to(torch.complex64), tensor.to(torch.complex64)), name


def test_prefixes_of_wrapping_modules_are_taken_off(tmp_path):
    torch.save({f"module._orig_mod.{name}": t for name, t in STATE.items()}, tmp_path / "a.pth")
    assert load_weights(tmp_path / "a.pth").keys() == STATE.keys()


def test_a_whole_pickled_module_is_named(tmp_path):
    torch.save({"model": torch.nn.Linear(3, 2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"model \(torch\.nn\.modules\.linear\.Linear\).*state_di"):
        load_weights(tmp_path / "a.pth")


# Attacks

MARK = "reelscan_attack_ran"


class Calls:
    """Pickled, it becomes a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def attacks(mark):
    touch = f"__import__('os').mkdir({str(mark)!r})"
    return {
        "os.system": Calls(os.system, f"mkdir {mark}"),
        "os.mkdir": Calls(os.mkdir, str(mark)),
        "builtins.eval": Calls(eval, touch),
        "builtins.exec": Calls(exec, touch),
        "builtins.__import__": Calls(__import__, "antigravity"),
        "builtins.open": Calls(builtins.open, str(mark), "w"),
        "getattr of a class": Calls(getattr, argparse.Namespace, "__init__"),
        "torch.load": Calls(torch.load, str(mark)),
        "torch.hub.load": Calls(torch.hub.load, "evil/repository", "model"),
        "torch.save": Calls(torch.save, {}, str(mark)),
        "torch.jit.load": Calls(torch.jit.load, str(mark)),
        "numpy.load": Calls(np.load, str(mark)),
        "numpy runstring": Calls(np.testing.runstring, touch, {}),
        "zipfile extraction": Calls(zipfile.ZipFile.extractall, str(mark)),
        "state": Calls(argparse.Namespace, state={"run": Calls(os.mkdir, str(mark))}),
    }


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("attack", attacks("x"))
def test_an_attack_is_refused_and_does_not_run(tmp_path, attack, legacy):
    mark = tmp_path / MARK
    content = {"model": STATE, "extra": attacks(mark)[attack]}
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    before = set(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"refused, it holds a call of .*Nothing in it was run"):
        load_weights(path)
    assert set(tmp_path.iterdir()) == before


def written(path, program, *, name="archive/data.pkl", **entries):
    """A file of torch.save around a hand-written pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, program)
        for entry, content in entries.items():
            archive.writestr(f"archive/data/{entry}", content)
    return path


HAND_WRITTEN = {
    "global": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00echo\x85R.",
    "dotted name": b"\x80\x04\x8c\x08argparse\x8c\x0cos.path.join\x93).",
    "dunder": b"\x80\x04\x8c\x08argparse\x8c\x20Namespace.__init__.__globals__xx\x93.",
    "stack global from parts": b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94\x93\x8c\x04echo\x85R.",
    "inst": b"(X\x04\x00\x00\x00echoios\nsystem\n.",
    "obj": b"\x80\x02(cos\nsystem\nX\x04\x00\x00\x00echoo.",
    "newobj": b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00echo\x85\x81.",
    "newobj_ex": b"\x80\x04cos\nsystem\nX\x04\x00\x00\x00echo\x85}\x92.",
    "extension registry": b"\x80\x02\x82\x01.",
    "call of a tensor": b"\x80\x02}(K\x01K\x02u)R.",
    "call of a call": b"\x80\x02cargparse\nNamespace\n)R)R.",
    "persistent text": b"Pevil\n.",
    "outside storage": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "next buffer": b"\x80\x05\x97.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"abc.",
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**34) + b"abc.",
    "huge number": b"L" + b"9" * 5000 + b"L\n.",
    "empty stack": b"\x80\x02R.",
    "no mark": b"\x80\x02t.",
    "mark as value": b"\x80\x02(q\x00\x86.",
    "unknown memory": b"\x80\x02h\x05.",
    "list as key": b"\x80\x02}]K\x01s.",
    "no end": b"\x80\x02}",
    "nothing": b"",
}


@pytest.mark.parametrize("case", HAND_WRITTEN)
def test_a_hand_written_program_is_refused(tmp_path, case):
    with pytest.raises(ValueError, match=r"a\.pth: refused.*Nothing in it was run"):
        load_weights(written(tmp_path / "a.pth", HAND_WRITTEN[case]))


def test_a_chain_of_getattr_is_refused():
    program = (
        b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93"
        b"\x8c\x08builtins\x8c\x07getattr\x93\x8c\x08argparse\x8c\x09Namespace\x93"
        b"\x8c\x08__init__\x86R\x8c\x0b__globals__\x86R."
    )
    assert [op.name for op, _, _ in pickletools.genops(program)].count("REDUCE") == 2
    with pytest.raises(InertPickleError, match="call of getattr"):
        read_inert(io.BytesIO(program))


def test_a_key_that_would_be_hashed_for_ever_is_refused():
    """A tuple of twice a tuple of twice ...: its hash takes 2 ** 200 steps."""
    program = b"\x80\x02})" + b"q\x000h\x00h\x00\x86" * 200 + b"K\x01s."
    with pytest.raises(InertPickleError, match="key of a dict"):
        read_inert(io.BytesIO(program))


def test_deep_nesting_is_no_recursion():
    depth = 200_000
    value = read_inert(io.BytesIO(b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."))
    assert isinstance(value, list)


def test_a_description_without_end_is_refused(monkeypatch):
    assert MAX_BYTES == 16 * 2**20
    monkeypatch.setattr("reelscan.models.inert_pickle.MAX_BYTES", 2**20)
    program = b"\x80\x02" + b"N0" * 2**19 + b"N."
    with pytest.raises(InertPickleError, match="longer than 1 MiB"):
        read_inert(io.BytesIO(program))


def test_a_class_named_like_a_real_one_is_only_described():
    program = b"\x80\x02c__main__\nNamespace\n)\x81}X\x01\x00\x00\x00aK\x01sb."
    value = read_inert(io.BytesIO(program))
    assert isinstance(value, Inert)
    assert str(value.kind) == "__main__.Namespace"
    assert value.state == [{"a": 1}]


def test_what_a_terminal_would_obey_is_escaped(tmp_path):
    torch.save({"a\x1b[31m": STATE["bias"], "b\x1b]0;x\x07": 3}, tmp_path / "a.pth")
    assert open_weights(tmp_path / "a.pth").extras == ("b\\x1b]0;x\\x07 (int)",)


# Storages and archives that lie


def tensor_program(*, count=2, offset=0, shape="K\x02\x85", stride="K\x01\x85", key="0"):
    """{"w": a float tensor} with these numbers, as torch.save writes it."""
    number = (
        b"\x8a\x09" + struct.pack("<q", count) + b"\x00"
        if count >= 0
        else b"J" + struct.pack("<i", count)
    )
    place = (
        b"\x8a\x09" + struct.pack("<q", offset) + b"\x00"
        if offset >= 0
        else b"J" + struct.pack("<i", offset)
    )
    name = key.encode()
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(("
        b"X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X" + struct.pack("<I", len(name)) + name + b"X\x03\x00\x00\x00cpu" + number + b"tQ"
        + place + shape.encode("latin1") + stride.encode("latin1") + b"\x89}tRs."
    )  # fmt: skip


NUMBERS = struct.pack("<2f", 1.5, -2.0)
BIG = "\x8a\x06\x00\x00\x00\x00\x00\x10"
LIES = {
    "a storage larger than the file": {"count": 2**40},
    "a negative storage": {"count": -1},
    "an offset behind the end": {"offset": 1},
    "a negative offset": {"offset": -1},
    "a shape larger than the storage": {"shape": "K\x03\x85"},
    "a gigantic shape of one number": {"shape": f"{BIG}\x85", "stride": "K\x00\x85"},
    "a repeated number": {"shape": "K\x03\x85", "stride": "K\x00\x85"},
    "a stride out of the storage": {"stride": "K\x02\x85"},
    "a negative shape": {"shape": "J\xfe\xff\xff\xff\x85"},
    "too few strides": {"stride": ")"},
    "a shape that is no tuple": {"shape": "K\x02"},
    "a storage that is elsewhere": {"key": "1"},
    "a storage outside the archive": {"key": "../../../../etc/passwd"},
    "a storage with an absolute path": {"key": "/etc/passwd"},
}


def test_the_honest_program_is_read(tmp_path):
    path = written(tmp_path / "a.pth", tensor_program(), **{"0": NUMBERS})
    assert load_weights(path)["w"].tolist() == [1.5, -2.0]


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_tensor_is_refused_before_memory_is_taken(tmp_path, lie):
    path = written(tmp_path / "a.pth", tensor_program(**LIES[lie]), **{"0": NUMBERS})
    with pytest.raises(ValueError, match=r"a\.pth: refused"):
        load_weights(path)


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_program(count=2**24))
        archive.writestr("archive/data/0", b"\0" * 2**26)
    assert path.stat().st_size < 2**20
    with pytest.raises(ValueError, match="compressed"):
        load_weights(path)


def test_paths_in_an_archive_stay_inside_it(tmp_path):
    path = tmp_path / "inner" / "a.pth"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_program())
        archive.writestr("archive/data/0", NUMBERS)
        archive.writestr("../escaped", b"x")
        archive.writestr(str(tmp_path / "absolute"), b"x")
    load_weights(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["inner"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name_are_refused(tmp_path):
    path = written(tmp_path / "a.pth", tensor_program(), **{"0": NUMBERS})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", NUMBERS)
    with pytest.raises(ValueError, match="two entries"):
        load_weights(path)


def test_overlapping_entries_are_refused(tmp_path):
    """Every entry of the table points at the same bytes, which would be read again and again."""
    path = written(tmp_path / "a.pth", tensor_program(), **{"0": bytes(4000), "1": bytes(4000)})
    content = bytearray(path.read_bytes())
    first, second = (content.index(b"archive/data/%d" % n) - 30 for n in (0, 1))
    table = content.rindex(b"archive/data/1") - 46
    assert struct.unpack_from("<I", content, table + 42)[0] == second
    struct.pack_into("<I", content, table + 42, first)
    path.write_bytes(content + bytes(0))
    with pytest.raises(ValueError, match="overlap"):
        load_weights(path)


def test_a_torchscript_archive_is_named(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="TorchScript"):
        load_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"P", b"PK\x03\x04", b"\x1f\x8b\x08", b"nothing"])
def test_what_is_no_torch_file_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth: refused"):
        load_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_every_cut_is_refused(tmp_path, legacy):
    path = tmp_path / "a.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.pth: refused"):
            load_weights(path)
