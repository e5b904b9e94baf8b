"""A collection on disk: embedded segments of videos, searchable by vector.

The folder holds `manifest.json` (what it was made with), `segments.sqlite` (the truth: videos,
segments, vectors, quarantine), `vectors.faiss` (derived, checked, rebuilt when wrong) and
`quarantine.jsonl` (for reading). Q queries, E embedding width.
"""

import logging
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from reelscan.index.flat_index import FlatIndex, load_flat_index
from reelscan.index.manifest import (
    CollectionError,
    FingerprintMismatch,
    Manifest,
    read_manifest,
    write_manifest,
)
from reelscan.index.quarantine import QuarantinedVideo, write_quarantine_report
from reelscan.index.segments import DATABASE_NAME, NewSegment, Segment, SegmentStore
from reelscan.index.video_files import VideoFile

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SegmentHit:
    """A segment found by a search."""

    segment_id: int
    video: str
    """Relative to the videos' root."""
    start_seconds: float
    end_seconds: float
    score: float
    """Inner product of query and segment."""
    metadata: Mapping[str, object]


class Collection:
    """An open collection; made by `create` or `open`. Safe to share between threads."""

    def __init__(
        self,
        path: Path,
        *,
        manifest: Manifest,
        store: SegmentStore,
        read_only: bool,
        on_notice: Callable[[str], None],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.read_only = read_only
        self._store = store
        self._on_notice = on_notice
        self._index: FlatIndex | None = None
        self._index_lock = threading.Lock()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        manifest: Manifest,
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
            SegmentStore.create(temporary / DATABASE_NAME)
            write_manifest(temporary, manifest)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls.open(folder, fingerprint=manifest.fingerprint, on_notice=on_notice)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        fingerprint: str | None = None,
        read_only: bool = False,
        on_notice: Callable[[str], None] = _LOG.warning,
    ) -> "Collection":
        """Open a collection; `fingerprint` is that of the encoder whose vectors it will meet.

        `on_notice` receives one line when derived data had to be rebuilt.

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
        store = SegmentStore(
            folder / DATABASE_NAME, embed_dim=manifest.embed_dim, read_only=read_only
        )
        return cls(folder, manifest=manifest, store=store, read_only=read_only, on_notice=on_notice)

    def close(self) -> None:
        """Close the files."""
        self._store.close()

    def __enter__(self) -> "Collection":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

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
        return Path(self.manifest.videos_root) / video

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

    def add_video(self, file: VideoFile, segments: Sequence[NewSegment]) -> None:
        """Store a video whole, replacing an earlier version of it."""
        self._check_writable()
        self._store.put_video(file, segments)

    def touch_video(self, file: VideoFile) -> None:
        """Record that a stored video's file has a new time or hash but the same content."""
        self._check_writable()
        self._store.touch_video(file)

    def quarantine_video(self, entry: QuarantinedVideo) -> None:
        """Set a video aside, dropping the segments of an earlier version of it."""
        self._check_writable()
        self._store.quarantine_video(entry)

    def forget_videos(self, videos: Iterable[str]) -> None:
        """Remove videos and their quarantine entries."""
        self._check_writable()
        self._store.forget_videos(videos)

    def write_derived_files(self) -> None:
        """Bring `vectors.faiss` and `quarantine.jsonl` up to date with the database."""
        self._check_writable()
        with self._index_lock:
            # Being older than the vectors is what is expected here, so nobody is told.
            self._index = load_flat_index(self.path, self._store, save=True, on_notice=_LOG.debug)
        write_quarantine_report(self.path, self.quarantined().values())

    def search(
        self, queries: NDArray[np.float32], *, top: int = 10, one_per_video: bool = False
    ) -> list[list[SegmentHit]]:
        """The `top` segments of highest inner product for each of `queries` [Q, E], best first.

        Equal scores are in order of segment id. `one_per_video` keeps a video's best segment only.

        Raises:
            ValueError: wrong shape, values that are not finite, or `top` below 1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.manifest.embed_dim:
            raise ValueError(
                f"queries have the shape {queries.shape}; "
                f"it should be [queries, {self.manifest.embed_dim}]"
            )
        if not np.isfinite(queries).all():
            raise ValueError("queries hold values that are not finite; check the encoder")
        if top < 1:
            raise ValueError(f"top is {top}; ask for at least 1 hit")
        wanted = top
        while True:
            index = self._current_index()
            hits = self._lookup(*index.search(queries, top=wanted))
            if hits is None:
                continue
            if one_per_video:
                hits = [_best_of_each_video(one) for one in hits]
                if wanted < len(index.segment_ids) and any(len(one) < top for one in hits):
                    wanted *= 4
                    continue
            return [one[:top] for one in hits]

    def _lookup(
        self, scores: NDArray[np.float32], segment_ids: NDArray[np.int64]
    ) -> list[list[SegmentHit]] | None:
        """Hits for what the index found; None if a segment is gone since the index was read."""
        segments = self._store.segments_by_id(np.unique(segment_ids).tolist())
        if len(segments) < len(np.unique(segment_ids)):
            return None
        return [
            [
                SegmentHit(
                    segment_id=one,
                    video=segments[one].video,
                    start_seconds=segments[one].start_seconds,
                    end_seconds=segments[one].end_seconds,
                    score=score,
                    metadata=segments[one].metadata,
                )
                for score, one in sorted(
                    zip(row_scores.tolist(), row_ids.tolist(), strict=True),
                    key=lambda pair: (-pair[0], pair[1]),
                )
            ]
            for row_scores, row_ids in zip(scores, segment_ids, strict=True)
        ]

    def _current_index(self) -> FlatIndex:
        with self._index_lock:
            if self._index is None or self._index.generation != self._store.generation():
                self._index = load_flat_index(
                    self.path,
                    self._store,
                    # A process that searches while another embeds should not write for it.
                    save=self._index is None and not self.read_only,
                    on_notice=self._on_notice,
                )
            return self._index

    def _rewrite_manifest(self, manifest: Manifest) -> None:
        self._check_writable()
        if manifest != self.manifest:
            write_manifest(self.path, manifest)
            self.manifest = manifest

    def _check_writable(self) -> None:
        if self.read_only:
            raise CollectionError(
                f"{self.path} was opened for reading only; open it without read_only to change it"
            )


def _best_of_each_video(hits: Sequence[SegmentHit]) -> list[SegmentHit]:
    best: dict[str, SegmentHit] = {}
    for hit in hits:
        best.setdefault(hit.video, hit)
    return list(best.values())
