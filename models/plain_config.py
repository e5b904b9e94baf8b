"""Configuration dataclasses from plain json values, every value checked.

The way there is `dataclasses.asdict`.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def from_plain(kind: type[Config], values: object, *, where: str) -> Config:
    """Build a dataclass of numbers, strings, paths, choices, tuples, mappings from strings, such
    or None, and further dataclasses.

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
    if get_origin(kind) in (Union, UnionType):
        return _convert_choice(value, get_args(kind), where=where)
    if get_origin(kind) is tuple:
        return _convert_tuple(value, get_args(kind), where=where)
    if get_origin(kind) is Mapping:
        part = get_args(kind)[1]
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is {value!r:.80}; give an object with named values")
        return {str(key): _convert(item, part, where=where) for key, item in value.items()}
    if get_origin(kind) is Literal:
        fits = isinstance(value, str) and value in get_args(kind)
        expected = "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    elif kind is Path:
        fits, expected = isinstance(value, str), "a path"
    elif kind is float:
        fits, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    else:
        assert kind in (int, bool, str), f"{kind} is no kind of plain value"
        fits, expected = type(value) is kind, kind.__name__
    if not fits:
        raise ValueError(f"{where} is {value!r:.80}; give {expected}")
    return kind(value) if kind in (float, Path) else value


def _convert_choice(value: object, kinds: tuple[Any, ...], *, where: str) -> object:
    """The first kind that fits."""
    if value is None and NoneType in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not NoneType:
            try:
                return _convert(value, kind, where=where)
            except ValueError as error:
                errors.append(str(error))
    raise ValueError(errors[0])


def _convert_tuple(value: object, parts: tuple[Any, ...], *, where: str) -> object:
    if isinstance(value, list):
        if len(parts) == 2 and parts[1] is Ellipsis:
            parts = parts[:1] * len(value)
        if len(value) == len(parts):
            pairs = zip(value, parts, strict=True)
            return tuple(_convert(item, part, where=where) for item, part in pairs)
    expected = "a list" if parts[-1] is Ellipsis else f"a list of {len(parts)} values"
    raise ValueError(f"{where} is {value!r:.80}; give {expected}")
