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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
            checksums = _checksums(temporary)
    except (RuntimeError, OSError) as error:
        raise CollectionError(
            f"{path} could not be written ({_first_line(error)}). The vectors are safe in the "
            "database; free some space and run `reelscan index compact`"
        ) from error
    _flush_folder(path.parent)
    return checksums


def why_unusable(path: Path, stamp: IndexStamp, checksums: NDArray[np.uint32]) -> str | None:
    """Why a file must not be read; None if it is what was written."""
    try:
        size_bytes = path.stat().st_size
    except OSError:
        return "is absent"
    if size_bytes != stamp.size_bytes or not np.array_equal(_checksums(path), checksums):
        return "does not match its checksum"
    return None


def map_index(path: Path) -> Any:
    """Open a verified file; vectors and lists stay in the file and are mapped.

    A single query is then spread over the lists by all threads.
    """
    index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    if isinstance(index, faiss.IndexIVF):
        index.parallel_mode = 1
    return index


def load_index(path: Path) -> Any:
    """Read a verified file into memory, where it can be changed."""
    return faiss.read_index(str(path))


def remove_other_files(folder: Path, *, keep: str | None) -> None:
    """Delete index files that do not count; readers that have them mapped keep them."""
    for path in (*folder.glob(PATTERN), *folder.glob(f".{PATTERN}.*.tmp")):
        if path.name != keep:
            with suppress(FileNotFoundError):
                path.unlink()


def _checksums(path: Path) -> NDArray[np.uint32]:
    with path.open("rb") as file, ThreadPoolExecutor(os.cpu_count()) as threads:
        descriptor = file.fileno()
        starts = range(0, os.fstat(descriptor).st_size, _BLOCK_BYTES)
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
