"""The arguments of a kernel: declared once, in C, for the kernel and for Python alike."""

import ctypes
from collections.abc import Mapping
from functools import cache

from torch import Tensor

Value = Tensor | int | float | None
"""A tensor is passed as the address of its first element, None as a null pointer."""

_C_TYPES: dict[str, type] = {
    "int": ctypes.c_int,
    "long long": ctypes.c_longlong,
    "float": ctypes.c_float,
}


@cache
def argument_fields(declarations: str) -> tuple[tuple[str, type], ...]:
    """Names and types of "const float* A; int clips;", in order."""
    fields = []
    for declaration in declarations.replace("\n", " ").split(";"):
        if declaration.strip():
            kind, _, name = declaration.strip().rpartition(" ")
            fields.append((name, ctypes.c_void_p if kind.endswith("*") else _C_TYPES[kind]))
    return tuple(fields)


@cache
def argument_structure(declarations: str) -> type[ctypes.Structure]:
    """The C structure as ctypes lays it out."""
    return type("Arguments", (ctypes.Structure,), {"_fields_": list(argument_fields(declarations))})


def structure_source(declarations: str) -> str:
    """The structure in C; it must come after the type `element`."""
    return f"struct Arguments {{ {declarations} }};\n"


def pack_arguments(declarations: str, values: Mapping[str, Value]) -> ctypes.Structure:
    """The filled structure. Every declared name needs a value, and no other may be given."""
    fields = argument_fields(declarations)
    assert {name for name, _ in fields} == values.keys(), (
        f"declared {sorted(name for name, _ in fields)}, given {sorted(values)}"
    )
    return argument_structure(declarations)(*(_plain(values[name]) for name, _ in fields))


def _plain(value: Value) -> int | float | None:
    return value.data_ptr() if isinstance(value, Tensor) else value
