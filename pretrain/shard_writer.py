"""Writes captioned videos into shards: tar files of a few hundred samples, read in sequence.

    NAME-000000.tar       KEY.json, KEY.mp4, KEY.json, KEY.jpg, ...
    NAME.index.json       what lies where; written last (`shard_index.py`)
    NAME.rejects.jsonl    the videos left out and why

Keys are the numbers of the samples that were accepted, in the order given. The same input gives the
same shards, byte for byte, with any number of workers.
"""

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from reelscan.models.atomic_file import write_atomically
from reelscan.pretrain.annotations import CaptionedVideo, path_below_root
from reelscan.pretrain.shard_index import (
    INDEX_ENDING,
    ShardIndex,
    file_sha256,
    read_index,
    write_index,
)
from reelscan.pretrain.shard_journal import JOURNAL_ENDING, FinishedShard, ShardJournal
from reelscan.pretrain.shard_sample import DESCRIPTION_SUFFIX, description_bytes
from reelscan.pretrain.shard_scan import describe_shard
from reelscan.pretrain.shard_tar import ShardTar
from reelscan.pretrain.video_check import Accepted, Rejected, check_video

REJECTS_ENDING = ".rejects.jsonl"
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
CHECKS_AHEAD_PER_WORKER = 2

Progress = Callable[[int, int, int], None]
"""Called with (videos done, videos in all, rejected so far)."""


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """What a set of shards holds."""

    written: int
    """Samples in all shards."""
    rejected: int
    """Videos left out, listed with reasons in `rejects_path`."""
    shards: int
    bytes: int
    """Of all shards."""
    index_path: Path
    rejects_path: Path


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What one call is about."""

    videos: tuple[CaptionedVideo, ...]
    folder: Path
    root: Path
    name: str
    samples_per_shard: int
    bytes_per_shard: int
    max_video_bytes: int
    reencode_short_side: int | None
    workers: int

    def __post_init__(self) -> None:
        if not NAME_PATTERN.fullmatch(self.name):
            raise ValueError(f"name is {self.name!r}: use letters, digits, _ and - only")
        for field in ("samples_per_shard", "bytes_per_shard", "max_video_bytes"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, but must be at least 1")
        if self.reencode_short_side is not None and self.reencode_short_side < 16:
            raise ValueError(f"reencode_short_side is {self.reencode_short_side}, below 16 pixels")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}, but must be 0 (this thread) or more")
        if not self.videos:
            raise ValueError("there are no videos to write")
        seen: set[str] = set()
        for video in self.videos:
            path_below_root(video.video, self.root)
            if not video.captions:
                raise ValueError(f"{video.video} has no captions")
            if video.video in seen:
                raise ValueError(f"{video.video} is there twice: merge its captions")
            seen.add(video.video)

    def file(self, ending: str) -> Path:
        return self.folder / f"{self.name}{ending}"

    def inputs_sha256(self) -> str:
        """Over settings and, for each video, path, captions, size and time of change."""
        digest = hashlib.sha256()
        settings = (
            self.name,
            self.samples_per_shard,
            self.bytes_per_shard,
            self.max_video_bytes,
            self.reencode_short_side,
        )
        digest.update(json.dumps(settings).encode("utf-8"))
        for video in self.videos:
            path = self.root / video.video
            status = path.stat() if path.exists() else None
            stamp = (status.st_size, status.st_mtime_ns) if status else None
            digest.update(
                json.dumps((video.video, video.captions, video.group, stamp)).encode("utf-8")
            )
        return digest.hexdigest()


def write_shards(
    videos: Sequence[CaptionedVideo],
    out_dir: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str],
    name: str,
    samples_per_shard: int = 1_000,
    bytes_per_shard: int = 500_000_000,
    max_video_bytes: int = 2_000_000_000,
    reencode_short_side: int | None = None,
    workers: int = 0,
    on_progress: Progress | None = None,
) -> ShardReport:
    """Checks every video by decoding a frame of it and writes the good ones, in the given order.

    `root`: folder that the paths of `videos` start from. A shard is closed before it would exceed
    `samples_per_shard` or `bytes_per_shard`. `reencode_short_side` makes the videos (not the
    images) H.264 of that short side in pixels, with keyframes close together: faster to read from
    the middle. `workers`: threads that check videos, 0 for none besides this one.

    An interrupted call with the same inputs goes on after the last shard that is whole; a set that
    is already complete is left alone. Raises ValueError if `out_dir` holds another set of that
    name, or if not one video is good.
    """
    job = _Job(
        videos=tuple(videos),
        folder=Path(out_dir),
        root=Path(root),
        name=name,
        samples_per_shard=samples_per_shard,
        bytes_per_shard=bytes_per_shard,
        max_video_bytes=max_video_bytes,
        reencode_short_side=reencode_short_side,
        workers=workers,
    )
    inputs_sha256 = job.inputs_sha256()
    if job.file(INDEX_ENDING).exists():
        return _report(job, _finished_set(job, inputs_sha256))
    job.folder.mkdir(parents=True, exist_ok=True)
    _refuse_unknown_shards(job)
    journal = ShardJournal(job.file(JOURNAL_ENDING), inputs_sha256=inputs_sha256)
    rejected = _write_missing_shards(job, journal, on_progress or _no_progress)
    write_atomically(job.file(REJECTS_ENDING), _rejects_lines(rejected))
    if not journal.finished:
        journal.delete()
        raise ValueError(
            f"none of the {len(job.videos)} videos is good, the first ({rejected[0].video}) "
            f"because: {rejected[0].reason}; see {job.file(REJECTS_ENDING)}"
        )
    index = ShardIndex(
        name=name,
        inputs_sha256=inputs_sha256,
        rejected=len(rejected),
        shards=tuple(describe_shard(job.folder / shard.file) for shard in journal.finished),
    )
    write_index(index, job.file(INDEX_ENDING))
    journal.delete()
    return _report(job, index)


def _finished_set(job: _Job, inputs_sha256: str) -> ShardIndex:
    path = job.file(INDEX_ENDING)
    index = read_index(path)
    if index.inputs_sha256 != inputs_sha256:
        raise ValueError(
            f"{path} belongs to a complete set with other videos, captions or settings: "
            "choose another name or folder, or delete that set"
        )
    for shard in index.shards:
        file = job.folder / shard.file
        if not file.is_file() or file.stat().st_size != shard.byte_count:
            raise ValueError(
                f"{path} says the set is complete, but {file} is missing or has another size: "
                "delete the index and its shards to write them anew"
            )
    job.file(JOURNAL_ENDING).unlink(missing_ok=True)
    return index


def _refuse_unknown_shards(job: _Job) -> None:
    if job.file(JOURNAL_ENDING).exists():
        return
    for path in sorted(job.folder.glob(f"{job.name}-*.tar")):
        raise ValueError(f"{path} is there, but no run is known that wrote it: move it away first")


class _ShardSequence:
    """Fills one shard after the other and notes each in the journal."""

    def __init__(self, job: _Job, journal: ShardJournal) -> None:
        self._job = job
        self._journal = journal
        self._tar: ShardTar | None = None
        self._samples = sum(shard.samples for shard in journal.finished)
        self.rejected = [entry for shard in journal.finished for entry in shard.rejected]
        self._rejected_noted = len(self.rejected)

    def add(self, sample: Accepted, *, position: int) -> None:
        """`position`: of its video in the list."""
        members = {
            DESCRIPTION_SUFFIX: description_bytes(sample.description),
            sample.suffix: sample.media,
        }
        if self._tar is not None and (
            self._tar.sample_count == self._job.samples_per_shard
            or self._tar.size_with(members) > self._job.bytes_per_shard
        ):
            self.finish_shard(next_video=position)
        if self._tar is None:
            self._tar = ShardTar(self._job.file(f"-{len(self._journal.finished):06d}.tar"))
        self._tar.add(f"{self._samples:09d}", members)
        self._samples += 1

    def finish_shard(self, *, next_video: int) -> None:
        """Puts the open shard, if any, in its place. `next_video` starts the one after it."""
        if self._tar is None:
            return
        tar = self._tar
        tar.finish()
        self._tar = None
        self._journal.add(
            FinishedShard(
                file=tar.path.name,
                sha256=file_sha256(tar.path),
                samples=tar.sample_count,
                next_video=next_video,
                rejected=tuple(self.rejected[self._rejected_noted :]),
            )
        )
        self._rejected_noted = len(self.rejected)

    def abandon_shard(self) -> None:
        """Drops the open shard, if any."""
        if self._tar is not None:
            self._tar.abandon()


def _write_missing_shards(job: _Job, journal: ShardJournal, progress: Progress) -> list[Rejected]:
    """Writes the shards that the journal lacks; returns what was rejected, earlier runs too."""
    start = journal.finished[-1].next_video if journal.finished else 0
    shards = _ShardSequence(job, journal)
    progress(start, len(job.videos), len(shards.rejected))
    try:
        with closing(_checked(job, start)) as outcomes:
            for position, outcome in enumerate(outcomes, start=start):
                if isinstance(outcome, Rejected):
                    shards.rejected.append(outcome)
                else:
                    shards.add(outcome, position=position)
                progress(position + 1, len(job.videos), len(shards.rejected))
        shards.finish_shard(next_video=len(job.videos))
    finally:
        shards.abandon_shard()
    return shards.rejected


def _checked(job: _Job, start: int) -> Generator[Accepted | Rejected]:
    """The outcome for each video from `start` on, in order; a few are checked ahead."""
    check = partial(
        check_video,
        root=job.root,
        max_video_bytes=job.max_video_bytes,
        reencode_short_side=job.reencode_short_side,
    )
    videos = job.videos[start:]
    if job.workers == 0:
        yield from map(check, videos)
        return
    waiting: deque[Future[Accepted | Rejected]] = deque()
    with ThreadPoolExecutor(job.workers) as pool:
        try:
            for video in videos:
                waiting.append(pool.submit(check, video))
                if len(waiting) > job.workers * CHECKS_AHEAD_PER_WORKER:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _rejects_lines(rejected: Sequence[Rejected]) -> bytes:
    lines = (json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in rejected)
    return "".join(lines).encode("utf-8")


def _report(job: _Job, index: ShardIndex) -> ShardReport:
    return ShardReport(
        written=index.sample_count,
        rejected=index.rejected,
        shards=len(index.shards),
        bytes=index.byte_count,
        index_path=job.file(INDEX_ENDING),
        rejects_path=job.file(REJECTS_ENDING),
    )


def _no_progress(done: int, total: int, rejected: int) -> None:
    pass
