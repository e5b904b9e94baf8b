"""Conditions of `where.py` as Milvus's filter expressions, every value quoted.

Differences there: `like` tells upper from lower case, and true equals 1.
"""

import json

from reelscan.index.where import Comparison, Condition, Field, Not, Value, parse_where

_COLUMNS = {
    "video": "video",
    "start": "start_seconds",
    "end": "end_seconds",
    "duration": "duration_seconds",
}


def milvus_filter(where: str) -> str:
    """The expression for a condition; raises ValueError if it cannot be read."""
    return _expression(parse_where(where))


def quoted(value: Value) -> str:
    """A value as Milvus reads it."""
    return json.dumps(value, ensure_ascii=False)


def _expression(condition: Condition) -> str:
    if isinstance(condition, Not):
        return f"not ({_expression(condition.part)})"
    if isinstance(condition, Comparison):
        return _comparison(condition)
    return f" {condition.word} ".join(f"({_expression(part)})" for part in condition.parts)


def _comparison(one: Comparison) -> str:
    place, is_key = _place(one.field)
    if one.operator == "null":
        is_there = f"exists {place}" if is_key else "id >= 0"
        return is_there if one.negated else f"not ({is_there})"
    if one.operator == "like":
        test = f"{place} like {quoted(one.values[0])}"
    elif one.operator == "in":
        test = " or ".join(f"({place} == {quoted(value)})" for value in one.values)
    else:
        operator = "==" if one.operator == "=" else one.operator
        test = f"{place} {operator} {quoted(one.values[0])}"
    if one.negated:
        test = f"not ({test})"
    # A key that is missing makes every comparison false, the negated ones too.
    return f"(exists {place}) and ({test})" if is_key else test


def _place(field: Field) -> tuple[str, bool]:
    """What Milvus calls it, and whether it is a key of the metadata."""
    column = None if field.is_key else _COLUMNS.get(field.name)
    return (f"metadata[{quoted(field.name)}]", True) if column is None else (column, False)
