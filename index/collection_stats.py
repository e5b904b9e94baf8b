"""What a collection holds and takes, in numbers."""

from dataclasses import dataclass
from pathlib import Path

from reelscan.index.database import DATABASE_NAME
from reelscan.index.derived_file import IndexStamp, read_stamp
from reelscan.index.manifest import Manifest
from reelscan.index.stored_vectors import StoredVectors


@dataclass(frozen=True, kw_only=True)
class CollectionStats:
    """Counts, sizes and settings of a collection."""

    videos: int
    segments: int
    quarantined: int
    seconds: float
    """Seconds of video in the segments."""
    embed_dim: int
    vector_type: str
    database_bytes: int
    """With its log."""
    free_share: float
    """Part of the database that holds nothing; compacting gives it back."""
    index_bytes: int
    index: IndexStamp | None
    """The FAISS file; None if none was written yet."""
    newer_segments: int
    """Not in the FAISS file yet, compared one by one."""
    deleted_segments: int
    """Still in the FAISS file, left out of searches."""
    metadata: dict[str, int]
    """Keys of videos' metadata, and how many videos have each."""
    videos_root: str
    model_path: str | None
    fingerprint: str


def collection_stats(folder: Path, manifest: Manifest, vectors: StoredVectors) -> CollectionStats:
    """Count; takes about a second for ten million segments."""
    database = vectors.database
    with database.snapshot():
        found = read_stamp(database)
        stamp = None if found is None else found[0]
        last = 0 if stamp is None else stamp.last_segment
        counts = database.rows(
            "SELECT (SELECT count(*) FROM videos), (SELECT count(*) FROM quarantine), count(*),"
            " total(end_seconds - start_seconds), count(*) FILTER (WHERE id > ?) FROM segments",
            (last,),
        )[0]
        deleted = database.rows("SELECT count(*) FROM deleted WHERE segment <= ?", (last,))[0][0]
        keys = database.rows(
            "SELECT key, count(*) FROM videos, json_each(videos.metadata) GROUP BY key ORDER BY key"
        )
    files = [folder / f"{DATABASE_NAME}{suffix}" for suffix in ("", "-wal")]
    return CollectionStats(
        videos=counts[0],
        quarantined=counts[1],
        segments=counts[2],
        seconds=counts[3],
        embed_dim=manifest.embed_dim,
        vector_type=manifest.vector_type,
        database_bytes=sum(file.stat().st_size for file in files if file.exists()),
        free_share=database.free_share(),
        index_bytes=0 if stamp is None else stamp.size_bytes,
        index=stamp,
        newer_segments=counts[4],
        deleted_segments=deleted,
        metadata=dict(keys),
        videos_root=manifest.videos_root,
        model_path=manifest.model_path,
        fingerprint=manifest.fingerprint,
    )
