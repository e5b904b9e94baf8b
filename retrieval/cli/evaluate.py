"""`reelscan evaluate`: zero-shot text-video retrieval on a benchmark or an annotation file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from reelscan.models.encoder import Encoder, MatchingEncoder, VideoTextEncoder
from reelscan.retrieval.benchmark import (
    BENCHMARKS,
    PUBLISHED_RERANK_TOP,
    Benchmark,
    find_benchmark,
    how_to_get,
)
from reelscan.retrieval.calibration import calibrate, save_calibration
from reelscan.retrieval.cli.arguments import as_json, parse_arguments
from reelscan.retrieval.cli.calibration_text import calibration_text
from reelscan.retrieval.cli.device import best_device
from reelscan.retrieval.cli.evaluation_files import save_evaluation
from reelscan.retrieval.cli.evaluation_progress import EvaluationBars
from reelscan.retrieval.cli.progress import notice
from reelscan.retrieval.cli.retrieval_table import (
    comparison,
    order_of_pairs,
    summary,
    table,
)
from reelscan.retrieval.dual_softmax import TEMPERATURE
from reelscan.retrieval.evaluate import check_set, check_settings, evaluate_set
from reelscan.retrieval.evaluation_report import EvaluationReport
from reelscan.retrieval.evaluation_set import (
    EvaluationSet,
    read_benchmark_annotations,
)
from reelscan.retrieval.feature_cache import default_cache
from reelscan.retrieval.model_choice import (
    OPEN_CLIP,
    check_open_clip,
    choose_any_encoder,
    choose_encoder,
    choose_model,
)
from reelscan.retrieval.order_pairs import read_pairs

_ANNOTATION_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Command:
    """Measures zero-shot text-video retrieval, both directions, beside published results.

    Takes a benchmark by name (msrvtt, didemo, activitynet, lsmdc, msvd, vatex) or an annotation
    file, a json list: [{"video": "a.mp4", "caption": "..." or ["...", ...]}]. Prints a table and
    writes report.json, report.md and recall.png. Stopped with Ctrl-C, it goes on when run again.

    Examples:
      reelscan evaluate --list
      reelscan evaluate msrvtt --videos MSRVTT/videos
      reelscan evaluate didemo --videos didemo --annotations didemo_ret_test.json --model my-model
      reelscan evaluate msvd --videos MSVD --compare open_clip:ViT-B-32:laion2b_s34b_b79k --worst 20
      reelscan evaluate test.json --videos my-videos --model my-model --rerank-top 128
      reelscan evaluate held-out.json --videos my-videos --model my-model --calibrate
    """

    what: Annotated[
        tyro.conf.Positional[str | None], tyro.conf.arg(metavar="BENCHMARK|ANNOTATIONS")
    ] = None
    """Name of a benchmark, or an annotation file (json, jsonl, csv, tsv or parquet)."""
    list: bool = False
    """List the benchmarks with their sizes, protocol and licence."""
    model: str | None = None
    """Model directory, published weight file, hub:OWNER/NAME/FILE, demo, or
    open_clip:MODEL:WEIGHTS; None: the published 25M video-text model."""
    compare: tuple[str, ...] = ()
    """Further models, measured on the same files and shown side by side."""
    videos: Path | None = None
    """Folder that the videos' paths are relative to; None: the annotation file's folder."""
    annotations: Path | None = None
    """A benchmark's annotation file; None: its published name in the videos' folder or above."""
    to: Path | None = None
    """Folder for the report; None: evaluations/NAME."""
    rerank_top: int | None = None
    """Candidates a query that the matching head ranks; None: 128 for benchmarks, as published."""
    embedding_only: bool = False
    """No reranking: quicker, and 7 to 8 points lower than what is published."""
    score_rule: Literal["matching", "matching+similarity"] = "matching"
    """Score after reranking; matching is the published one."""
    dual_softmax_temperature: float = TEMPERATURE
    """Of the dual softmax."""
    join_captions: bool = False
    """For an annotation file: one text of all captions of a video."""
    max_seconds: float | None = None
    """For an annotation file: only this many seconds from the start of each video."""
    text_tokens: int | None = None
    """Tokens of a text, longer ones are cut; None: as the benchmark or the model has it."""
    any_counts: bool = False
    """Go on although the benchmark has other numbers of videos or captions; the report says so."""
    leave_out_broken: bool = False
    """Go on without videos that are missing or broken."""
    worst: int | None = None
    """Also show so many of the texts that find their video last, with pictures."""
    pairs: Path | None = None
    """Pairs of videos that differ in order or direction alone: their accuracy is added."""
    calibrate: bool = False
    """Also fit what the model's scores mean, on half of the videos, and keep it beside the model:
    `reelscan search --min-score` needs it. Use videos that the model was not trained on."""
    cache: Path | None = None
    """Folder for features; None: $REELSCAN_CACHE or ~/.cache/reelscan/features."""
    batch_size: int = 8
    """Videos embedded at once."""
    workers: int = 2
    """Threads that decode videos."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print json."""


def main(arguments: list[str]) -> int:
    """Measures, prints and saves."""
    command = parse_arguments(Command, "evaluate", arguments)
    if command.list:
        print(benchmark_list())
        return 0
    if command.what is None:
        print(f"{benchmark_list()}\n\n`reelscan evaluate --help` has examples and every option.")
        return 2
    benchmark = chosen_benchmark(command)
    root, annotations = chosen_files(command, benchmark)
    # Read now, so that a wrong file is told before a model is fetched.
    read_benchmark_annotations(
        benchmark, annotations, video_root=root, any_counts=command.any_counts
    )
    pairs = read_pairs(command.pairs) if command.pairs else None
    model_folder = calibrated_folder(command)
    reports = measure_all(command, benchmark, annotations, root)
    label, report = next(iter(reports.items()))
    order = order_of_pairs(report, pairs) if pairs is not None else None
    folder = command.to or Path("evaluations") / benchmark.name
    saved = save_evaluation(folder, benchmark, reports, order=order, worst=command.worst)
    meaning = ""
    if model_folder is not None:
        calibration = calibrate(report, annotations=str(annotations))
        meaning = calibration_text(calibration, save_calibration(model_folder, calibration))
    if command.json:
        others = {name: summary(one, None) for name, one in reports.items() if name != label}
        print(as_json({**summary(report, order), "worst": saved.worst, "compared": others}))
        return 0
    print(f"{benchmark.title} {benchmark.split}".strip() + f", {label}")
    print(table(report, order, published=benchmark.published))
    if len(reports) > 1:
        print(f"\n{comparison(reports)}")
    print(f"\nwritten to {folder}: {', '.join(saved.files)}")
    if meaning:
        print(f"\n{meaning}")
    return 0


def calibrated_folder(command: Command) -> Path | None:
    """Where the calibration goes, if one is asked for."""
    if not command.calibrate:
        return None
    if command.model is not None and command.model.startswith(OPEN_CLIP):
        raise ValueError(f"{command.model} has no model directory to keep a calibration in")
    return choose_model(command.model, on_notice=notice)


def benchmark_list() -> str:
    """A few lines a benchmark."""
    lines = ["benchmarks:"]
    for make in BENCHMARKS.values():
        one = make()
        videos = " or ".join(f"{count:,}" for count in one.video_counts)
        texts = " or ".join(f"{count:,}" for count in one.text_counts)
        joined = ", captions of a video joined" if one.join_captions else ""
        seconds = f", first {one.max_seconds:.0f} s" if one.max_seconds else ""
        lines += [
            f"  {one.name:<13}{one.title}, {one.split}: {videos} videos, {texts} texts",
            f"  {'':<13}{one.frames} frames, {one.max_text_tokens} tokens a text{joined}{seconds}",
            f"  {'':<13}licence: {one.licence}",
        ]
    return "\n".join(lines)


def chosen_benchmark(command: Command) -> Benchmark:
    """What is measured; raises ValueError for options that do not belong to it."""
    what = command.what or ""
    path = Path(what)
    if path.suffix.lower() in _ANNOTATION_SUFFIXES or path.is_file():
        if command.annotations is not None:
            raise ValueError(
                f"{what} is an annotation file, so --annotations {command.annotations} is a second "
                "one: give one of them"
            )
        return Benchmark(
            name=path.stem,
            title=path.name,
            split="",
            join_captions=command.join_captions,
            max_seconds=command.max_seconds,
            max_text_tokens=command.text_tokens,
        )
    benchmark = find_benchmark(what)
    for name, given, own in (
        ("join-captions", command.join_captions, benchmark.join_captions),
        ("max-seconds", command.max_seconds, benchmark.max_seconds),
    ):
        if given and given != own:
            raise ValueError(
                f"--{name} does not go with {benchmark.title}, whose protocol has "
                f"{own or 'nothing of the kind'}: leave it out, or give the annotation file "
                "instead of the benchmark's name to measure in your own way"
            )
    if command.text_tokens is not None:
        return replace(benchmark, max_text_tokens=command.text_tokens)
    return benchmark


def chosen_files(command: Command, benchmark: Benchmark) -> tuple[Path, Path]:
    """The folder of videos and the annotation file; raises ValueError that tells what is needed."""
    if not benchmark.annotation_names:
        annotations = Path(command.what or "")
        return command.videos or annotations.parent, annotations
    if command.videos is None:
        raise ValueError(f"--videos DIR is missing.\n{how_to_get(benchmark)}")
    if not command.videos.is_dir():
        raise ValueError(f"--videos {command.videos} is not a folder.\n{how_to_get(benchmark)}")
    if command.annotations is not None:
        return command.videos, command.annotations
    folders = (command.videos, command.videos.absolute().parent)
    for folder in folders:
        for name in benchmark.annotation_names:
            if (folder / name).is_file():
                return command.videos, folder / name
    raise ValueError(
        f"there is no {' or '.join(benchmark.annotation_names)} in {folders[0]} or {folders[1]}."
        f"\n{how_to_get(benchmark)}"
    )


def measure_all(
    command: Command, benchmark: Benchmark, annotations: Path, root: Path
) -> dict[str, EvaluationReport]:
    """A report for each model by its name, the main one first."""
    device = best_device(command.device)
    cache = command.cache or default_cache()
    with EvaluationBars() as bars:
        loaders = _loaders(command, benchmark, device)
        first_label, first_load = next(iter(loaders.items()))
        encoder = first_load()
        rerank_top = _rerank_top(command, benchmark, encoder, first=True)
        check_settings(
            encoder,
            batch_size=command.batch_size,
            workers=command.workers,
            rerank_top=rerank_top,
            rule=command.score_rule,
        )
        the_set = check_set(
            benchmark,
            annotations,
            video_root=root,
            cache_folder=cache,
            any_counts=command.any_counts,
            leave_out_broken=command.leave_out_broken,
            workers=command.workers,
            on_progress=bars.show,
        )
    with EvaluationBars(first_label if len(loaders) > 1 else "") as bars:
        reports = {first_label: _measure(command, the_set, encoder, cache, True, bars)}
    del encoder
    for label, load in loaders.items():
        if label != first_label:
            # Loaded here and forgotten at once: one model in memory at a time.
            with EvaluationBars(label) as bars:
                reports[label] = _measure(command, the_set, load(), cache, False, bars)
    return reports


def _measure(
    command: Command,
    the_set: EvaluationSet,
    encoder: Encoder,
    cache: Path,
    first: bool,
    bars: EvaluationBars,
) -> EvaluationReport:
    benchmark = the_set.benchmark
    report = evaluate_set(
        encoder,
        the_set,
        cache_folder=cache,
        rerank_top=_rerank_top(command, benchmark, encoder, first=first),
        score_rule=command.score_rule,
        dual_softmax_temperature=command.dual_softmax_temperature,
        leave_out_broken=command.leave_out_broken,
        batch_size=command.batch_size,
        workers=command.workers,
        on_progress=bars.show,
    )
    return replace(report, notices=(*report.notices, *_departures(benchmark, encoder, report)))


def _departures(benchmark: Benchmark, encoder: Encoder, report: EvaluationReport) -> list[str]:
    """Where an evaluation differs from the published one."""
    notices = []
    reads, wanted = encoder.preprocessing.max_text_tokens, benchmark.max_text_tokens
    if wanted is not None and reads < wanted:
        notices.append(f"the model reads {reads} tokens of a text, and {benchmark.title} {wanted}")
    frames = encoder.preprocessing.frames
    if benchmark.published and frames != benchmark.frames:
        notices.append(f"{frames} frames a video; published results have {benchmark.frames}")
    if benchmark.published and report.reranked is None:
        notices.append("published results are reranked; this is by embeddings alone")
    return notices


def _rerank_top(
    command: Command, benchmark: Benchmark, encoder: Encoder, *, first: bool
) -> int | None:
    """The main model must rerank if told to; others, and without being told, where they can."""
    if command.embedding_only:
        if command.rerank_top is not None:
            raise ValueError("--embedding-only and --rerank-top exclude each other; give one")
        return None
    if command.rerank_top is not None and first:
        return command.rerank_top
    wanted = PUBLISHED_RERANK_TOP if benchmark.video_counts else None
    can = isinstance(encoder, MatchingEncoder) and encoder.can_match
    return (command.rerank_top or wanted) if can else None


def _loaders(
    command: Command, benchmark: Benchmark, device: torch.device
) -> Mapping[str, Callable[[], Encoder]]:
    """How each model is loaded, by the name that stands in the report."""
    names = [command.model, *command.compare]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"{', '.join(map(str, doubled))} is named twice: name each model once")
    return {
        name or "published 25M": _loader(name, benchmark=benchmark, device=device) for name in names
    }


def _loader(
    name: str | None, *, benchmark: Benchmark, device: torch.device
) -> Callable[[], Encoder]:
    if name is not None and name.startswith(OPEN_CLIP):
        check_open_clip(name)
        return lambda: choose_any_encoder(name, device=device, frames=benchmark.frames)
    return lambda: _fitted(choose_encoder(name, device=device, on_notice=notice), benchmark)


def _fitted(encoder: VideoTextEncoder, benchmark: Benchmark) -> VideoTextEncoder:
    wanted = benchmark.max_text_tokens
    return encoder if wanted is None else encoder.with_text_length(wanted)
