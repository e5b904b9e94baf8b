"""Embedding a folder of videos into a collection: only what is new or changed, in bounded memory.

B clips, T frames, S pixels, E embedding width.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from reelscan.index.collection import Collection
from reelscan.index.decode_ahead import decode_ahead
from reelscan.index.embed_plan import EmbedPlan, make_plan, videos_gone
from reelscan.index.index_settings import IndexSettings
from reelscan.index.manifest import MANIFEST_NAME, Manifest
from reelscan.index.quarantine import QuarantinedVideo, quarantined_now
from reelscan.index.segment_frames import read_segments
from reelscan.index.segmenter import Segmenter, make_segmenter
from reelscan.index.segments import NewSegment
from reelscan.index.shards import Shard
from reelscan.index.video_files import (
    VIDEO_EXTENSIONS,
    FolderListing,
    VideoFile,
    list_videos,
)
from reelscan.index.windowing import Windowing
from reelscan.models.encoder import Encoder
from reelscan.models.preprocessing import Preprocessing
from reelscan.video.windows import Window


@dataclass(frozen=True, kw_only=True)
class EmbedProgress:
    """How far an embedding run is."""

    done_videos: int
    """Embedded or quarantined in this run."""
    total_videos: int
    """To be embedded in this run."""
    done_seconds: float
    """Seconds of video embedded."""
    segments: int
    """Segments embedded."""
    current: str
    """The video looked at last."""


@dataclass(frozen=True, kw_only=True)
class EmbedReport:
    """What an embedding run did."""

    embedded: int
    """Videos embedded, new or changed."""
    unchanged: int
    """Videos that were there already."""
    quarantined: tuple[QuarantinedVideo, ...]
    """Videos that failed in this run."""
    still_quarantined: int
    """Videos that failed earlier, have not changed, and were not tried again."""
    missing: tuple[str, ...]
    """Videos of the collection that the folder no longer holds, and that were kept."""
    removed: tuple[str, ...]
    """Videos of the collection that the folder no longer holds, and that were removed."""
    ignored_files: int
    """Files of the folder whose extension is no video's, and hidden ones."""
    segments: int
    """Segments embedded in this run."""
    video_seconds: float
    """Seconds of video embedded in this run."""
    seconds: float
    """Duration of the run."""


@dataclass(kw_only=True)
class _Job:
    """A video on its way: some of its windows may still wait in the batch."""

    file: VideoFile
    segments: list[NewSegment] = field(default_factory=list)
    in_batch: int = 0
    all_read: bool = False

    @property
    def seconds(self) -> float:
        return max((segment.end_seconds for segment in self.segments), default=0.0)


def embed_folder(
    encoder: Encoder,
    folder: str | os.PathLike[str],
    collection_path: str | os.PathLike[str],
    *,
    windowing: Windowing | None = None,
    window_seconds: float | None = 8.0,
    stride_seconds: float | None = None,
    batch_size: int = 8,
    workers: int = 2,
    model_path: str | os.PathLike[str] | None = None,
    compare_content: bool = False,
    remove_missing: bool = False,
    retry_quarantined: bool = False,
    shard: Shard | None = None,
    memory_bytes: int | None = None,
    on_progress: Callable[[EmbedProgress], None] | None = None,
) -> EmbedReport:
    """Embed the videos below `folder` into the collection, which is made if it is not there.

    Each video is stored whole, in one step, when its last window is embedded; interrupting keeps
    the finished ones. A video that breaks anywhere is quarantined whole, with the reason, and
    tried again once its file changes (or with `retry_quarantined`). A file counts as unchanged
    while its size and modification time (with `compare_content`: its SHA-256) stay the same.
    `window_seconds=None` makes each video one segment; `windowing`, in place of the two numbers,
    has the other ways to cut. Memory is bounded by `batch_size` and
    `workers` (decoding threads), not by the length of the videos. `model_path` is kept in the
    collection, for searches that do not name a model. `shard` limits the run to its videos,
    and leaves the index file to the collection that shards are merged into. `memory_bytes` is what
    the index file may take (`IndexSettings`); None: as before.

    Raises:
        FingerprintMismatch: the collection was made by another encoder.
        CollectionError: the collection is damaged, of a newer version, or being written by another
            process (CollectionBusy).
        ValueError: bad settings, settings that differ from the collection's, or no videos.
        NotADirectoryError: `folder` is not a folder.
    """
    started = time.monotonic()
    for name, value in (("batch_size", batch_size), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    windowing = windowing or Windowing(window_seconds=window_seconds, stride_seconds=stride_seconds)
    cut = make_segmenter(encoder, windowing, batch_size=batch_size)
    root = Path(folder).resolve()
    everything = list_videos(root)
    # A shard may be left without videos, where the folder has some.
    listing = everything if shard is None else shard.of_listing(everything)
    settings = None if memory_bytes is None else IndexSettings(memory_bytes=memory_bytes)
    with _open_or_create(
        encoder, root, Path(collection_path), windowing, everything, settings
    ) as collection:
        _refuse_other_settings(collection, root, windowing)
        collection.lock()
        gone = videos_gone(collection, root, listing, remove_missing=remove_missing)
        run = _Run(encoder.preprocessing, collection, cut, on_progress=on_progress)
        if model_path is not None:
            collection.record_model_path(model_path)
        plan = make_plan(
            collection,
            root,
            listing,
            compare_content=compare_content,
            retry_quarantined=retry_quarantined,
            on_look=run.tell,
        )
        run.embed(plan, root, windowing, workers=workers)
        if shard is None:
            collection.write_derived_files()
    return EmbedReport(
        embedded=run.embedded,
        unchanged=plan.unchanged,
        quarantined=tuple(run.quarantined),
        still_quarantined=plan.still_quarantined,
        missing=() if remove_missing else gone,
        removed=gone if remove_missing else (),
        ignored_files=listing.ignored_files,
        segments=run.segments,
        video_seconds=run.video_seconds,
        seconds=time.monotonic() - started,
    )


class _Run:
    """The state of one run: batches that may span videos, and what became of each video."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        collection: Collection,
        cut: Segmenter,
        *,
        on_progress: Callable[[EmbedProgress], None] | None,
    ) -> None:
        self.embedded = 0
        self.segments = 0
        self.video_seconds = 0.0
        self.quarantined: list[QuarantinedVideo] = []
        self._preprocessing = preprocessing
        self._collection = collection
        self._cut = cut
        self._on_progress = on_progress
        self._total_videos = 0
        self._jobs: dict[str, _Job] = {}
        self._batch: list[tuple[str, Window]] = []

    def embed(self, plan: EmbedPlan, root: Path, windowing: Windowing, *, workers: int) -> None:
        """Carry the plan out."""
        self._total_videos = len(plan.to_embed) + len(plan.failed)
        for entry in plan.failed:
            self._quarantine(entry)
        for file in plan.touched:
            self._collection.touch_video(file)
        events = decode_ahead(
            plan.to_embed,
            read=lambda video: read_segments(
                root / video,
                windowing=windowing,
                preprocessing=self._preprocessing,
                name=video,
            ),
            workers=workers,
            waiting=self._cut.windows_at_once,
        )
        for event in events:
            job = self._jobs.setdefault(event.video, _Job(file=plan.to_embed[event.video]))
            if event.window is not None:
                self._add(job, event.window)
            elif event.failure is not None:
                self._drop(job, event.failure)
            else:
                job.all_read = True
                self._store_if_complete(job)
        self._encode_batch()

    def tell(self, current: str) -> None:
        """Report progress."""
        if self._on_progress is None:
            return
        under_way = self._jobs.values()
        self._on_progress(
            EmbedProgress(
                done_videos=self.embedded + len(self.quarantined),
                total_videos=self._total_videos,
                done_seconds=self.video_seconds + sum(job.seconds for job in under_way),
                segments=self.segments + sum(len(job.segments) for job in under_way),
                current=current,
            )
        )

    def _add(self, job: _Job, window: Window) -> None:
        job.in_batch += 1
        self._batch.append((job.file.path, window))
        if len(self._batch) == self._cut.windows_at_once:
            self._encode_batch()

    def _drop(self, job: _Job, reason: str) -> None:
        del self._jobs[job.file.path]
        self._batch = [entry for entry in self._batch if entry[0] != job.file.path]
        self._quarantine(quarantined_now(job.file, reason))

    def _quarantine(self, entry: QuarantinedVideo) -> None:
        self._collection.quarantine_video(entry)
        self.quarantined.append(entry)
        self.tell(entry.file.path)

    def _encode_batch(self) -> None:
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        cut = self._cut.segments([window for _, window in batch])
        for (video, _), segments in zip(batch, cut, strict=True):
            job = self._jobs[video]
            job.in_batch -= 1
            job.segments += segments
        self.tell(batch[-1][0])
        for video in dict.fromkeys(video for video, _ in batch):
            self._store_if_complete(self._jobs[video])

    def _store_if_complete(self, job: _Job) -> None:
        if not job.all_read or job.in_batch:
            return
        del self._jobs[job.file.path]
        if not job.segments:
            self._quarantine(quarantined_now(job.file, "holds no frames"))
            return
        self._collection.add_video(job.file, job.segments)
        self.embedded += 1
        self.segments += len(job.segments)
        self.video_seconds += job.seconds
        self.tell(job.file.path)


def _open_or_create(
    encoder: Encoder,
    root: Path,
    path: Path,
    windowing: Windowing,
    listing: FolderListing,
    settings: IndexSettings | None,
) -> Collection:
    if not (path / MANIFEST_NAME).exists():
        if not listing.videos and not listing.unrecordable:
            raise ValueError(
                f"{root} holds no video ({listing.ignored_files} other files); "
                f"videos end in {', '.join(VIDEO_EXTENSIONS)}"
            )
        manifest = Manifest(
            fingerprint=encoder.fingerprint,
            embed_dim=encoder.embed_dim,
            videos_root=str(root),
            windowing=windowing,
            preprocessing=json.loads(json.dumps(asdict(encoder.preprocessing))),
        )
        return Collection.create(path, manifest=manifest, settings=settings)
    return Collection.open(path, fingerprint=encoder.fingerprint, settings=settings)


def _refuse_other_settings(collection: Collection, root: Path, windowing: Windowing) -> None:
    made_with = collection.manifest
    if made_with.windowing != windowing:
        raise ValueError(
            f"{collection.path} was cut into {made_with.windowing}, not into {windowing}: "
            "use the same settings, or embed into a new collection"
        )
    if made_with.videos_root != str(root):
        raise ValueError(
            f"{collection.path} belongs to the videos of {made_with.videos_root}, not of {root}: "
            "embed into a new collection, or, if the folder was moved, call Collection.move_root"
        )
