"""A collection on disk: embedded segments of videos, searchable by vector.

The folder holds `manifest.json` (what it was made with), `segments.sqlite` (the truth: videos,
segments, vectors, quarantine), `vectors-*.faiss` (derived, checked, rebuilt when wrong),
`writer.lock` (held by whoever writes) and `quarantine.jsonl` (for reading). A change counts, and is
durable, when the method that made it returns; searches see it from then on, in every process.
Q queries, E embedding width.
"""

import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from reelscan.index.collection_check import CheckReport, check_collection
from reelscan.index.collection_stats import CollectionStats, collection_stats
from reelscan.index.compactor import Compactor
from reelscan.index.database import DATABASE_NAME, Database
from reelscan.index.derived_file import IndexStamp, remembered_settings
from reelscan.index.faiss_selection import Allowed
from reelscan.index.index_build import OnProgress
from reelscan.index.index_settings import IndexSettings
from reelscan.index.layout_upgrade import bring_up_to_date
from reelscan.index.live_index import LiveIndex
from reelscan.index.manifest import (
    CollectionError,
    FingerprintMismatch,
    Manifest,
    read_manifest,
    write_manifest,
)
from reelscan.index.quarantine import QuarantinedVideo, write_quarantine_report
from reelscan.index.segment_hits import SegmentHit, best_of_each_video, look_up
from reelscan.index.segments import MetadataValue, NewSegment, Segment, SegmentStore
from reelscan.index.stored_rows import StoredRows, stream_rows
from reelscan.index.stored_vectors import StoredVectors
from reelscan.index.video_files import VideoFile
from reelscan.index.where_sql import Filters
from reelscan.index.writer_lock import CollectionBusy, WriterLock

__all__ = ["Collection", "SegmentHit"]
_LOG = logging.getLogger(__name__)
_FREE_SHARE_WORTH_SHRINKING = 0.2


class Collection:
    """An open collection; made by `create` or `open`. Safe to share between threads.

    The first change takes the writer's lock, which is held until `close`.
    """

    def __init__(
        self,
        path: Path,
        *,
        manifest: Manifest,
        database: Database,
        lock: WriterLock,
        read_only: bool,
        settings: IndexSettings,
        on_notice: Callable[[str], None],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.read_only = read_only
        self._database = database
        self._on_notice = on_notice
        self.vectors = StoredVectors(
            database, embed_dim=manifest.embed_dim, vector_type=manifest.vector_type
        )
        self._store = SegmentStore(database, self.vectors)
        self._filters = Filters(database)
        self._lock = lock
        self._taking = threading.Lock()
        self._compactor = Compactor(path, self.vectors, settings=settings, on_notice=on_notice)
        self._index = LiveIndex(path, self.vectors, settings=settings, repair=self._repair)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        manifest: Manifest,
        settings: IndexSettings | None = None,
        on_notice: Callable[[str], None] = _LOG.warning,
    ) -> "Collection":
        """Make an empty collection; the folder appears whole or not at all.

        Raises:
            FileExistsError: `path` exists and is not an empty folder.
        """
        folder = Path(path)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} exists already; give a new path for the collection")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
        temporary.mkdir()
        try:
            Database.create(temporary / DATABASE_NAME)
            write_manifest(temporary, manifest)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls.open(
            folder, fingerprint=manifest.fingerprint, settings=settings, on_notice=on_notice
        )

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        fingerprint: str | None = None,
        read_only: bool = False,
        settings: IndexSettings | None = None,
        on_notice: Callable[[str], None] = _LOG.warning,
    ) -> "Collection":
        """Open a collection; `fingerprint` is that of the encoder whose vectors it will meet.

        `settings` hold when an index file is made; None: those of the last one. `on_notice`
        receives one line when derived data had to be rebuilt.

        Raises:
            CollectionError: no collection, a damaged one, or one of a newer version.
            FingerprintMismatch: another encoder made it.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        if fingerprint is not None and fingerprint != manifest.fingerprint:
            raise FingerprintMismatch(
                collection=manifest.fingerprint, encoder=fingerprint, path=folder
            )
        database = Database(folder / DATABASE_NAME, read_only=read_only)
        lock = WriterLock(folder)
        try:
            if bring_up_to_date(folder, database, take_lock=lock.take, on_notice=on_notice):
                write_manifest(folder, manifest)
            return cls(
                folder,
                manifest=manifest,
                database=database,
                lock=lock,
                read_only=read_only,
                settings=settings or remembered_settings(database),
                on_notice=on_notice,
            )
        except BaseException:
            database.close()
            lock.release()
            raise

    def close(self) -> None:
        """Stop what runs in the background, close the files, and let others write."""
        self._compactor.stop()
        self._database.close()
        self._lock.release()

    def __enter__(self) -> "Collection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path)

    def __len__(self) -> int:
        """How many segments are stored."""
        return self._store.count_segments()

    def videos(self) -> dict[str, VideoFile]:
        """The embedded videos by name."""
        return self._store.videos()

    def segments_of(self, video: str) -> list[Segment]:
        """The segments of one video in order of time; none for a video that is not there."""
        return self._store.segments_of(video)

    def quarantined(self) -> dict[str, QuarantinedVideo]:
        """The videos that could not be read, by name."""
        return self._store.quarantined()

    def video_path(self, video: str) -> Path:
        """Where a video's file lies."""
        return Path(self.manifest.videos_root, video)

    def model_path(self) -> Path:
        """Where the encoder's model directory lay at the last embedding; raises CollectionError."""
        if self.manifest.model_path is None:
            raise CollectionError(f"{self.path} does not say where its model lies: name the model")
        return Path(self.manifest.model_path)

    def move_root(self, videos_root: str | os.PathLike[str]) -> None:
        """Record that the folder of videos now lies elsewhere."""
        self._rewrite_manifest(replace(self.manifest, videos_root=str(Path(videos_root).resolve())))

    def record_model_path(self, model_path: str | os.PathLike[str]) -> None:
        """Record where the encoder's model directory lies."""
        self._rewrite_manifest(replace(self.manifest, model_path=str(Path(model_path).resolve())))

    def lock(self) -> None:
        """Become the one writer, before the first change; held until `close`.

        Raises:
            CollectionBusy: another writer is at work.
            CollectionError: opened for reading only, or the folder may not be written.
        """
        if self.read_only:
            raise CollectionError(
                f"{self.path} was opened for reading only; open it without read_only to change it"
            )
        with self._taking:
            self._lock.take()

    def add_video(self, file: VideoFile, segments: Sequence[NewSegment]) -> None:
        """Store a video whole, replacing an earlier version of it; its metadata stays."""
        self.add_videos([(file, segments)])

    def add_videos(self, videos: Iterable[tuple[VideoFile, Sequence[NewSegment]]]) -> None:
        """Store several videos in one step: all of them or, on an error, none."""
        self.lock()
        self._compactor.note(self._store.put_videos(videos))

    def touch_video(self, file: VideoFile) -> None:
        """Record that a stored video's file has a new time or hash but the same content."""
        self.lock()
        self._store.touch_video(file)

    def quarantine_video(self, entry: QuarantinedVideo) -> None:
        """Set a video aside, dropping the segments of an earlier version of it."""
        self.lock()
        self._compactor.note(self._store.quarantine_video(entry))

    def forget_videos(self, videos: Iterable[str]) -> None:
        """Remove videos and their quarantine entries."""
        self.lock()
        self._compactor.note(self._store.forget_videos(videos))

    def metadata_of(self, video: str) -> dict[str, MetadataValue] | None:
        """What was recorded about a video; None for a video that is not there."""
        return self._store.metadata_of(video)

    def edit_metadata(
        self, videos: Iterable[str], changes: Mapping[str, MetadataValue | None]
    ) -> None:
        """Set keys of videos' metadata, or with None remove them: all videos or none.

        Raises:
            ValueError: a video is not there, or a key or value cannot be kept.
        """
        self.lock()
        self._store.edit_metadata(videos, changes)

    def write_derived_files(self, *, on_progress: OnProgress | None = None) -> None:
        """Bring the FAISS file and `quarantine.jsonl` up to date with the database."""
        self.lock()
        self._compactor.wait()
        if not self._index.is_current():
            self._compactor.run(on_progress=on_progress)
        write_quarantine_report(self.path, self.quarantined().values())

    def compact(self, *, anew: bool = False, on_progress: OnProgress | None = None) -> IndexStamp:
        """Make the FAISS file again, and give the space of deleted rows back to the disk.

        `anew` learns it from the vectors alone, instead of changing the one that is there.
        Searches, in this process and others, go on meanwhile. Raises CollectionError when the
        disk is full, ValueError when no index fits into the memory of the settings.
        """
        self.lock()
        stamp = self._compactor.run(anew=anew, on_progress=on_progress)
        if self._database.free_share() > _FREE_SHARE_WORTH_SHRINKING:
            self._database.shrink()
        write_quarantine_report(self.path, self.quarantined().values())
        return stamp

    def check(self) -> CheckReport:
        """Read everything and compare; changes nothing."""
        return check_collection(self.path, self.vectors)

    def stats(self) -> CollectionStats:
        """Counts, sizes and settings."""
        return collection_stats(self.path, self.manifest, self.vectors)

    def passing(self, where: str) -> NDArray[np.int64]:
        """Ids of the segments that a condition (`where.py`) lets pass, ascending; ValueError."""
        return self._filters.passing(where).segment_ids

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        top: int = 10,
        one_per_video: bool = False,
        where: str | None = None,
        among: NDArray[np.int64] | None = None,
    ) -> list[list[SegmentHit]]:
        """The `top` segments of highest inner product for each of `queries` [Q, E], best first.

        Equal scores are in order of segment id. `one_per_video` keeps a video's best segment only.
        `where` is a condition as in `where.py`, `among` ids of segments: only those that pass both
        are looked for.

        Raises:
            ValueError: wrong shape, values that are not finite, `top` below 1, or a condition that
                cannot be read.
        """
        queries = self._checked(queries)
        if top < 1:
            raise ValueError(f"top is {top}; ask for at least 1 hit")
        wanted = top
        while True:
            view = self._index.view()
            allowed = self._allowed(where, among)
            hits = look_up(self._store, view.search(queries, top=wanted, among=allowed))
            if hits is None:
                continue
            if one_per_video:
                hits = [best_of_each_video(one) for one in hits]
                available = len(self) if allowed is None else len(allowed.segment_ids)
                if wanted < available and any(len(one) < top for one in hits):
                    wanted *= 4
                    continue
            return [one[:top] for one in hits]

    def _checked(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.manifest.embed_dim:
            raise ValueError(
                f"queries have the shape {queries.shape}; "
                f"it should be [queries, {self.manifest.embed_dim}]"
            )
        if not np.isfinite(queries).all():
            raise ValueError("queries hold values that are not finite; check the encoder")
        return queries

    def _allowed(self, where: str | None, among: NDArray[np.int64] | None) -> Allowed | None:
        """What is there and passes; None: all."""
        if among is None:
            return None if where is None else self._filters.passing(where)
        existing = self._filters.existing(among)
        if where is None:
            return existing
        passing = self._filters.passing(where).contains(existing.segment_ids)
        return Allowed(existing.segment_ids[passing])

    def vectors_of(self, segment_ids: Sequence[int]) -> NDArray[np.float32]:
        """The vectors [N, E] of these segments, in their order; KeyError for one that is gone."""
        return self.vectors.in_order(segment_ids)

    def sample_vectors(self, count: int) -> NDArray[np.float32]:
        """The vectors [at most `count`, E] of segments spread over all, always the same ones."""
        return self.vectors.sample(count)

    def rows(self) -> Iterator[StoredRows]:
        """Every segment with its vector in order of id, all of one moment."""
        return stream_rows(self.vectors)

    def frame_codes_of(self, segment_ids: Sequence[int]) -> dict[int, bytes]:
        """What is known of the frames of these segments (`frame_codes.py`)."""
        return self._store.frame_codes(segment_ids)

    def _repair(self, reason: str) -> bool:
        """Write the index file again, if this process may; says whether it did."""
        count = len(self)
        if not self.read_only:
            # A process that searches while another embeds should not write for it.
            with suppress(CollectionBusy):
                self.lock()
                self._on_notice(f"{reason}: built again from {count} stored vectors")
                self._compactor.run()
                return True
        self._on_notice(
            f"{reason}: built in memory from {count} stored vectors, for this process alone; "
            f"`reelscan index rebuild {self.path}` keeps it"
        )
        return False

    def _rewrite_manifest(self, manifest: Manifest) -> None:
        self.lock()
        if manifest != self.manifest:
            write_manifest(self.path, manifest)
            self.manifest = manifest
