"""Arguments from a dataclass, and how results are printed."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro


def parse_arguments(kind: Any, command: str, arguments: Sequence[str]) -> Any:
    """An instance of `kind` from the words behind `reelscan COMMAND`; exits with 2 on bad ones.

    `kind` is a dataclass, or a union of dataclasses: one for each word that may come first.
    """
    return tyro.cli(
        kind,
        prog=f"reelscan {command}",
        args=list(arguments),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )


def as_json(value: object) -> str:
    """Dataclasses, paths and what json knows, indented."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no json form")
