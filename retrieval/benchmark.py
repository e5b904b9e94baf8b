"""The zero-shot retrieval benchmarks: what each set is, and what the published models reach on it.

Facts are those of the published VideoMamba evaluation unless a preset says otherwise.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

PUBLISHED_RERANK_TOP = 128
_JSON_FILES = "https://drive.google.com/drive/folders/12bC7WotvwyTG4pVvYeU4iZzmBLP1-6d9"

Recalls = tuple[float, float, float]
"""R@1, R@5, R@10 in percent."""


@dataclass(frozen=True, kw_only=True)
class PublishedResult:
    """What a paper reports on a benchmark; zero-shot, reranked among the best 128."""

    model: str
    text_to_video: Recalls
    video_to_text: Recalls


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A set of captioned videos and how it is measured."""

    name: str
    """What a person types."""
    title: str
    """What it is called in papers."""
    split: str
    """Which part of the data set."""
    video_counts: tuple[int, ...] = ()
    """Numbers of videos of the versions in use; empty: any."""
    text_counts: tuple[int, ...] = ()
    """Numbers of text queries, after joining; empty: any."""
    join_captions: bool = False
    """One text of all captions of a video (paragraph retrieval)."""
    max_seconds: float | None = None
    """Only this many seconds from the start of each video."""
    max_text_tokens: int | None = None
    """Tokens of a text, longer ones are cut; None: as the model was trained."""
    frames: int = 8
    """Frames of a video in the published results."""
    annotation_names: tuple[str, ...] = ()
    """Names of the published annotation file, looked for in the videos' folder and above it."""
    annotation_sha256: tuple[str, ...] = ()
    """Of known annotation files; empty: none is known, and only the counts are compared."""
    annotations_from: str = ""
    """Where to get the annotation file."""
    videos_from: str = ""
    """Where to get the videos."""
    licence: str = ""
    """Under what terms they come, as far as known: look it up before use."""
    example_video: str = "video.mp4"
    """A path as the annotation file has it."""
    published: tuple[PublishedResult, ...] = ()
    """Reported results."""

    def __post_init__(self) -> None:
        for what, value in (
            ("frames", self.frames),
            ("max_seconds", 1 if self.max_seconds is None else self.max_seconds),
            ("max_text_tokens", 3 if self.max_text_tokens is None else self.max_text_tokens),
        ):
            if not value > 0:
                raise ValueError(f"{what} is {value}; give a number above 0")


def msrvtt() -> Benchmark:
    """MSR-VTT 1k-A: 1,000 videos with one caption each."""
    return Benchmark(
        name="msrvtt",
        title="MSRVTT-1kA",
        split="test 1k-A",
        video_counts=(1000,),
        text_counts=(1000,),
        max_text_tokens=32,
        annotation_names=("msrvtt_test1k.json", "msrvtt_ret_test1k.json"),
        annotations_from=_JSON_FILES,
        videos_from="https://www.robots.ox.ac.uk/~maxbain/frozen-in-time/data/MSRVTT.zip",
        licence="research use; the clips are YouTube videos and remain their owners'",
        example_video="video7020.mp4",
        published=(
            _result("5M", (32.0, 53.1, 63.6), (28.2, 47.6, 56.5)),
            _result("17M", (34.7, 58.9, 68.0), (29.5, 49.9, 60.1)),
            _result("25M", (35.6, 58.1, 69.5), (29.1, 51.6, 62.2)),
        ),
    )


def didemo() -> Benchmark:
    """DiDeMo: the sentences of a video joined, its first 30 seconds.

    1,004 videos, of which one cannot be had any more: the published file has 1,003.
    """
    return Benchmark(
        name="didemo",
        title="DiDeMo",
        split="test",
        video_counts=(1003, 1004),
        text_counts=(1003, 1004),
        join_captions=True,
        max_seconds=30.0,
        max_text_tokens=64,
        annotation_names=("didemo_ret_test.json",),
        annotations_from=_JSON_FILES,
        videos_from="https://github.com/LisaAnne/LocalizingMoments",
        licence="BSD-2-Clause for the annotations; Flickr videos, each under its own licence",
        example_video="54322086@N00_2408598493_274c77d26a.avi",
        published=(
            _result("5M", (36.6, 61.7, 70.3), (38.3, 64.7, 73.3)),
            _result("17M", (42.0, 67.3, 76.8), (42.3, 68.2, 76.9)),
            _result("25M", (43.1, 68.1, 77.7), (43.8, 69.7, 77.8)),
        ),
    )


def activitynet() -> Benchmark:
    """ActivityNet Captions val1: 4,917 videos, the sentences of a video joined."""
    return Benchmark(
        name="activitynet",
        title="ActivityNet",
        split="val1",
        video_counts=(4917,),
        text_counts=(4917,),
        join_captions=True,
        max_text_tokens=150,
        annotation_names=("anet_ret_val_1.json", "anet_ret_val.json"),
        annotations_from=_JSON_FILES,
        videos_from="http://activity-net.org/download.html",
        licence="research use, on request; the videos are YouTube's and remain their owners'",
        example_video="v_uqiMw7tQ1Cc.mp4",
        published=(
            _result("5M", (35.9, 61.1, 72.3), (32.8, 58.8, 69.9)),
            _result("17M", (40.1, 65.7, 76.1), (34.2, 61.8, 73.2)),
            _result("25M", (41.0, 67.5, 77.8), (37.1, 65.0, 75.1)),
        ),
    )


def lsmdc() -> Benchmark:
    """LSMDC: 1,000 movie clips with one caption each."""
    return Benchmark(
        name="lsmdc",
        title="LSMDC",
        split="test, public 1,000",
        video_counts=(1000,),
        text_counts=(1000,),
        max_text_tokens=96,
        annotation_names=("lsmdc_ret_test_1000.json",),
        annotations_from=_JSON_FILES,
        videos_from="https://sites.google.com/site/describingmovies/download",
        licence="academic research only, after signing the owners' agreement",
        example_video="1004_Juno/1004_Juno_00.00.32.306-00.00.40.807.avi",
        published=(
            _result("5M", (18.0, 36.1, 43.4), (15.9, 31.0, 39.2)),
            _result("17M", (18.4, 35.3, 43.0), (16.5, 32.1, 40.0)),
            _result("25M", (20.4, 37.1, 45.7), (17.9, 34.6, 42.1)),
        ),
    )


def msvd() -> Benchmark:
    """MSVD: 670 videos, 27,763 captions, each of them a query."""
    return Benchmark(
        name="msvd",
        title="MSVD",
        split="test",
        video_counts=(670,),
        text_counts=(27763,),
        max_text_tokens=64,
        annotation_names=("msvd_ret_test.json",),
        annotations_from=_JSON_FILES,
        videos_from="https://www.cs.utexas.edu/users/ml/clamp/videoDescription/",
        licence="research use; the clips are YouTube videos and remain their owners'",
        example_video="fr9H1WLcF1A_141_148.avi",
        published=(
            _result("5M", (38.0, 68.6, 79.0), (57.5, 79.9, 85.4)),
            _result("17M", (40.3, 70.0, 79.7), (61.8, 81.0, 87.0)),
            _result("25M", (42.0, 71.6, 81.2), (62.7, 82.8, 87.6)),
        ),
    )


def vatex() -> Benchmark:
    """VATEX, English, the usual 1,500 test videos out of validation, ten captions each.

    No VideoMamba result is published here; the text length is ours, that of MSVD.
    """
    return Benchmark(
        name="vatex",
        title="VATEX",
        split="1,500 test videos of the HGR split, English",
        video_counts=(1500,),
        text_counts=(15000,),
        max_text_tokens=64,
        annotation_names=("vatex_ret_test.json", "vatex_test.json"),
        annotations_from="https://eric-xw.github.io/vatex-website/download.html, to be put into "
        "the form above",
        videos_from="https://eric-xw.github.io/vatex-website/download.html (lists of YouTube ids)",
        licence="CC BY 4.0 for the annotations; YouTube videos that remain their owners'",
        example_video="Ptf_2VRj-V0_000122_000132.mp4",
    )


BENCHMARKS: Mapping[str, Callable[[], Benchmark]] = {
    "msrvtt": msrvtt,
    "didemo": didemo,
    "activitynet": activitynet,
    "lsmdc": lsmdc,
    "msvd": msvd,
    "vatex": vatex,
}
_ALSO_CALLED = {"msrvtt-1ka": "msrvtt", "msr-vtt": "msrvtt", "anet": "activitynet"}


def find_benchmark(name: str) -> Benchmark:
    """The benchmark of this name; raises ValueError that tells the nearest one."""
    plain = name.lower().replace("_", "-")
    plain = _ALSO_CALLED.get(plain, plain)
    if plain in BENCHMARKS:
        return BENCHMARKS[plain]()
    close = difflib.get_close_matches(plain, [*BENCHMARKS, *_ALSO_CALLED], n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ValueError(
        f"there is no benchmark and no annotation file {name!r}; {hint}"
        f"benchmarks are {', '.join(BENCHMARKS)} (--list tells more), and an annotation file "
        'holds [{"video": "a.mp4", "caption": "..."}, ...]'
    )


def how_to_get(benchmark: Benchmark) -> str:
    """Which files a benchmark needs, where they come from, and where they go."""
    example = benchmark.annotation_names[0]
    caption = '["...", "..."]' if _has_lists(benchmark) else '"..."'
    counts = " or ".join(f"{count:,}" for count in benchmark.video_counts)
    return "\n".join(
        (
            f"{benchmark.title} ({benchmark.split}) needs {counts} videos and an annotation file:",
            f"  videos       {benchmark.videos_from}",
            f"  annotations  {example} from {benchmark.annotations_from}",
            f'               [{{"video": "{benchmark.example_video}", "caption": {caption}}}, ...]',
            f"  licence      {benchmark.licence}",
            "Put them like this:",
            "  DIR/" + example,
            "  DIR/" + benchmark.example_video + "   (another extension will do)",
            "  DIR/...",
            "and run:",
            f"  reelscan evaluate {benchmark.name} --videos DIR",
            f"or, with the annotation file elsewhere, add --annotations path/to/{example}",
        )
    )


def _has_lists(benchmark: Benchmark) -> bool:
    return benchmark.join_captions or benchmark.text_counts != benchmark.video_counts


def _result(data: str, text_to_video: Recalls, video_to_text: Recalls) -> PublishedResult:
    return PublishedResult(
        model=f"VideoMamba-M {data}", text_to_video=text_to_video, video_to_text=video_to_text
    )
