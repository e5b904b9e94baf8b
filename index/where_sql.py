"""Conditions as SQL with every name and value bound, and the segments that pass.

Metadata of videos is looked up once for each video, not for each segment.
"""

import difflib
import json
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelscan.index.database import Database
from reelscan.index.faiss_selection import Allowed
from reelscan.index.where import Comparison, Condition, Field, Not, Value, parse_where

_COLUMNS = {
    "start": "segments.start_seconds",
    "end": "segments.end_seconds",
    "duration": "(segments.end_seconds - segments.start_seconds)",
}
_VIDEO = "video"
_KEPT = 8
_FIELDS_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class Sql:
    """An expression that is 1 or 0 for a row of `segments`, and the values of its marks."""

    text: str
    values: tuple[object, ...]


class Filters:
    """Which segments pass a condition; remembers the latest answers of this state."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers: OrderedDict[tuple[str, int], Allowed] = OrderedDict()

    def passing(self, where: str) -> Allowed:
        """The segments that pass.

        Raises:
            ValueError: the condition cannot be read, or no segment has a field it names.
        """
        with self._database.snapshot():
            generation = int(self._database.rows("SELECT generation FROM state")[0][0])
            known = self._answers.get((where, generation))
            if known is None:
                known = Allowed(self._ask(parse_where(where)))
                self._answers[where, generation] = known
                while len(self._answers) > _KEPT:
                    self._answers.popitem(last=False)
            return known

    def existing(self, segment_ids: NDArray[np.int64]) -> Allowed:
        """Those of these ids that are there."""
        rows = self._database.rows(
            "SELECT id FROM segments WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id",
            (json.dumps(segment_ids.tolist()),),
        )
        return Allowed(np.fromiter((row[0] for row in rows), np.int64, count=len(rows)))

    def _ask(self, condition: Condition) -> NDArray[np.int64]:
        for field in _fields_of(condition):
            self._check_known(field)
        of_segments = "SELECT EXISTS (SELECT 1 FROM segments WHERE metadata IS NOT NULL)"
        sql = to_sql(condition, segment_metadata=bool(self._database.rows(of_segments)[0][0]))
        rows = self._database.rows(
            f"SELECT id FROM segments WHERE {sql.text} ORDER BY id", sql.values
        )
        return np.fromiter((row[0] for row in rows), np.int64, count=len(rows))

    def _check_known(self, field: Field) -> None:
        if not _is_key(field):
            return
        for table in ("videos", "segments"):
            found = self._database.rows(
                f"SELECT 1 FROM {table} WHERE metadata IS NOT NULL"
                " AND json_type(metadata, ?) IS NOT NULL LIMIT 1",
                (_path(field),),
            )
            if found:
                return
        known = [*_COLUMNS, _VIDEO, *self._keys()]
        folded = {name.casefold(): name for name in known}
        close = difflib.get_close_matches(field.name.casefold(), folded, n=1)
        hint = f"did you mean {folded[close[0]]}?" if close else f"known are {', '.join(known)}"
        raise ValueError(f"--where names {field.name!r}, which no segment and no video has; {hint}")

    def _keys(self) -> list[str]:
        rows = self._database.rows(
            "SELECT DISTINCT key FROM (SELECT metadata FROM videos WHERE metadata IS NOT NULL"
            " UNION ALL SELECT * FROM (SELECT metadata FROM segments WHERE metadata IS NOT NULL"
            f" LIMIT 1000)) AS known, json_each(known.metadata) LIMIT {_FIELDS_NAMED}"
        )
        return [str(row[0]) for row in rows]


def to_sql(condition: Condition, *, segment_metadata: bool) -> Sql:
    """An expression over `segments`; `segment_metadata` is whether any segment has some of its own.

    Raises:
        ValueError: a value of the wrong type for a field.
    """
    if isinstance(condition, Comparison):
        return _comparison(condition, segment_metadata)
    if isinstance(condition, Not):
        part = to_sql(condition.part, segment_metadata=segment_metadata)
        return Sql(text=f"(NOT {part.text})", values=part.values)
    parts = [to_sql(one, segment_metadata=segment_metadata) for one in condition.parts]
    text = f" {condition.word.upper()} ".join(part.text for part in parts)
    return Sql(text=f"({text})", values=tuple(value for part in parts for value in part.values))


def _comparison(comparison: Comparison, segment_metadata: bool) -> Sql:
    field = comparison.field
    if not _is_key(field):
        _check_values(comparison)
        if comparison.operator == "null":
            return Sql(text="1" if comparison.negated else "0", values=())
        column = _COLUMNS.get(field.name, "videos.path")
        test, values = _tested(column, comparison)
        text = f"{'NOT ' if comparison.negated else ''}{test}"
        if field.name == _VIDEO:
            text = f"segments.video IN (SELECT id FROM videos WHERE {text})"
        return Sql(text=f"({text})", values=values)
    of_video, video_values = _key_test("videos.metadata", comparison)
    of_video = f"segments.video IN (SELECT id FROM videos WHERE {of_video})"
    if comparison.operator == "null" and not comparison.negated:
        # Missing is what the other is not, so both places have to be looked at.
        present = Comparison(field=field, operator="null", values=(), negated=True)
        sql = _comparison(present, segment_metadata)
        return Sql(text=f"(NOT {sql.text})", values=sql.values)
    if not segment_metadata:
        return Sql(text=f"({of_video})", values=video_values)
    own, own_values = _key_test("segments.metadata", comparison)
    return Sql(
        text=f"(CASE WHEN segments.metadata IS NOT NULL"
        f" AND json_type(segments.metadata, ?) IS NOT NULL THEN {own} ELSE {of_video} END)",
        values=(_path(field), *own_values, *video_values),
    )


def _key_test(metadata: str, comparison: Comparison) -> tuple[str, tuple[object, ...]]:
    """1 where the key is there and compares so, else 0."""
    path = _path(comparison.field)
    present = f"json_type({metadata}, ?) IS NOT NULL"
    if comparison.operator == "null":
        return f"({present})", (path,)
    tests: list[str] = []
    values: list[object] = []
    for kind, some in _by_type(comparison.values):
        if kind == "bool":
            if comparison.operator not in ("=", "in"):
                raise ValueError(
                    f"--where compares {comparison.field.name!r} with true or false by "
                    f"{comparison.operator}; use = or !="
                )
            names = ", ".join("'true'" if one else "'false'" for one in some)
            tests.append(f"json_type({metadata}, ?) IN ({names})")
            values.append(path)
            continue
        types = "'integer', 'real'" if kind == "number" else "'text'"
        one_kind = Comparison(
            field=comparison.field, operator=comparison.operator, values=some, negated=False
        )
        test, tested = _tested(f"json_extract({metadata}, ?)", one_kind)
        tests.append(f"(json_type({metadata}, ?) IN ({types}) AND {test})")
        values += [path, path, *tested]
    text = f"({' OR '.join(tests)})"
    if comparison.negated:
        return f"({present} AND NOT ifnull({text}, 0))", (path, *values)
    return f"ifnull({text}, 0)", tuple(values)


def _tested(expression: str, comparison: Comparison) -> tuple[str, tuple[object, ...]]:
    """A test of an expression against values of one type."""
    if comparison.operator == "in":
        listed = json.dumps(comparison.values)
        return f"({expression} IN (SELECT value FROM json_each(?)))", (listed,)
    return f"({expression} {comparison.operator.upper()} ?)", comparison.values


def _by_type(values: tuple[Value, ...]) -> list[tuple[str, tuple[Value, ...]]]:
    kinds: dict[str, list[Value]] = {}
    for value in values:
        kind = "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        kinds.setdefault(kind, []).append(value)
    return [(kind, tuple(some)) for kind, some in kinds.items()]


def _check_values(comparison: Comparison) -> None:
    """Names and times have one type each, so another one is a mistake."""
    wanted = "text" if comparison.field.name == _VIDEO else "number"
    kinds = {kind for kind, _ in _by_type(comparison.values)}
    if comparison.operator == "like" and wanted == "number":
        raise ValueError(
            f"--where: {comparison.field.name} is a number of seconds; like needs text"
        )
    if kinds - {wanted}:
        what = "a name, compare it with 'text'" if wanted == "text" else "a number of seconds"
        raise ValueError(f"--where: {comparison.field.name} is {what}, not {comparison.values!r}")


def _is_key(field: Field) -> bool:
    return field.is_key or (field.name not in _COLUMNS and field.name != _VIDEO)


def _path(field: Field) -> str:
    return f'$."{field.name}"'


def _fields_of(condition: Condition) -> list[Field]:
    if isinstance(condition, Comparison):
        return [condition.field]
    if isinstance(condition, Not):
        return _fields_of(condition.part)
    return [field for part in condition.parts for field in _fields_of(part)]
