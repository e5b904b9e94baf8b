"""Names that pickles mention, and those that have no place beside weights.

`inert_pickle` runs nothing, whatever a name says; what is refused here is refused to tell a person
that the file is up to something.
"""

import sys
from dataclasses import dataclass
from typing import Any


class InertPickleError(ValueError):
    """The pickle is damaged, too large, or does what a weight file has no reason to do."""


@dataclass(frozen=True)
class Name:
    """What a pickle calls module.name; not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return printable(f"{self.module}.{self.name}")


def printable(text: str, *, limit: int = 120) -> str:
    """Text from a file, cut, and without what a terminal would obey."""
    short = text[:limit]
    return short if short.isprintable() else short.encode("unicode_escape").decode()


def checked_name(module: Any, name: Any) -> Name:
    """A name, unless it is one that acts. Raises InertPickleError."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise InertPickleError("it is damaged (a name that is no text)")
    found = Name(module, name)
    if _acts(module.partition(".")[0], name):
        raise InertPickleError(f"it holds a call of {found}, which has no place in a weight file")
    return found


# What settings and training states are made of: plain values of the standard library.
_PLAIN_MODULES = frozenset(
    ("collections", "argparse", "pathlib", "datetime", "decimal", "fractions", "uuid", "enum",
     "copyreg", "copy_reg", "_codecs", "random", "re", "__main__", "logging", "typing")
)  # fmt: skip
_PLAIN_NAMES = frozenset(
    (Name("functools", "partial"), Name("types", "SimpleNamespace"), Name("io", "BytesIO"))
)
_BUILTINS = frozenset(
    ("object", "set", "frozenset", "list", "dict", "tuple", "str", "bytes", "bytearray", "int",
     "float", "complex", "bool", "slice", "range", "getattr")
)  # fmt: skip
_NUMBER_TYPES = frozenset(
    ("bool", "bool_", "int", "short", "long", "longlong", "intc", "half", "float", "double",
     "bfloat16", "complex64", "complex128", *(f"float{bits}" for bits in (16, 32, 64)),
     *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
)  # fmt: skip
_ARRAY_FUNCTIONS = frozenset(
    ("scalar", "_reconstruct", "_frombuffer", "dtype", "ndarray", "__randomstate_ctor",
     "__bit_generator_ctor", "__generator_ctor")
)  # fmt: skip
_LOADERS = frozenset(("dill", "cloudpickle", "joblib", "pip", "setuptools", "cPickle", "popen2"))


def _acts(package: str, name: str) -> bool:
    """Whether this is more than a class or a value: a function of Python, torch or numpy."""
    first, _, rest = name.partition(".")
    is_class = first[:1].isupper() and (not rest or rest[:1].isupper())
    if package in ("builtins", "__builtin__"):
        return name not in _BUILTINS
    if package in ("torch", "torchvision"):
        is_rebuild = first.startswith(("_rebuild_", "float8_")) and not rest
        return not (is_class or is_rebuild or name in _NUMBER_TYPES or name in ("device", "dtype"))
    if package == "numpy":
        return not (is_class or name in _ARRAY_FUNCTIONS or name in _NUMBER_TYPES)
    if package in sys.stdlib_module_names and package not in _PLAIN_MODULES:
        return Name(package, name) not in _PLAIN_NAMES
    # Through a dot a class leads to what it is made of: Namespace.__init__.__globals__.
    return package in _LOADERS or ("." in name and not is_class) or "__" in name
