"""The arguments of a kernel: declared once, in C, for the kernel and for Python alike."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from operator import itemgetter

from torch import Tensor

Value = Tensor | int | float | None
"""A tensor is passed as the address of its first element, None as a null pointer."""

_FORMATS = {"int": "i", "long long": "q", "float": "f"}


@cache
def _layout(declarations: str) -> tuple[struct.Struct, Callable[..., tuple[Value, ...]], int]:
    """How C lays out "const float* A; int clips;", what takes its values in order, their count."""
    names, formats = [], ""
    for declaration in declarations.replace("\n", " ").split(";"):
        if declaration.strip():
            kind, _, name = declaration.strip().rpartition(" ")
            names.append(name)
            formats += "P" if kind.endswith("*") else _FORMATS[kind]
    return struct.Struct(f"@{formats}"), itemgetter(*names), len(names)


def structure_source(declarations: str) -> str:
    """The structure in C; it must come after the type `element`."""
    return f"struct Arguments {{ {declarations} }};\n"


def pack_arguments(declarations: str, values: Mapping[str, Value]) -> bytes:
    """The filled structure. Every declared name needs a value, and no other may be given."""
    layout, in_order, count = _layout(declarations)
    assert len(values) == count, f"declared {declarations}, given {sorted(values)}"
    return layout.pack(*[_plain(value) for value in in_order(values)])


def _plain(value: Value) -> int | float:
    if isinstance(value, Tensor):
        return value.data_ptr()
    return 0 if value is None else value
