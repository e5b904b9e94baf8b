"""The FAISS file of a collection: written whole, checked before it is read, replaced in one step.

A damaged FAISS file often loads without complaint or kills the process, so none is parsed before
all of it matches its checksums. These are CRC-32 of blocks, computed by several threads, because
opening has to stay quick: zlib does 1 to 4 GiB a second and core, SHA-256 half of it or less. They
guard against damage, which they find as surely (two blocks in 2^32 agree by chance); they lie in
the database beside the file, so whoever could forge a file could forge a SHA-256 as well. Reading a
file through once also brings it into the page cache, from where it is mapped afterwards.

Each file has a name of its own, with the generation of the rows it was made from. The stamp in the
database says which one counts, so a new one takes over when the stamp is committed.
"""

import json
import os
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from reelscan.index.database import Database
from reelscan.index.index_settings import IndexSettings
from reelscan.index.manifest import CollectionError
from reelscan.models.atomic_file import replacing

_BLOCK_BYTES = 4 * 2**20
PATTERN = "vectors-*.faiss"


@dataclass(frozen=True, kw_only=True)
class IndexStamp:
    """What the database records about the FAISS file that counts."""

    file: str
    """Name in the collection's folder."""
    size_bytes: int
    generation: int
    """Of the rows that it was made from."""
    last_segment: int
    """Highest segment id that existed then; rows with higher ids are not in the file."""
    vectors: int
    kind: str
    """Name of the `IndexKind`."""
    lists: int
    lists_looked_into: int
    """Inverted lists that a query looks into."""
    candidates: int
    """Candidates scored again for each hit wanted; 1 where the scores are exact."""
    exact_scores: bool
    trained_on: int
    """Vectors in the collection when lists and codes were learnt."""
    recall_at_10: float
    """Measured at training against exact search."""
    recall_at_128: float
    memory_bytes: int
    """What it was allowed to take; kept to by whoever makes it again without saying otherwise."""


NO_FILE = IndexStamp(
    file="",
    size_bytes=0,
    generation=0,
    last_segment=0,
    vectors=0,
    kind="flat",
    lists=0,
    lists_looked_into=0,
    candidates=1,
    exact_scores=True,
    trained_on=0,
    recall_at_10=1.0,
    recall_at_128=1.0,
    memory_bytes=0,
)
"""Of a collection that has no index file: everything in it is fresh."""


def read_stamp(database: Database) -> tuple[IndexStamp, NDArray[np.uint32]] | None:
    """The stamp and the checksums of the file's blocks; None if no file was written yet."""
    text, checksums = database.rows("SELECT index_stamp, index_checksums FROM state")[0]
    if text is None:
        return None
    try:
        return IndexStamp(**json.loads(text)), np.frombuffer(checksums, "<u4")
    except (TypeError, ValueError):
        # Written by another version; the file can be made again.
        return None


def remembered_settings(database: Database) -> IndexSettings:
    """Those of the file in force."""
    found = read_stamp(database)
    return IndexSettings() if found is None else IndexSettings(memory_bytes=found[0].memory_bytes)


def write_stamp(
    database: Database, stamp: IndexStamp | None, checksums: NDArray[np.uint32] | None
) -> None:
    """Make a file the one that counts (None: none does), and forget deletions it knows of."""
    with database.transaction() as connection:
        connection.execute(
            "UPDATE state SET generation = generation + 1, index_stamp = ?, index_checksums = ?",
            (
                None if stamp is None else json.dumps(asdict(stamp)),
                None if checksums is None else checksums.astype("<u4").tobytes(),
            ),
        )
        if stamp is not None:
            connection.execute("DELETE FROM deleted WHERE generation <= ?", (stamp.generation,))


def write_index_file(path: Path, faiss_index: Any) -> NDArray[np.uint32]:
    """Write an index whole and flushed, or not at all, and return its checksums.

    Raises:
        CollectionError: it cannot be written, say because the disk is full.
    """
    try:
        with replacing(path) as temporary:
            faiss.write_index(faiss_index, str(temporary))
            with temporary.open("rb") as file:
                checksums = _checksums(file.fileno())
    except (RuntimeError, OSError) as error:
        raise CollectionError(
            f"{path} could not be written ({_first_line(error)}). The vectors are safe in the "
            "database; free some space and run `reelscan index compact`"
        ) from error
    _flush_folder(path.parent)
    return checksums


class UnusableIndexFile(Exception):  # noqa: N818 - says what it is; the remedy is to make it again
    """A file must not be read; the text says which and why."""


def open_index(
    folder: Path, stamp: IndexStamp, checksums: NDArray[np.uint32], *, to_change: bool = False
) -> Any:
    """Verify the file and open it: mapped, or with `to_change` in memory.

    Even if the file is replaced meanwhile, what is read is what was verified. Raises
    UnusableIndexFile.
    """
    with _verified(folder, stamp, checksums) as descriptor:
        flags = 0 if to_change else faiss.IO_FLAG_MMAP_IFC
        index = faiss.read_index(f"/dev/fd/{descriptor}", flags)
    if isinstance(index, faiss.IndexIVF) and not to_change:
        # A single query is spread over its lists by all threads.
        index.parallel_mode = 1
    return index


def why_unusable(folder: Path, stamp: IndexStamp, checksums: NDArray[np.uint32]) -> str | None:
    """Why a file must not be read; None if it is what was written."""
    try:
        with _verified(folder, stamp, checksums):
            return None
    except UnusableIndexFile as error:
        return str(error)


@contextmanager
def _verified(folder: Path, stamp: IndexStamp, checksums: NDArray[np.uint32]) -> Iterator[int]:
    try:
        file = (folder / stamp.file).open("rb")
    except OSError:
        raise UnusableIndexFile(f"{stamp.file} is absent") from None
    with file:
        descriptor = file.fileno()
        if os.fstat(descriptor).st_size != stamp.size_bytes or not np.array_equal(
            _checksums(descriptor), checksums
        ):
            raise UnusableIndexFile(f"{stamp.file} does not match its checksum")
        yield descriptor


def remove_other_files(folder: Path, *, keep: str | None) -> None:
    """Delete index files that do not count; readers that have them mapped keep them."""
    for path in (*folder.glob(PATTERN), *folder.glob(f".{PATTERN}.*.tmp")):
        if path.name != keep:
            with suppress(FileNotFoundError):
                path.unlink()


def _checksums(descriptor: int) -> NDArray[np.uint32]:
    starts = range(0, os.fstat(descriptor).st_size, _BLOCK_BYTES)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(
            lambda start: zlib.crc32(os.pread(descriptor, _BLOCK_BYTES, start)), starts
        )
        return np.fromiter(found, np.uint32, count=len(starts))


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
