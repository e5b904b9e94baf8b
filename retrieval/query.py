"""What is looked for: sentences, pictures and videos, with weights, some of them unwanted."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from reelscan.index.video_files import VIDEO_EXTENSIONS

IMAGE_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

AnyQuery = Union[str, Path, "Part", "Query"]
"""A sentence, an example picture or video, one of these with a weight, or several."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One thing that moments should be like, or unlike: a sentence or a file."""

    text: str | None = None
    """A sentence."""
    file: Path | None = None
    """A picture or a video."""
    start_seconds: float | None = None
    """Where the example begins in its video; None: at the start."""
    end_seconds: float | None = None
    """Where it ends; None: with the video."""
    weight: float = 1.0
    """How much this part counts beside the others; below 0 means unlike it."""

    def __post_init__(self) -> None:
        if (self.text is None) == (self.file is None):
            raise ValueError(
                "a part of a query is either a sentence (text) or a picture or video (file); "
                "give one of them"
            )
        if self.text is not None and not self.text.strip():
            raise ValueError("the query is empty: describe what to look for in a sentence")
        if not math.isfinite(self.weight) or self.weight == 0:
            raise ValueError(f"the weight of {self} is {self.weight}; give a number other than 0")
        begin, end = self.start_seconds or 0.0, self.end_seconds or math.inf
        if not 0 <= begin < end:
            raise ValueError(
                f"start_seconds is {self.start_seconds}, end_seconds {self.end_seconds} of "
                f"{self}; give 0 <= start < end"
            )
        if self.file is None and (self.start_seconds, self.end_seconds) != (None, None):
            raise ValueError(f"{self} is a sentence, which has no start_seconds or end_seconds")

    @property
    def is_wanted(self) -> bool:
        """Whether moments should be like it."""
        return self.weight > 0

    def __str__(self) -> str:
        return repr(self.text) if self.text is not None else str(self.file)


@dataclass(frozen=True, kw_only=True)
class Query:
    """Everything that one search looks for at once."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not any(part.is_wanted for part in self.parts):
            raise ValueError(
                "the query says only what is not wanted: also say what moments should be like"
            )

    @property
    def sentences(self) -> tuple[Part, ...]:
        """The parts that are sentences."""
        return tuple(part for part in self.parts if part.text is not None)


def as_query(query: AnyQuery) -> Query:
    """A query of one part, if it is not a `Query` already."""
    if isinstance(query, Query):
        return query
    if isinstance(query, str):
        query = Part(text=query)
    elif isinstance(query, Path):
        query = Part(file=query)
    return Query(parts=(query,))


_WEIGHT = re.compile(r"^(?P<rest>.+)\^(?P<weight>[^\^]*)$", re.DOTALL)
_RANGE = re.compile(r"^(?P<rest>.+)#t=(?P<start>[^,#]*)(?:,(?P<end>[^,#]*))?$", re.DOTALL)


def parse_part(words: str, *, wanted: bool = True) -> Part:
    """A part as a person types it.

    `a dog`, `photo.jpg`, `film.mp4`, `film.mp4#t=12,20` (seconds, as in web addresses), each with
    `^2` behind it to count twice. What exists, or ends as pictures and videos do, is a file.
    Raises FileNotFoundError for a file that is not there, ValueError for odd numbers.
    """
    weight, start, end = 1.0, None, None
    rest = words
    if (found := _WEIGHT.match(rest)) is not None:
        rest = found["rest"]
        weight = _number(found["weight"], words, "weight behind ^")
        if weight <= 0:
            raise ValueError(
                f"{words!r} has the weight {weight:g}; give one above 0 (what is not wanted goes "
                "behind --not)"
            )
    if (found := _RANGE.match(rest)) is not None and _is_file(found["rest"]):
        rest = found["rest"]
        start = _number(found["start"] or "0", words, "start behind #t=")
        end = _number(found["end"], words, "end behind #t=") if found["end"] else None
    weight = weight if wanted else -weight
    if not _is_file(rest):
        return Part(text=rest, weight=weight)
    file = Path(rest)
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no file {rest}: give the path of an example picture or video, or a sentence"
        )
    return Part(file=file, start_seconds=start, end_seconds=end, weight=weight)


def _is_file(words: str) -> bool:
    if not words.strip() or "\0" in words or len(words) > 4096:
        return False
    path = Path(words)
    # A sentence that ends in a file's name is a sentence.
    looks_like = path.suffix.lower() in (*VIDEO_EXTENSIONS, *IMAGE_EXTENSIONS)
    try:
        return path.is_file() or (looks_like and len(words.split()) == 1)
    except OSError:
        return False


def _number(digits: str, words: str, meaning: str) -> float:
    try:
        return float(digits)
    except ValueError:
        raise ValueError(f"{words!r} has {digits!r} as {meaning}; give a number") from None
