"""The side-car `NAME.index.json`: what lies where in a set of shards, and whether it is whole.

It is written last, so a set with an index is complete. Format 1:

    {"format_version": 1, "name": "train", "inputs_sha256": ..., "rejected": 1, "shards": [
        {"file": "train-000000.tar", "bytes": 20480, "sha256": ..., "samples": [
            {"key": "000000000", "captions": 2,
             "members": {"json": [512, 87], "mp4": [1536, 9000]}}]}]}

A member is [first byte in the shard, number of bytes]. `"follows": true` marks a sample that stays
with the one before it (`Description.group`).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from reelscan.models.atomic_file import write_atomically
from reelscan.pretrain.media_kind import MEDIA_SUFFIXES
from reelscan.pretrain.shard_rows import IndexedSample, Member, SampleRows
from reelscan.pretrain.shard_sample import (
    DESCRIPTION_SUFFIX,
    RawSample,
    parse_description,
)

FORMAT_VERSION = 1
INDEX_ENDING = ".index.json"


@dataclass(frozen=True, kw_only=True)
class IndexedShard:
    """One tar file."""

    file: str
    """Name in the folder of the index."""
    byte_count: int
    sha256: str
    samples: Sequence[IndexedSample]
    """In the order in which they lie in the file."""


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """A complete set of shards."""

    name: str
    """Start of the names of its files."""
    inputs_sha256: str
    """Tells whether another run would have the same inputs and settings."""
    rejected: int
    """Number of videos left out, listed in `NAME.rejects.jsonl`."""
    shards: tuple[IndexedShard, ...]

    @property
    def sample_count(self) -> int:
        return sum(len(shard.samples) for shard in self.shards)

    @property
    def byte_count(self) -> int:
        return sum(shard.byte_count for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class ShardProblem:
    """Why a shard is not what the index says."""

    file: str
    problem: str


def verify_shards(index_path: str | os.PathLike[str]) -> list[ShardProblem]:
    """Compares size and SHA-256 of every shard with the index; reads all bytes. [] if all is well.

    Raises ValueError if the index itself cannot be read.
    """
    index_path = Path(index_path)
    problems = []
    for shard in read_index(index_path).shards:
        problem = _shard_problem(index_path.parent / shard.file, shard)
        if problem is not None:
            problems.append(ShardProblem(file=shard.file, problem=problem))
    return problems


def read_sample(index_path: str | os.PathLike[str], number: int) -> RawSample:
    """Sample `number` of the set, from 0, read straight from its place in its shard.

    Raises IndexError, or ValueError if the shard does not hold what the index says.
    """
    index_path = Path(index_path)
    index = read_index(index_path)
    if not 0 <= number < index.sample_count:
        raise IndexError(f"sample {number} of {index_path}: it has 0 to {index.sample_count - 1}")
    position = number
    for shard in index.shards:
        if position < len(shard.samples):
            return _read_at(index_path.parent / shard.file, shard.samples[position])
        position -= len(shard.samples)
    raise AssertionError("the number was checked above")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_index(index: ShardIndex, path: Path) -> None:
    """Writes the index atomically."""
    content = {
        "format_version": FORMAT_VERSION,
        "name": index.name,
        "inputs_sha256": index.inputs_sha256,
        "rejected": index.rejected,
        "shards": [_shard_values(shard) for shard in index.shards],
    }
    write_atomically(path, json.dumps(content).encode("utf-8"))


def read_index(path: str | os.PathLike[str]) -> ShardIndex:
    """Reads and checks an index. Raises ValueError that says what is wrong with it."""
    try:
        content = Path(path).read_bytes()
    except ValueError as error:
        raise ValueError(f"{path} is not an index of shards: {error}") from error
    return parse_index(content, name=str(path))


def parse_index(content: bytes, *, name: str) -> ShardIndex:
    """Checks an index that was read from anywhere. `name`: what errors call it."""
    try:
        # Shard by shard into arrays: as objects, millions of samples would not fit in memory.
        values = json.loads(content, object_hook=_compact)
        version = values["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"its format is {version!r}, but {FORMAT_VERSION} is known")
        return ShardIndex(
            name=_typed(values["name"], str),
            inputs_sha256=_typed(values["inputs_sha256"], str),
            rejected=_count(values["rejected"]),
            shards=tuple(_typed(shard, IndexedShard) for shard in _typed(values["shards"], list)),
        )
    except KeyError as error:
        raise ValueError(f"{name} is not an index of shards: {error} is missing") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is not an index of shards: {error}") from error


def _shard_problem(path: Path, shard: IndexedShard) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != shard.byte_count:
        return f"has {size} bytes, but should have {shard.byte_count}"
    if file_sha256(path) != shard.sha256:
        return "has the right size but other content (SHA-256)"
    return None


def _read_at(path: Path, sample: IndexedSample) -> RawSample:
    with path.open("rb") as file:
        try:
            return RawSample(
                key=sample.key,
                suffix=sample.suffix,
                media=_read_member(file, sample.media),
                description=parse_description(_read_member(file, sample.description)),
            )
        except ValueError as error:
            raise ValueError(
                f"{path} sample {sample.key}: {error}; see what `verify_shards` finds"
            ) from error


def _read_member(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    data = file.read(member.size)
    if len(data) != member.size:
        raise ValueError(f"{len(data)} of {member.size} bytes are there")
    return data


def check_members(places: Mapping[str, Member], where: str) -> None:
    media = [suffix for suffix in places if suffix in MEDIA_SUFFIXES]
    if len(places) != 2 or len(media) != 1 or DESCRIPTION_SUFFIX not in places:
        raise ValueError(f"{where} has the members {sorted(places)}, but must have json and media")


def _indexed_sample(
    key: str, captions: int, places: Mapping[str, Member], *, follows: bool
) -> IndexedSample:
    suffix = next(name for name in places if name != DESCRIPTION_SUFFIX)
    return IndexedSample(
        key=key,
        caption_count=captions,
        suffix=suffix,
        media=places[suffix],
        description=places[DESCRIPTION_SUFFIX],
        follows=follows,
    )


def _shard_values(shard: IndexedShard) -> dict[str, object]:
    samples = [
        {
            "key": sample.key,
            "captions": sample.caption_count,
            "members": {
                DESCRIPTION_SUFFIX: [sample.description.offset, sample.description.size],
                sample.suffix: [sample.media.offset, sample.media.size],
            },
            **({"follows": True} if sample.follows else {}),
        }
        for sample in shard.samples
    ]
    return {
        "file": shard.file,
        "bytes": shard.byte_count,
        "sha256": shard.sha256,
        "samples": samples,
    }


def _compact(values: dict[str, Any]) -> Any:
    """Called with each object of the file, inner ones first."""
    if "samples" in values:
        return _parse_shard(values)
    return _parse_sample(values) if "members" in values else values


def _parse_shard(values: Mapping[str, Any]) -> IndexedShard:
    file = _typed(values["file"], str)
    # An index comes from elsewhere as often as shards do: it may name files beside it only.
    if file in ("", ".", "..") or Path(file).name != file:
        raise ValueError(f"it names the file {file!r}, but may only name files beside it")
    byte_count = _count(values["bytes"])
    samples = [_typed(sample, IndexedSample) for sample in _typed(values["samples"], list)]
    for sample in samples:
        for member in (sample.media, sample.description):
            if member.offset + member.size > byte_count:
                raise ValueError(f"sample {sample.key} of {file} reaches beyond the shard's end")
    return IndexedShard(
        file=file,
        byte_count=byte_count,
        sha256=_typed(values["sha256"], str),
        samples=SampleRows(samples),
    )


def _parse_sample(values: Mapping[str, Any]) -> IndexedSample:
    places = {
        suffix: Member(offset=_count(offset), size=_count(size))
        for suffix, (offset, size) in _typed(values["members"], dict).items()
    }
    key = _typed(values["key"], str)
    check_members(places, f"sample {key}")
    return _indexed_sample(
        key, _count(values["captions"]), places, follows=bool(values.get("follows", False))
    )


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{str(value)[:40]!r} is not {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise ValueError(f"{str(value)[:40]!r} is not a number of bytes or things")
    return value
