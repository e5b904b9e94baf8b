"""`reelscan index ACTION COLLECTION`: looks after a collection that is there."""

import fnmatch
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from reelscan.index.collection import Collection
from reelscan.index.collection_check import CheckReport
from reelscan.index.collection_stats import CollectionStats
from reelscan.index.derived_file import IndexStamp
from reelscan.index.index_settings import IndexSettings
from reelscan.index.segments import MetadataValue
from reelscan.retrieval.cli.arguments import as_json
from reelscan.retrieval.cli.progress import StageProgress, notice

CollectionPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="COLLECTION")]
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, kw_only=True)
class Check:
    """Reads a whole collection and compares: database, every vector, index file.

    Exit code 1 if anything is wrong. Changes nothing.

    Examples:
      reelscan index check films.collection
    """

    collection: CollectionPath
    """Folder made by `reelscan index`."""
    json: bool = False
    """Print json."""


@dataclass(frozen=True, kw_only=True)
class Compact:
    """Brings the index file up to date, and gives the space of what was deleted back to the disk.

    Searches go on meanwhile. `reelscan index` does this by itself; after many deletions it is
    worth doing by hand.

    Examples:
      reelscan index compact films.collection
    """

    collection: CollectionPath
    """Folder made by `reelscan index`."""
    memory: str | None = None
    """What the index may take, as 4GiB or 500MiB; None: as before (4GiB at first)."""


@dataclass(frozen=True, kw_only=True)
class Rebuild:
    """Makes the index file anew from the stored vectors, learning its lists and codes again.

    Examples:
      reelscan index rebuild films.collection
      reelscan index rebuild films.collection --memory 1GiB
    """

    collection: CollectionPath
    """Folder made by `reelscan index`."""
    memory: str | None = None
    """What the index may take, as 4GiB or 500MiB; None: as before (4GiB at first)."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Tells what a collection holds and takes.

    Examples:
      reelscan index stats films.collection --json
    """

    collection: CollectionPath
    """Folder made by `reelscan index`."""
    json: bool = False
    """Print json."""


@dataclass(frozen=True, kw_only=True)
class Set:
    """Records something about videos, for `reelscan search --where`.

    Numbers, true and false are kept as such, everything else as text; KEY= removes a key.

    Examples:
      reelscan index set films.collection "north/*" camera=north height=2.5 indoor=false
      reelscan index set films.collection "*" camera=
    """

    collection: CollectionPath
    """Folder made by `reelscan index`."""
    videos: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="VIDEOS")]
    """A video's name in the collection, or a pattern with * and ?."""
    values: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")]
    """What to record."""


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Removes videos from a collection; their files stay where they are.

    Examples:
      reelscan index forget films.collection "holiday/*"
    """

    collection: CollectionPath
    """Folder made by `reelscan index`."""
    videos: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="VIDEOS")]
    """A video's name in the collection, or a pattern with * and ?."""


ACTIONS: dict[str, type[Any]] = {
    "check": Check,
    "compact": Compact,
    "rebuild": Rebuild,
    "stats": Stats,
    "set": Set,
    "forget": Forget,
}


def run_action(command: Any) -> int:
    """Does one of `ACTIONS` and prints what was done; 1 if a check found something wrong."""
    match command:
        case Check():
            with Collection.open(command.collection, read_only=True) as collection:
                report = collection.check()
            text = check_text(report, command.collection)
            print(as_json(report) if command.json else text)
            return 0 if report.whole else 1
        case Stats():
            with Collection.open(command.collection, read_only=True) as collection:
                stats = collection.stats()
            print(as_json(stats) if command.json else stats_text(stats, command.collection))
        case Compact() | Rebuild():
            print(f"{command.collection}: {made_text(make_again(command))}")
        case Set():
            print(edit(command))
        case Forget():
            with Collection.open(command.collection, on_notice=notice) as collection:
                videos = matching_videos(collection, command.videos)
                collection.forget_videos(videos)
            print(f"{command.collection}: {len(videos)} videos forgotten")
    return 0


def make_again(command: Compact | Rebuild) -> IndexStamp:
    """Compacts or rebuilds, showing how far it is."""
    settings = None
    if command.memory is not None:
        settings = IndexSettings(memory_bytes=bytes_of(command.memory))
    with (
        Collection.open(command.collection, settings=settings, on_notice=notice) as collection,
        StageProgress("index", unit="steps") as bar,
    ):
        return collection.compact(anew=isinstance(command, Rebuild), on_progress=shown_on(bar))


def shown_on(bar: StageProgress) -> Callable[[str, int, int], None]:
    def show(what: str, done: int, total: int) -> None:
        bar.update(done, total, note=what)

    return show


def edit(command: Set) -> str:
    changes = dict(parse_value(one) for one in command.values)
    if not changes:
        raise ValueError("nothing to record: give KEY=VALUE, as camera=north")
    with Collection.open(command.collection, on_notice=notice) as collection:
        videos = matching_videos(collection, command.videos)
        collection.edit_metadata(videos, changes)
    return f"{command.collection}: {', '.join(changes)} of {len(videos)} videos recorded"


def parse_value(text: str) -> tuple[str, MetadataValue | None]:
    """`camera=north` -> ("camera", "north"); nothing behind the = is None."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ValueError(f"{text!r} is no KEY=VALUE; give for example camera=north")
    if not value:
        return key, None
    try:
        parsed = json.loads(value)
    except ValueError:
        return key, value
    return key, parsed if isinstance(parsed, MetadataValue) else value


def matching_videos(collection: Collection, pattern: str) -> list[str]:
    """Stored and set-aside videos with this name, or else that the pattern fits."""
    names = [*collection.videos(), *collection.quarantined()]
    found = [pattern] if pattern in names else fnmatch.filter(names, pattern)
    if not found:
        raise ValueError(
            f"no video of {collection.path} is named {pattern!r} (names are relative to "
            f"{collection.manifest.videos_root}; * and ? stand for any)"
        )
    return found


def bytes_of(text: str) -> int:
    """`4GiB`, `500M`, `2147483648` -> bytes."""
    fits = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if fits is None:
        raise ValueError(f"{text!r} is no size; give for example 4GiB or 500MiB")
    return int(float(fits[1]) * _UNITS[fits[2]])


def check_text(report: CheckReport, collection: Path) -> str:
    verdict = "whole" if report.whole else "NOT whole"
    lines = [f"{collection}: {verdict}, {report.videos} videos, {report.segments} segments"]
    lines += [f"damaged: {one}" for one in report.damage]
    lines += [
        f"to be made again: {one} (`reelscan index rebuild {collection}`)"
        for one in report.rebuildable
    ]
    lines += [f"note: {one}" for one in report.notes]
    return "\n".join(lines)


def made_text(stamp: IndexStamp) -> str:
    return (
        f"{stamp.kind} index of {stamp.vectors} segments, "
        f"{stamp.size_bytes / 2**20:.1f} MiB{reach_text(stamp)}"
    )


def reach_text(stamp: IndexStamp) -> str:
    if not stamp.lists:
        return ", every vector compared"
    return (
        f", {stamp.lists_looked_into} of {stamp.lists} lists looked into, recall@10 "
        f"{stamp.recall_at_10:.3f}, recall@128 {stamp.recall_at_128:.3f} when learnt"
    )


def stats_text(stats: CollectionStats, collection: Path) -> str:
    rows = [
        ("collection", str(collection)),
        ("videos", f"{stats.videos}, {stats.quarantined} set aside"),
        ("segments", f"{stats.segments}, {stats.seconds / 3600:.1f} hours"),
        ("vectors", f"{stats.embed_dim} wide, {stats.vector_type}"),
        ("database", f"{stats.database_bytes / 2**20:.1f} MiB, {stats.free_share:.0%} unused"),
        ("index", "none yet" if stats.index is None else made_text(stats.index)),
        ("not in it", f"{stats.newer_segments} newer, {stats.deleted_segments} deleted"),
        ("metadata", ", ".join(f"{key} ({n})" for key, n in stats.metadata.items()) or "none"),
        ("folder", stats.videos_root),
        ("model", f"{stats.model_path or 'not recorded'}, fingerprint {stats.fingerprint}"),
    ]
    return "\n".join(f"{name:<12}{value}" for name, value in rows)
