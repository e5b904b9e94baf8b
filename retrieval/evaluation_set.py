"""A benchmark's annotations and videos, checked before hours are spent on them."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reelscan.pretrain.annotations import CaptionedVideo, read_annotations
from reelscan.retrieval.benchmark import BENCHMARKS, Benchmark
from reelscan.retrieval.evaluation_report import BrokenVideo, BrokenVideosError
from reelscan.retrieval.known_files import KnownFile, KnownFiles
from reelscan.retrieval.video_lookup import VideoLookup, better_root
from reelscan.video.errors import VideoError

OnDone = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class SetVideo:
    """A video of the set that could be opened."""

    video: str
    """As annotated."""
    path: Path
    texts: tuple[str, ...]
    """Its queries."""
    sha256: str
    end_seconds: float | None
    """Only this much of it is seen; None: all."""
    duration_seconds: float


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """What an encoder is measured on."""

    benchmark: Benchmark
    videos: tuple[SetVideo, ...]
    left_out: tuple[BrokenVideo, ...]
    """Videos that are missing or cannot be opened, with their captions."""
    annotated: int
    """Videos in the annotation file."""
    notices: tuple[str, ...]
    """What a person should know about it."""


@dataclass(frozen=True, kw_only=True)
class CheckedAnnotations:
    """Annotations that fit their benchmark."""

    annotated: tuple[CaptionedVideo, ...]
    notices: tuple[str, ...]


def read_benchmark_annotations(
    benchmark: Benchmark, path: Path, *, video_root: Path, any_counts: bool = False
) -> CheckedAnnotations:
    """Read an annotation file and compare it with what the benchmark says.

    any_counts: go on with other numbers of videos or texts; a notice says so.

    Raises ValueError for bad annotations, and for numbers or captions of another set.
    """
    annotated = read_annotations(path, root=video_root)
    captions = sum(len(one.captions) for one in annotated)
    texts = len(annotated) if benchmark.join_captions else captions
    notices = []
    problem = _wrong_counts(benchmark, videos=len(annotated), texts=texts, path=path)
    if problem and not any_counts:
        raise ValueError(f"{problem} (--any-counts goes on all the same)")
    if problem:
        notices.append(f"not comparable with published results: {problem}")
    if benchmark.join_captions and captions == len(annotated):
        told = "every video has one caption already, so there is nothing to join"
        if not benchmark.video_counts:
            raise ValueError(f"{path}: {told}; leave out --join-captions")
        notices.append(f"{told}: each is taken as the whole paragraph")
    notices += _looks_like_another(benchmark, videos=len(annotated), captions=captions)
    if benchmark.annotation_sha256:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 not in benchmark.annotation_sha256:
            notices.append(f"{path} is none of the annotation files known (sha256 {sha256})")
    return CheckedAnnotations(annotated=tuple(annotated), notices=tuple(notices))


def open_set(
    benchmark: Benchmark,
    checked: CheckedAnnotations,
    *,
    video_root: Path,
    known: KnownFiles,
    leave_out_broken: bool,
    workers: int,
    on_done: OnDone,
) -> EvaluationSet:
    """Find and open every video: what fails here would fail hours later otherwise.

    Raises BrokenVideosError if some fail and are not to be left out, or all do.
    """
    lookup = VideoLookup(video_root)
    places: list[Path | BrokenVideo] = []
    for one in checked.annotated:
        try:
            places.append(lookup.find(one.video))
        except VideoError as error:
            places.append(BrokenVideo(video=one.video, reason=error.reason))

    def look(number: int) -> KnownFile | BrokenVideo:
        place, video = places[number], checked.annotated[number].video
        if isinstance(place, BrokenVideo):
            return place
        try:
            return known.look(place, name=video)
        except VideoError as error:
            return BrokenVideo(video=video, reason=error.reason)

    found, broken = [], []
    numbers = range(len(places))
    with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
        try:
            for number, result in enumerate(pool.map(look, numbers)):
                place = places[number]
                if isinstance(result, BrokenVideo) or isinstance(place, BrokenVideo):
                    assert isinstance(result, BrokenVideo)
                    broken.append(result)
                else:
                    found.append(_set_video(benchmark, checked.annotated[number], place, result))
                on_done(number + 1, len(places))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    refuse_broken(broken, total=len(places), leave_out=leave_out_broken, root=video_root)
    told = lookup.notice(len(places))
    return EvaluationSet(
        benchmark=benchmark,
        videos=tuple(found),
        left_out=tuple(broken),
        annotated=len(places),
        notices=(*checked.notices, *([told] if told else [])),
    )


def refuse_broken(
    broken: Sequence[BrokenVideo], *, total: int, leave_out: bool, root: Path | None
) -> None:
    """Raise BrokenVideosError for broken videos that are not left out, or if there is no other.

    root: where to look for them if all are missing.
    """
    if not broken or (leave_out and len(broken) < total):
        return
    hint = None
    if root is not None and len(broken) == total:
        other = better_root(root, [one.video for one in broken])
        hint = f"they seem to lie in {other}: give that folder with --videos" if other else None
    raise BrokenVideosError(broken, total=total, hint=hint)


def seen_seconds(max_seconds: float | None, known: KnownFile) -> float | None:
    """Where to stop so that int(max_seconds * fps) frames are seen, as published; None: nowhere.

    Half a frame before the next one, so that rounding decides nothing.
    """
    if max_seconds is None or known.duration_seconds <= max_seconds:
        return None
    return max(1, int(max_seconds * known.fps)) / known.fps - 0.5 / known.fps


def _set_video(benchmark: Benchmark, one: CaptionedVideo, path: Path, known: KnownFile) -> SetVideo:
    return SetVideo(
        video=one.video,
        path=path,
        texts=(" ".join(one.captions),) if benchmark.join_captions else one.captions,
        sha256=known.sha256,
        end_seconds=seen_seconds(benchmark.max_seconds, known),
        duration_seconds=known.duration_seconds,
    )


def _wrong_counts(benchmark: Benchmark, *, videos: int, texts: int, path: Path) -> str | None:
    right_videos = not benchmark.video_counts or videos in benchmark.video_counts
    right_texts = not benchmark.text_counts or texts in benchmark.text_counts
    if right_videos and right_texts:
        return None
    expected = " or ".join(f"{count:,}" for count in benchmark.video_counts)
    queries = " or ".join(f"{count:,}" for count in benchmark.text_counts)
    problem = (
        f"{benchmark.title} ({benchmark.split}) has {expected} videos and {queries} texts, but "
        f"{path} has {videos:,} and {texts:,}"
    )
    if right_videos and texts > videos and benchmark.text_counts == benchmark.video_counts:
        return f"{problem}: it lists several captions a video where one is expected"
    if right_videos and texts == videos:
        return f"{problem}: it lists one caption a video where all of them are expected"
    names = " or ".join(benchmark.annotation_names)
    return f"{problem}: it is another split or file; use {names} from {benchmark.annotations_from}"


def _looks_like_another(benchmark: Benchmark, *, videos: int, captions: int) -> list[str]:
    """For a file of one's own that has the numbers of a benchmark measured in another way."""
    if benchmark.video_counts or captions == videos:
        return []
    for make in BENCHMARKS.values():
        other = make()
        same_texts = other.join_captions or captions in other.text_counts
        if videos in other.video_counts and same_texts:
            if benchmark.join_captions and not other.join_captions:
                raise ValueError(
                    f"{videos:,} videos with {captions:,} captions are {other.title}, whose "
                    f"captions are not joined: leave out --join-captions, or use "
                    f"`reelscan evaluate {other.name}`"
                )
            if benchmark.join_captions != other.join_captions:
                return [
                    f"{videos:,} videos with several captions each look like {other.title}, whose "
                    f"captions are joined: `reelscan evaluate {other.name}` does so"
                ]
    return []
