"""Looks through tar files for samples: ours, and those of others, which may hold anything.

Only headers and descriptions are read. Names of members are taken for keys alone, never for paths;
links are not followed; members of other kinds than ours are passed over unread.
"""

import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from reelscan.pretrain.media_kind import MEDIA_SUFFIXES
from reelscan.pretrain.shard_index import (
    INDEX_ENDING,
    IndexedShard,
    ShardIndex,
    file_sha256,
    write_index,
)
from reelscan.pretrain.shard_rows import IndexedSample, Member
from reelscan.pretrain.shard_sample import (
    DESCRIPTION_SUFFIX,
    MEMBER_SUFFIXES,
    Description,
    parse_description,
    sample_source,
)
from reelscan.pretrain.shard_tar import TAR_BLOCK_BYTES
from reelscan.pretrain.skip_log import Skipped

COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
# What tarfile raises for bad bytes. Errors of the disk are not among them.
DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError)

MAX_DESCRIPTION_BYTES = 1 << 24

OnSkip = Callable[[Skipped], None]


def index_shards(
    shards: Sequence[Path],
    *,
    name: str,
    on_skip: OnSkip,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes `NAME.index.json` beside tar files that have none, and returns its path.

    `on_skip` is given what is left out; `on_progress` the shards done and all. Raises ValueError if
    the files lie in different folders, or hold no sample.
    """
    folders = {path.resolve().parent for path in shards}
    if len(folders) != 1 or len(set(shards)) != len(shards):
        raise ValueError(
            f"{len(shards)} shards in {len(folders)} folders: an index describes at least one "
            "shard, each given once and all in one folder; make one index for each folder"
        )
    path = folders.pop() / f"{name}{INDEX_ENDING}"
    if path.exists():
        raise ValueError(f"{path} is there already: choose another name")
    skipped, found = 0, []

    def note(skip: Skipped) -> None:
        nonlocal skipped
        skipped += 1
        on_skip(skip)

    for done, shard in enumerate(shards):
        if on_progress is not None:
            on_progress(done, len(shards))
        found.append(scan_shard(shard, on_skip=note))
    index = ShardIndex(name=name, inputs_sha256="", rejected=skipped, shards=tuple(found))
    if index.sample_count == 0:
        raise ValueError(f"not one sample with a video or image and a json in {shards[0]}, ...")
    write_index(index, path)
    return path


def describe_shard(path: Path) -> IndexedShard:
    """A shard of ours. Raises ValueError for the first thing that is not as it should be."""

    def refuse(skipped: Skipped) -> None:
        raise ValueError(f"{path.parent / skipped.source}: {skipped.detail}")

    return scan_shard(path, on_skip=refuse)


def scan_shard(path: Path, *, on_skip: OnSkip) -> IndexedShard:
    """The complete samples of a tar file; what is left out goes to `on_skip`.

    A damaged shard gives what comes before the damage, as far as that can be told.
    """
    samples: list[IndexedSample] = []
    group: str | None = None
    with path.open("rb") as file:
        for key, places in _grouped(_members(file, path, on_skip)):
            checked = _checked(file, key, places, shard=path.name, on_skip=on_skip)
            if checked is None:
                continue
            description, suffix = checked
            follows = bool(samples) and group is not None and description.group == group
            group = description.group
            samples.append(
                IndexedSample(
                    key=key,
                    caption_count=len(description.captions),
                    suffix=suffix,
                    media=places[suffix],
                    description=places[DESCRIPTION_SUFFIX],
                    follows=follows,
                )
            )
    return IndexedShard(
        file=path.name,
        byte_count=path.stat().st_size,
        sha256=file_sha256(path),
        samples=tuple(samples),
    )


def _members(file: BinaryIO, path: Path, on_skip: OnSkip) -> Iterator[tuple[str, str, Member]]:
    """Key, suffix and place of each of our kinds of members."""

    def damaged(detail: str) -> None:
        on_skip(Skipped(reason="shard", source=path.name, detail=detail))

    if file.read(8).startswith(COMPRESSED_STARTS):
        damaged("is compressed: unpack it to plain tar")
        return
    file.seek(0)
    size = path.stat().st_size
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                folder, slash, base = entry.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not entry.isreg() or entry.issparse() or suffix.lower() not in MEMBER_SUFFIXES:
                    continue
                if entry.offset_data + entry.size > size:
                    damaged(f"ends within {entry.name!r}")
                    return
                place = Member(offset=entry.offset_data, size=entry.size)
                yield f"{folder}{slash}{stem}", suffix.lower(), place
            # tarfile takes some damage for the end of the archive.
            file.seek(tar.offset)
            if file.read(TAR_BLOCK_BYTES) != bytes(TAR_BLOCK_BYTES):
                damaged("has no end mark: it is cut or damaged")
    except DAMAGE as error:
        damaged(f"is not a readable tar file: {error}")


def _grouped(
    members: Iterator[tuple[str, str, Member]],
) -> Iterator[tuple[str, dict[str, Member]]]:
    """Neighbours of one key; a second member of one kind begins another sample."""
    key, places = None, dict[str, Member]()
    for next_key, suffix, place in members:
        if key is not None and (next_key != key or suffix in places):
            yield key, places
            places = {}
        key = next_key
        places[suffix] = place
    if key is not None:
        yield key, places


def _checked(
    file: BinaryIO, key: str, places: dict[str, Member], *, shard: str, on_skip: OnSkip
) -> tuple[Description, str] | None:
    """Description and kind of media of a sample that is complete."""
    media = [suffix for suffix in places if suffix in MEDIA_SUFFIXES]
    if len(media) != 1 or DESCRIPTION_SUFFIX not in places:
        detail = f"has {' and '.join(places)}, but needs json and one video or image"
        on_skip(Skipped(reason="members", source=sample_source(shard, key, "*"), detail=detail))
        return None
    place = places[DESCRIPTION_SUFFIX]
    resume_at = file.tell()
    try:
        if place.size > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"has {place.size} bytes, above {MAX_DESCRIPTION_BYTES}")
        file.seek(place.offset)
        return parse_description(file.read(place.size)), media[0]
    except ValueError as error:
        source = sample_source(shard, key, DESCRIPTION_SUFFIX)
        on_skip(Skipped(reason="json", source=source, detail=str(error)))
        return None
    finally:
        file.seek(resume_at)
