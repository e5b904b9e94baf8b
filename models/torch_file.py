"""Files of `torch.save`, zip and older, read without running anything in them.

What they describe comes from `inert_pickle`; numbers are read when asked for, from places that were
checked against the size of the file. No path in a file is ever used as a path.
"""

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from reelscan.models.inert_pickle import (
    MAX_BYTES,
    Inert,
    StorageRef,
    TensorRef,
    read_inert,
)
from reelscan.models.pickle_names import InertPickleError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SAVE_AGAIN = "load it where it was made and save model.state_dict() again with torch.save"
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype)
} | {"half": torch.float16, "float": torch.float32, "double": torch.float64}


@dataclass(frozen=True, kw_only=True)
class TorchFile:
    """A file of `torch.save`: what it describes, and where its numbers lie."""

    path: Path
    content: object
    """As `read_inert` gives it."""
    places: dict[str, tuple[int, int]]
    """First byte and number of bytes of each storage, by key."""

    def read(self, wanted: dict[str, TensorRef]) -> dict[str, Tensor]:
        """These tensors, on the CPU; what shares a storage shares memory."""
        storages: dict[str, Tensor] = {}
        tensors = {}
        with self.path.open("rb") as file:
            for name, ref in wanted.items():
                check_place(ref, self.places)
                key = ref.storage.key
                if key not in storages:
                    storages[key] = _read_bytes(file, *self.places[key])
                tensors[name] = _view(storages[key], ref)
        return tensors


def open_torch_file(path: Path) -> TorchFile:
    """Read the description in a file of `torch.save`. Raises InertPickleError, OSError."""
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(0)
        if start == b"PK":
            return _open_zip(path, file)
        if not start.startswith(b"\x80"):
            raise InertPickleError("it is no file of torch.save, or one from before 2017")
        if read_inert(file) != LEGACY_MAGIC:
            raise InertPickleError(f"it is a bare pickle, no file of torch.save; {_SAVE_AGAIN}")
        return _open_legacy(path, file)


def check_place(ref: TensorRef, places: dict[str, tuple[int, int]]) -> None:
    """Raise InertPickleError unless the tensor lies in its storage and that in the file."""
    dtype = _dtype(ref)
    if ref.storage.key not in places:
        raise InertPickleError("the numbers of a tensor are not in the file: it is cut short")
    room = places[ref.storage.key][1] // dtype.itemsize
    told = ref.storage.count // (dtype.itemsize if ref.storage.dtype is None else 1)
    count, last = 1, ref.offset
    for size, step in zip(ref.shape, ref.stride, strict=True):
        count *= size
        last += (size - 1) * step
    if told > room or (count and (last >= told or count > told)):
        raise InertPickleError("a tensor claims more numbers than the file holds")


def _dtype(ref: TensorRef) -> torch.dtype:
    if ref.dtype not in _DTYPES:
        raise InertPickleError("a tensor has an unknown data type")
    return _DTYPES[ref.dtype]


def _read_bytes(file: IO[bytes], start: int, count: int) -> Tensor:
    if not count:
        return torch.empty(0, dtype=torch.uint8)
    content = torch.empty(count, dtype=torch.uint8)
    file.seek(start)
    view = content.numpy().data
    done = 0
    while done < count:
        read = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not read:
            raise InertPickleError("it is cut short")
        done += read
    return content


def _view(storage: Tensor, ref: TensorRef) -> Tensor:
    dtype = _dtype(ref)
    whole = storage[: len(storage) // dtype.itemsize * dtype.itemsize].view(dtype)
    if 0 in ref.shape:
        return torch.empty(ref.shape, dtype=dtype)
    return whole.as_strided(ref.shape, ref.stride, ref.offset)


def _open_zip(path: Path, file: IO[bytes]) -> TorchFile:
    size = path.stat().st_size
    try:
        entries = zipfile.ZipFile(file).infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, OverflowError, EOFError) as error:
        raise InertPickleError(f"its zip archive is cut short or damaged ({error})") from error
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") for name in names):
        raise InertPickleError(f"it is a TorchScript program, not weights; {_SAVE_AGAIN}")
    if len(set(names)) != len(names):
        raise InertPickleError("its zip archive holds two entries of the same name")
    places = {entry.filename: _entry_place(file, entry, size) for entry in entries}
    in_order = sorted(places.values())
    if any(a + count > b for (a, count), (b, _) in pairwise(in_order)):
        raise InertPickleError("the entries of its zip archive overlap")
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("data.pkl")]
    if len(roots) != 1:
        raise InertPickleError("its zip archive is none of torch.save: it lacks one data.pkl")
    root = roots[0]
    start, count = places.get(f"{root}byteorder", (0, 0))
    file.seek(start)
    if file.read(min(count, 8)) == b"big":
        raise InertPickleError(f"its numbers are big-endian; {_SAVE_AGAIN} on a usual machine")
    start, count = places[f"{root}data.pkl"]
    if count > MAX_BYTES:
        raise InertPickleError(f"its description is longer than {MAX_BYTES >> 20} MiB")
    file.seek(start)
    prefix = f"{root}data/"
    return TorchFile(
        path=path,
        content=read_inert(file),
        places={
            name.removeprefix(prefix): place
            for name, place in places.items()
            if name.startswith(prefix)
        },
    )


def _entry_place(file: IO[bytes], entry: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Where an entry's bytes lie. torch.save compresses nothing, so a zip bomb is refused here."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise InertPickleError(
            "an entry of its zip archive is compressed, as torch.save never does"
        )
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise InertPickleError("its zip archive is damaged")
    _, name, extra = _LOCAL_HEADER.unpack(header)
    start = entry.header_offset + _LOCAL_HEADER.size + name + extra
    if entry.file_size != entry.compress_size or start + entry.file_size > size:
        raise InertPickleError("its zip archive claims more than the file holds")
    return start, entry.file_size


def _open_legacy(path: Path, file: IO[bytes]) -> TorchFile:
    """Behind the magic: version, machine, content and keys, then each storage with its count."""
    _, machine, content, keys = (read_inert(file) for _ in range(4))
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise InertPickleError(f"its numbers are big-endian; {_SAVE_AGAIN} on a usual machine")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise InertPickleError("it is damaged (no list of storages)")
    storages = {ref.key: ref for ref in _storages(content)}
    size = path.stat().st_size
    places = {}
    for key in keys:
        if key not in storages:
            raise InertPickleError("it is damaged (a storage that no tensor has)")
        ref = storages[key]
        head = file.read(8)
        if len(head) < 8 or struct.unpack("<q", head)[0] != ref.count:
            raise InertPickleError("it is cut short or damaged")
        count = ref.count * (_DTYPES[ref.dtype].itemsize if ref.dtype else 1)
        start = file.tell()
        if start + count > size:
            raise InertPickleError("it claims more numbers than the file holds: it is cut short")
        places[key] = (start, count)
        file.seek(start + count)
    return TorchFile(path=path, content=content, places=places)


def _storages(content: object) -> Iterator[StorageRef]:
    """Every storage in what a file describes; each container is looked into once."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, TensorRef):
            yield value.storage
        elif isinstance(value, StorageRef):
            yield value
        elif id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, list | tuple):
                waiting += value
            elif isinstance(value, Inert):
                waiting += [value.arguments, value.state]
