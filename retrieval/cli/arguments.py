"""Arguments from a dataclass, and how results are printed."""

import dataclasses
import difflib
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

Arguments = TypeVar("Arguments")


def parse_arguments(kind: type[Arguments], command: str, arguments: Sequence[str]) -> Arguments:
    """`kind`, a dataclass, from the words behind `reelscan COMMAND`; exits with 2 on bad ones."""
    return tyro.cli(
        kind,
        prog=f"reelscan {command}",
        # Given as it stands: tyro's own reading of the docstring drops the examples.
        description=inspect.getdoc(kind),
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )


def parse_action(actions: Mapping[str, type[Any]], command: str, arguments: Sequence[str]) -> Any:
    """One of `actions`, dataclasses by the word that names them, which comes first.

    Prints help and exits with 0 if asked for it; exits with 2 on a missing or unknown word.
    """
    word = arguments[0] if arguments else "--help"
    if word in actions:
        return parse_arguments(actions[word], f"{command} {word}", arguments[1:])
    if word in ("-h", "--help"):
        lines = [f"usage: reelscan {command} ACTION [options]", "", "actions:"]
        for name, kind in actions.items():
            lines.append(f"  {name:<10}{(inspect.getdoc(kind) or '').splitlines()[0]}")
        lines += ["", f"`reelscan {command} ACTION --help` has examples and every option."]
        print("\n".join(lines))
        raise SystemExit(0 if arguments else 2)
    close = difflib.get_close_matches(word, actions, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose {', '.join(actions)}"
    print(f"reelscan {command}: no action {word!r}; {hint}", file=sys.stderr)
    raise SystemExit(2)


def as_json(value: object) -> str:
    """Dataclasses, paths and what json knows, indented."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no json form")
