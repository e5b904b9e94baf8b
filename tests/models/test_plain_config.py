"""Configurations survive json, and anything else in it is named."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from reelscan.models.plain_config import from_plain


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 2
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth is {self.depth}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    name: str
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    mean: tuple[float, float] = (0.0, 1.0)
    file: Path | None = None
    inners: tuple[Inner, ...] = ()
    losses: Mapping[str, float | None] = field(default_factory=dict)


OUTER = Outer(
    inner=Inner(depth=3),
    name="x",
    mode="b",
    flag=True,
    mean=(0.25, 0.5),
    file=Path("a/b"),
    inners=(Inner(depth=1), Inner(depth=7)),
    losses={"total": 1.5, "matching": None},
)


def plain(config: Outer = OUTER) -> dict:
    return json.loads(json.dumps(asdict(config), default=str))


def test_a_config_comes_back_equal():
    assert from_plain(Outer, plain(), where="config") == OUTER


def test_absent_fields_take_their_default():
    found = from_plain(Outer, {"inner": {}, "name": "x"}, where="config")
    assert found == Outer(inner=Inner(), name="x")


def test_whole_numbers_are_floats_where_floats_are_wanted():
    found = from_plain(Outer, plain() | {"mean": [0, 1]}, where="config")
    assert found == replace(OUTER, mean=(0.0, 1.0))
    assert all(type(value) is float for value in found.mean)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"colour": 1}, "config has unknown fields: colour; known are inner, name"),
        ({"inner": {"width": 1}}, "config.inner has unknown fields: width"),
        ({"inner": 3}, "config.inner is 3; give an object"),
        ({"inner": {"depth": 2.0}}, "config.inner.depth is 2.0; give int"),
        ({"inner": {"depth": True}}, "config.inner.depth is True; give int"),
        ({"inner": {"rate": "1"}}, "config.inner.rate is '1'; give a number"),
        ({"inner": {"depth": 0}}, "config.inner: depth is 0; give at least 1"),
        ({"name": None}, "config.name is None; give str"),
        ({"mode": "c"}, "config.mode is 'c'; give one of 'a', 'b'"),
        ({"mode": ["a"]}, "config.mode is .* give one of 'a', 'b'"),
        ({"mean": [1.0]}, "config.mean is .* give a list of 2 values"),
        ({"mean": "ab"}, "config.mean is 'ab'; give a list of 2 values"),
        ({"mean": [1.0, None]}, "config.mean is None; give a number"),
        ({"file": 3}, "config.file is 3; give a path"),
        ({"inners": 3}, "config.inners is 3; give a list"),
        ({"inners": [{"depth": 0}]}, "config.inners: depth is 0"),
        ({"losses": {"total": "1"}}, "config.losses is '1'; give a number"),
        ({"losses": [1.0]}, "config.losses is .* give an object"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        from_plain(Outer, plain() | change, where="config")


def test_missing_fields_are_named():
    with pytest.raises(ValueError, match="config lacks the fields inner, name"):
        from_plain(Outer, {}, where="config")
