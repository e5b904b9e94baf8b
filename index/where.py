"""The language of `--where`: conditions on what is known of segments and their videos.

    camera = 'north' and start >= 3600
    not (hour in (22, 23, 0) or indoor = true) and video like 'gate/%'
    note is not null and `odd name` != 3

A field is `video` (its name), `start`, `end` or `duration` (seconds), or a key of the metadata of
the segment or, where it has none, of its video; in backquotes always a key. Operators: = != < <= >
>= in, not in, like, not like (% any text, _ any character, ASCII letters in either case), is null,
is not null. Values: 'text' or "text" (a quote inside is doubled), numbers, true, false. A value of
another type is never equal, less or greater. A field that is missing makes every comparison false,
also != and `not in`; `not (...)` is true wherever what it holds is false.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Value = str | int | float | bool
Comparing = Literal["=", "<", "<=", ">", ">=", "in", "like", "null"]

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |(?P<key>`[^`"]+`)
    |(?P<word>[^\W\d][\w.-]*)
    |(?P<sign><=|>=|!=|<>|==|[=<>(),])
    |(?P<end>$)
    |(?P<odd>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_SAME = {"==": "=", "<>": "!="}
_COMPARISONS: dict[str, Comparing] = {"=": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_RESERVED = ("and", "or", "not", "in", "like", "is", "null", "true", "false")
_DEEPEST = 50
_MOST_COMPARISONS = 200


@dataclass(frozen=True, kw_only=True)
class Field:
    """What a comparison looks at."""

    name: str
    is_key: bool
    """It was in backquotes: a key of the metadata, whatever its name."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A field against values: one, several for `in`, none for `null`."""

    field: Field
    operator: Comparing
    values: tuple[Value, ...]
    negated: bool
    """`!=`, `not in`, `not like`, `is not null`."""


@dataclass(frozen=True, kw_only=True)
class Not:
    """The opposite."""

    part: "Condition"


@dataclass(frozen=True, kw_only=True)
class Several:
    """All or any of two or more."""

    word: Literal["and", "or"]
    parts: "tuple[Condition, ...]"


Condition = Comparison | Not | Several


def parse_where(text: str) -> Condition:
    """Read a condition; raises ValueError saying where it is wrong and what may stand there."""
    return _Parser(text).whole()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int

    @property
    def word(self) -> str | None:
        """A bare word in lower case, or a sign."""
        return self.text.lower() if self.kind in ("word", "sign") else None


def _tokens(text: str) -> Iterator[_Token]:
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup
        assert kind is not None, "one of the alternatives always fits"
        yield _Token(kind, found[kind], found.start(kind))


class _Parser:
    """Recursive descent: or, and, not, parentheses, comparison."""

    def __init__(self, text: str) -> None:
        self._source = text
        self._tokens = [
            _Token(
                found.lastgroup or "end",
                found[found.lastgroup or 0],
                found.start(found.lastgroup or 0),
            )
            for found in _TOKEN.finditer(text)
        ]
        self._next = 0
        self._depth = 0
        self._comparisons = 0

    def whole(self) -> Condition:
        condition = self._several("or")
        if self._token.kind != "end":
            raise self._wrong("and, or, or the end")
        return condition

    @property
    def _token(self) -> _Token:
        return self._tokens[min(self._next, len(self._tokens) - 1)]

    def _several(self, word: Literal["and", "or"]) -> Condition:
        parts = [self._several("and") if word == "or" else self._single()]
        while self._accept(word):
            parts.append(self._several("and") if word == "or" else self._single())
        return parts[0] if len(parts) == 1 else Several(word=word, parts=tuple(parts))

    def _single(self) -> Condition:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"--where nests deeper than {_DEEPEST}; write it flatter")
        try:
            if self._accept("not"):
                return Not(part=self._single())
            if self._accept("("):
                condition = self._several("or")
                self._expect(")")
                return condition
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Comparison:
        self._comparisons += 1
        if self._comparisons > _MOST_COMPARISONS:
            raise ValueError(
                f"--where has more than {_MOST_COMPARISONS} comparisons; use `in (...)`"
            )
        field = self._field()
        if self._accept("is"):
            negated = self._accept("not")
            self._expect("null")
            return Comparison(field=field, operator="null", values=(), negated=negated)
        sign = _SAME.get(self._token.text, self._token.text)
        if self._token.kind == "sign" and (sign in _COMPARISONS or sign == "!="):
            self._next += 1
            operator: Comparing = _COMPARISONS.get(sign, "=")
            return Comparison(
                field=field, operator=operator, values=(self._value(),), negated=sign == "!="
            )
        negated = self._accept("not")
        if self._accept("like"):
            return Comparison(
                field=field, operator="like", values=(self._pattern(),), negated=negated
            )
        if self._accept("in"):
            return Comparison(field=field, operator="in", values=self._list(), negated=negated)
        raise self._wrong("in or like" if negated else "one of = != < <= > >= in like is")

    def _field(self) -> Field:
        token = self._token
        if token.kind == "key":
            self._next += 1
            return Field(name=token.text[1:-1], is_key=True)
        if token.kind == "word" and token.word not in _RESERVED:
            self._next += 1
            return Field(name=token.text, is_key=False)
        raise self._wrong("the name of a field, as camera or start")

    def _value(self) -> Value:
        token = self._token
        if token.kind == "word" and token.word not in ("true", "false"):
            raise self._wrong(f"a value; text needs quotes: '{token.text}'")
        if token.kind not in ("number", "text", "word"):
            raise self._wrong("a value: 'text', a number, true or false")
        self._next += 1
        if token.kind == "text":
            quote = token.text[0]
            return token.text[1:-1].replace(2 * quote, quote)
        return token.word == "true" if token.kind == "word" else _number(token.text)

    def _pattern(self) -> str:
        if self._token.kind != "text":
            raise self._wrong("a pattern in quotes, as 'north/%'")
        return str(self._value())

    def _list(self) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._value()]
        while self._accept(","):
            values.append(self._value())
        self._expect(")")
        return tuple(values)

    def _accept(self, word: str) -> bool:
        if self._token.word != word:
            return False
        self._next += 1
        return True

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            raise self._wrong(word)

    def _wrong(self, expected: str) -> ValueError:
        token = self._token
        rest = self._source[token.place : token.place + 20].strip()
        found = f"{rest!r} (character {token.place + 1})" if rest else "its end"
        if token.kind == "odd" and token.text in "'\"`":
            expected = f"the quote {token.text} to be closed"
        return ValueError(f"--where {self._source!r}: at {found} expected {expected}")


def _number(text: str) -> int | float:
    try:
        number = int(text)
    except ValueError:
        return float(text)
    # What SQLite cannot hold as an integer it holds as a real number.
    return number if abs(number) < 2**63 else float(number)
