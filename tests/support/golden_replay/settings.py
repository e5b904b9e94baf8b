"""The configuration of a case, which remembers what was read: what nobody reads, nobody honours."""

from collections.abc import Iterator, Mapping
from typing import Any


class Settings:
    """A stored json object. Every key has to be read, or to be left out by name and with a reason.

    Objects inside are `Settings` too, and count as read once all of their keys are.
    """

    def __init__(self, values: Mapping[str, Any], *, name: str = "") -> None:
        self._name = name
        self._unread = set(values)
        self._values = {
            key: Settings(value, name=f"{name}{key}.") if isinstance(value, Mapping) else value
            for key, value in values.items()
        }

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise AssertionError(f"the configuration has no {self._name}{key}")
        self._unread.discard(key)
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        """The value, or the default where the published system has one."""
        return self[key] if key in self._values else default

    def plain(self) -> dict[str, Any]:
        """The object as it was stored; all of it counts as read."""
        return {
            key: value.plain() if isinstance(value, Settings) else value
            for key, value in ((key, self[key]) for key in self)
        }

    def must_be(self, **allowed: object) -> None:
        """Keys that may be absent, but if given have only this one value here (or one of a set)."""
        for key, value in allowed.items():
            if key not in self._values:
                continue
            given = self[key]
            if isinstance(value, set | frozenset):
                assert given in value, f"{self._name}{key} is {given!r}, replayed are {value}"
            else:
                assert given == value, f"{self._name}{key} is {given!r}, replayed is {value!r}"

    def irrelevant(self, *, reason: str, keys: tuple[str, ...]) -> None:
        """Keys that change no value; the reason is for the reader."""
        assert reason
        for key in keys:
            self._unread.discard(key)
            if isinstance(self._values.get(key), Settings):
                self._values[key].plain()

    def whole_number(self, key: str, default: int) -> int:
        """A number that the published code truncates; only whole ones are replayed."""
        value = self.get(key, default)
        assert int(value) == value, f"{self._name}{key} is {value}; only whole numbers are replayed"
        return int(value)

    def unread(self) -> list[str]:
        """Full names of what was never read."""
        found = [self._name + key for key in sorted(self._unread)]
        for value in self._values.values():
            if isinstance(value, Settings):
                found += value.unread()
        return found
