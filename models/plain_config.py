"""Configuration dataclasses from plain json values, every value checked.

The way there is `dataclasses.asdict`.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def from_plain(kind: type[Config], values: object, *, where: str) -> Config:
    """Build a dataclass of numbers, strings, choices, tuples and further dataclasses.

    `where` names the place in error messages. Absent fields take their default. Raises ValueError
    for unknown and missing fields, values of another type and what the dataclass refuses.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r:.80}; give an object with named fields")
    assert is_dataclass(kind), f"{kind} is no dataclass"
    known = {field.name: field for field in fields(kind)}
    unknown = [str(name) for name in values if name not in known]
    if unknown:
        raise ValueError(
            f"{where} has unknown fields: {', '.join(unknown)}; known are {', '.join(known)}: "
            "correct them, or use the version that wrote them"
        )
    missing = [name for name in known if name not in values and _is_required(known[name])]
    if missing:
        raise ValueError(f"{where} lacks the fields {', '.join(missing)}; add them")
    types = get_type_hints(kind)
    converted = {
        name: _convert(value, types[name], where=f"{where}.{name}")
        for name, value in values.items()
    }
    try:
        return kind(**converted)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _convert(value: object, kind: Any, *, where: str) -> object:
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return from_plain(kind, value, where=where)
    if get_origin(kind) is Literal:
        fits = isinstance(value, str) and value in get_args(kind)
        expected = "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    elif get_origin(kind) is tuple:
        parts = get_args(kind)
        if isinstance(value, list) and len(value) == len(parts):
            pairs = zip(value, parts, strict=True)
            return tuple(_convert(item, part, where=where) for item, part in pairs)
        fits, expected = False, f"a list of {len(parts)} values"
    elif kind is float:
        fits, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    else:
        assert kind in (int, bool, str), f"{kind} is no kind of plain value"
        fits, expected = type(value) is kind, kind.__name__
    if not fits:
        raise ValueError(f"{where} is {value!r:.80}; give {expected}")
    return float(value) if kind is float and isinstance(value, int) else value
