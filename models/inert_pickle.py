"""Reads what a pickle describes without doing what it says: nothing named in it is ever called.

A pickle is a program for a small stack machine. This is such a machine without the power to import
or call: names stay names (`Name`), objects stay descriptions (`Inert`), tensors stay places in a
storage (`TensorRef`). The standard library's `pickletools` only cuts the bytes into opcodes.
A file that names what acts on the machine (os, builtins.eval, torch.load, ...) is refused as well.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import IO, Any, cast

from reelscan.models.pickle_names import InertPickleError, Name, checked_name, printable

MAX_BYTES = 16 * 2**20
"""Longest pickle; the one of a published checkpoint with its optimiser is a tenth of it."""
MAX_DIMENSIONS = 64


@dataclass(eq=False)
class Inert:
    """An object of a class that was not imported, as described."""

    kind: Name
    arguments: tuple[Any, ...] = ()
    state: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class StorageRef:
    """A run of numbers elsewhere in the file."""

    key: str
    dtype: str | None
    """Of torch, such as "float32"; None for bytes."""
    count: int
    """Numbers, or bytes without a dtype."""


@dataclass(frozen=True)
class TensorRef:
    """A tensor's place in a storage; checked to lie inside it."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_inert(file: IO[bytes]) -> object:
    """The object that the pickle at this position describes; the file stands behind it after.

    Dicts, lists, tuples, strings and numbers come as they are, sets as lists, all else inert.
    Raises InertPickleError.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(cast(IO[bytes], _Bounded(file))):
            if opcode.name == "STOP":
                return machine.pop()
            machine.run(opcode.name, argument)
    except InertPickleError:
        raise
    except (ValueError, LookupError, TypeError, ArithmeticError, EOFError, MemoryError) as error:
        reason = printable(str(error)) or type(error).__name__
        raise InertPickleError(f"it is damaged ({reason})") from error
    raise InertPickleError("it is cut short")


class _Bounded:
    """A file that gives no more than MAX_BYTES, however much is asked for at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.start = file.tell()

    def tell(self) -> int:
        return self.file.tell()

    def read(self, count: int) -> bytes:
        return self.file.read(min(count, self._left()))

    def readline(self) -> bytes:
        return self.file.readline(self._left())

    def _left(self) -> int:
        left = self.start + MAX_BYTES - self.file.tell()
        if left <= 0:
            raise InertPickleError(f"its description is longer than {MAX_BYTES >> 20} MiB")
        return left


_MARK = object()
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "MARK": lambda: _MARK,
}
_VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = ("PROTO", "FRAME")


class _Machine:
    """Stack and memory of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise InertPickleError("it is damaged (a mark instead of a value)")
        return value

    def pop_to_mark(self) -> list[Any]:
        items = list(takewhile(lambda value: value is not _MARK, reversed(self.stack)))[::-1]
        if len(items) == len(self.stack):
            raise InertPickleError("it is damaged (a mark is missing)")
        del self.stack[len(self.stack) - len(items) - 1 :]
        return items

    def run(self, opcode: str, argument: Any) -> None:
        """One step. Raises what a damaged program makes Python raise."""
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[opcode])]
            self.stack.append(tuple(reversed(items)))
        elif opcode not in _IGNORED:
            step = getattr(self, f"_{opcode.lower()}", None)
            if step is None:
                raise InertPickleError(f"it uses the instruction {opcode}, which no weights need")
            step(argument)

    # Memory and stack

    def _put(self, index: int) -> None:
        self.memory[index] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: None) -> None:
        self.memory[len(self.memory)] = self.stack[-1]

    def _get(self, index: int) -> None:
        self.stack.append(self.memory[index])

    _binget = _long_binget = _get

    def _pop(self, _: None) -> None:
        self.stack.pop()

    def _pop_mark(self, _: None) -> None:
        self.pop_to_mark()

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    # Containers

    def _tuple(self, _: None) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    _frozenset = _tuple

    def _list(self, _: None) -> None:
        self.stack.append(self.pop_to_mark())

    def _dict(self, _: None) -> None:
        items = self.pop_to_mark()
        self.stack.append({})
        self._set(items)

    def _append(self, _: None) -> None:
        value = self.pop()
        self._extend([value])

    def _appends(self, _: None) -> None:
        self._extend(self.pop_to_mark())

    _additems = _appends

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state.append(values)
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise InertPickleError("it is damaged (values added to what is no list)")

    def _setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self._set([key, value])

    def _setitems(self, _: None) -> None:
        self._set(self.pop_to_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state.append(items)
        elif not isinstance(target, dict) or len(items) % 2:
            raise InertPickleError("it is damaged (keys set in what is no dict)")
        else:
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[_checked_key(key)] = value

    # Names and objects

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(checked_name(module, name))

    def _stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(checked_name(module, name))

    def _reduce(self, _: None) -> None:
        arguments, called = self.pop(), self.pop()
        self.stack.append(_described(called, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: None) -> None:
        self.pop()
        self._reduce(None)

    def _obj(self, _: None) -> None:
        called, *arguments = self.pop_to_mark()
        self.stack.append(_described(called, tuple(arguments)))

    def _inst(self, argument: str) -> None:
        arguments = tuple(self.pop_to_mark())
        self._global(argument)
        self.stack.append(_described(self.pop(), arguments))

    def _build(self, _: None) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state.append(state)
        elif not isinstance(target, dict | TensorRef):
            raise InertPickleError("it is damaged (state given to a plain value)")

    def _binpersid(self, _: None) -> None:
        self.stack.append(_storage(self.pop()))


def _checked_key(key: Any) -> Any:
    """A key whose hash costs nothing: a tuple of tuples of ... could take for ever."""
    simple = str | bytes | int | float | None | Name | Inert
    if isinstance(key, tuple) and all(isinstance(part, str | int | float) for part in key):
        return key
    if not isinstance(key, simple):
        raise InertPickleError(f"a {type(key).__name__} is the key of a dict")
    return key


def _described(called: Any, arguments: Any) -> Any:
    """What stands in for called(*arguments): tensors and dicts themselves, anything else inert."""
    if not isinstance(called, Name) or not isinstance(arguments, tuple):
        raise InertPickleError("it calls what is no class")
    if called in _REBUILD:
        return _REBUILD[called](*arguments)
    if called.name == "getattr" and not _is_enum_member(arguments):
        raise InertPickleError("it holds a call of getattr, which has no place in a weight file")
    return Inert(called, arguments)


def _is_enum_member(arguments: tuple[Any, ...]) -> bool:
    if len(arguments) != 2 or not isinstance(arguments[1], str):
        return False
    return isinstance(arguments[0], Name) and not arguments[1].startswith("_")


def _ordered(items: Any = (), *_: Any) -> dict[Any, Any]:
    """An OrderedDict: empty, as everywhere, or from a list of pairs."""
    return {_checked_key(key): value for key, value in items}


def _tensor(
    storage: Any, offset: Any, shape: Any, stride: Any, *_: Any, dtype: str | None = None
) -> TensorRef:
    if not isinstance(storage, StorageRef):
        raise InertPickleError("a tensor has no storage")
    sizes = (shape, stride)
    counts = [n for part in sizes if isinstance(part, tuple) for n in part] + [offset]
    if (
        not all(isinstance(part, tuple) and len(part) <= MAX_DIMENSIONS for part in sizes)
        or len(shape) != len(stride)
        or not all(type(n) is int and 0 <= n < 2**62 for n in counts)
    ):
        raise InertPickleError("a tensor has an impossible shape")
    kind = dtype or storage.dtype
    if kind is None:
        raise InertPickleError("a tensor has no data type")
    return TensorRef(storage, kind, offset, shape, stride)


def _tensor_v2(*arguments: Any) -> TensorRef:
    if len(arguments) > 6 and arguments[6]:
        raise InertPickleError("a tensor is stored as the conjugate or negative of its numbers")
    return _tensor(*arguments)


def _tensor_v3(*arguments: Any) -> TensorRef:
    if len(arguments) < 7 or not isinstance(arguments[6], Name):
        raise InertPickleError("a tensor has no data type")
    return _tensor(*arguments[:6], dtype=arguments[6].name)


def _first(value: Any, *_: Any) -> Any:
    return value


def _from_type(rebuild: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    """A tensor of a subclass, or with attributes: the tensor alone."""
    return _described(rebuild, arguments)


def _shape(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


_REBUILD: dict[Name, Callable[..., Any]] = {
    Name("collections", "OrderedDict"): _ordered,
    Name("torch", "Size"): _shape,
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor_v2,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor_v3,
    Name("torch._utils", "_rebuild_parameter"): _first,
    Name("torch._utils", "_rebuild_parameter_with_state"): _first,
    Name("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    Name("torch._tensor", "_rebuild_from_type"): _from_type,
}

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": None,
}


def _storage(identity: Any) -> StorageRef:
    """What torch.save writes for a storage: ("storage", class, key, device, count[, view])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise InertPickleError("it refers to something outside the file")
    _, kind, key, _, count = identity[:5]
    if len(identity) == 6 and identity[5] is not None:
        raise InertPickleError("a storage is a view of another; save it with a newer torch")
    if not isinstance(kind, Name) or kind.name not in _STORAGES:
        raise InertPickleError("it has numbers of an unknown type")
    if not isinstance(key, str) or type(count) is not int or not 0 <= count < 2**62:
        raise InertPickleError("it is damaged (a storage without a place or a size)")
    return StorageRef(key, _STORAGES[kind.name], count)
