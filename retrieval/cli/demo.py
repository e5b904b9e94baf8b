"""`reelscan demo`: the whole way on a small corpus of real videos, rendered here."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from reelscan.index.collection import Collection
from reelscan.index.embed import EmbedProgress, embed_folder
from reelscan.models.atomic_file import write_atomically
from reelscan.models.encoder import VideoTextEncoder
from reelscan.models.model_directory import load_model
from reelscan.models.tokenizer import Tokenizer
from reelscan.pretrain.annotations import read_annotations
from reelscan.pretrain.clip_training import save_teacher, train_clip
from reelscan.pretrain.demo_corpus.corpus import Corpus, write_corpus
from reelscan.pretrain.demo_recipe import (
    DemoRecipe,
    masked_stage,
    smoke_demo,
    standard_demo,
    unmasked_stage,
)
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.shard_writer import write_shards
from reelscan.retrieval.cli.arguments import as_json, parse_arguments
from reelscan.retrieval.cli.pretrain import run_stage
from reelscan.retrieval.cli.progress import StageProgress, duration_text
from reelscan.retrieval.cli.retrieval_table import order_of_pairs, summary, table
from reelscan.retrieval.contact_sheet import SheetRow, write_contact_sheet
from reelscan.retrieval.evaluate import evaluate
from reelscan.retrieval.evaluation_report import EvaluationProgress, EvaluationReport
from reelscan.retrieval.order_pairs import OrderReport, read_pairs
from reelscan.retrieval.searcher import Searcher
from reelscan.video.decode import read_frame

COLLECTION, SEARCHES = "test.collection", "searches.png"


@dataclass(frozen=True, kw_only=True)
class Command:
    """Shows everything once, on a few thousand short clips that it renders itself.

    Renders videos with captions, writes shards, trains a small CLIP as the teacher, pretrains a
    small VideoMamba, embeds held-out videos into a collection, measures zero-shot retrieval and
    runs three searches. Takes minutes on two cores. Stopped with Ctrl-C, it goes on when run again.

    Examples:
      reelscan demo
      reelscan demo --to /tmp/demo --seed 1
      reelscan search demo-run/test.collection "a red circle moves left"
    """

    to: Path = Path("demo-run")
    """Folder for all that the demo makes; finished parts of it are used again."""
    seed: int = 0
    """Of the corpus and of all training."""
    size: Literal["standard", "smoke"] = "standard"
    """smoke: a few clips and steps, to see that every part runs; learns nothing."""
    json: bool = False
    """Print the results as json."""


def main(arguments: list[str]) -> int:
    """Runs the demo and prints its results."""
    command = parse_arguments(Command, "demo", arguments)
    recipe = (standard_demo if command.size == "standard" else smoke_demo)(seed=command.seed)
    root, seconds = command.to, StageSeconds()
    with seconds.of("corpus"):
        corpus = render_videos(root, recipe)
    with seconds.of("shards"):
        shards = write_training_shards(root, corpus)
    with seconds.of("teacher"):
        teacher = train_teacher(root, corpus, recipe)
    with seconds.of("pretraining"):
        model = pretrain_model(root, corpus, recipe, shards=shards, teacher=teacher)
    encoder = load_model(model)
    with seconds.of("evaluation"):
        report, order = measure(encoder, corpus)
    with seconds.of("index and search"):
        searches = index_and_search(root, corpus, encoder, model=model)
    results = {**summary(report, order), "stage_seconds": seconds.stages}
    write_atomically(root / "results.json", as_json(results).encode())
    if command.json:
        print(as_json(results))
        return 0
    print(f"\n{table(report, order)}\n\n{searches}\n")
    print(f"pictures of the searches: {root / SEARCHES}")
    print(f"took {duration_text(sum(seconds.stages.values()))}; search on:")
    print(f'  reelscan search {root / COLLECTION} "a red circle moves left"')
    return 0


class StageSeconds:
    """How long each part took."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.stages[stage] = round(time.monotonic() - started, 1)


def render_videos(root: Path, recipe: DemoRecipe) -> Corpus:
    with StageProgress("1 rendering videos", unit="videos") as bar:
        return write_corpus(root / "corpus", config=recipe.corpus, on_progress=bar.update)


def write_training_shards(root: Path, corpus: Corpus) -> Path:
    videos = read_annotations(corpus.train_annotations, root=corpus.root)
    with StageProgress("2 writing shards", unit="videos") as bar:
        report = write_shards(
            videos,
            root / "shards",
            root=corpus.root,
            name="demo",
            workers=2,
            on_progress=lambda done, total, rejected: bar.update(done, total),
        )
    return report.index_path


def train_teacher(root: Path, corpus: Corpus, recipe: DemoRecipe) -> Path:
    """A tiny CLIP of the training frames; its image tower is the teacher."""
    path = root / "teacher.safetensors"
    if path.exists():
        return path
    frames, captions = static_frames(corpus, size=recipe.teacher.vision.image_size)
    with StageProgress("3 training a teacher", unit="steps", total=recipe.teacher.steps) as bar:
        report = train_clip(
            frames,
            captions,
            config=recipe.teacher,
            on_step=lambda step, loss: bar.update(step, note=f"loss {loss:.3f}"),
        )
    save_teacher(report.teacher, path)
    return path


def pretrain_model(
    root: Path, corpus: Corpus, recipe: DemoRecipe, *, shards: Path, teacher: Path
) -> Path:
    """The masked and the unmasked stage; returns the model directory."""
    videos = read_annotations(corpus.train_annotations, root=corpus.root)
    captions = [caption for video in videos for caption in video.captions]
    vocabulary = root / "vocabulary.txt"
    Tokenizer.bert_uncased().restricted_to(captions).save(vocabulary)
    masked = masked_stage(recipe, shards=shards, teacher=teacher, vocabulary=vocabulary)
    start = finish_stage("4 pretraining, masked", masked, root / "pretrain-masked")
    unmasked = unmasked_stage(recipe, shards=shards, initial_model=start, vocabulary=vocabulary)
    return finish_stage("5 pretraining, whole", unmasked, root / "pretrain")


def finish_stage(label: str, config: PretrainConfig, out: Path) -> Path:
    """Trains a stage, or what is left of it; returns its model directory."""
    if not (out / "model").exists():
        report = run_stage(label, config, out, resume=True)
        if report.interrupted:
            raise KeyboardInterrupt
    return out / "model"


def measure(encoder: VideoTextEncoder, corpus: Corpus) -> tuple[EvaluationReport, OrderReport]:
    """Zero-shot retrieval among the held-out videos, and the pairs."""
    with StageProgress("6 evaluating", unit="videos") as bar:

        def show(progress: EvaluationProgress) -> None:
            bar.update(progress.done, progress.total, note=progress.stage)

        report = evaluate(
            encoder,
            corpus.test_annotations,
            video_root=corpus.root,
            on_progress=show,
        )
    return report, order_of_pairs(report, read_pairs(corpus.pairs))


def index_and_search(root: Path, corpus: Corpus, encoder: VideoTextEncoder, *, model: Path) -> str:
    """A collection of the held-out videos and three searches in it, as text and as a picture."""
    with StageProgress("7 indexing", unit="videos") as bar:

        def show(progress: EmbedProgress) -> None:
            bar.update(progress.done_videos, progress.total_videos)

        embed_folder(
            encoder,
            corpus.root / "test",
            root / COLLECTION,
            model_path=model,
            window_seconds=None,
            on_progress=show,
        )
    annotated = json.loads(corpus.test_annotations.read_text())
    captions = {Path(entry["video"]).name: entry["caption"] for entry in annotated}
    with Collection.open(root / COLLECTION, read_only=True) as collection:
        searcher = Searcher(collection, encoder)
        queries = chosen_queries(corpus, captions)
        rows = [SheetRow(title=query, hits=searcher.search(query, top=5)) for query in queries]
    write_contact_sheet(root / SEARCHES, rows, columns=4, thumbnail_width=384, frames_per_hit=4)
    return "\n\n".join(search_text(row, captions) for row in rows)


def static_frames(corpus: Corpus, *, size: int) -> tuple[torch.Tensor, list[str]]:
    """A frame of each training video, uint8 [N, 3, S, S], and a caption of what it shows."""
    entries = [json.loads(line) for line in corpus.static_annotations.read_text().splitlines()]
    frames = [
        read_frame(corpus.root / entry["video"], entry["time_seconds"], frame_size=size)
        for entry in entries
    ]
    return torch.stack(frames), [entry["caption"][0] for entry in entries]


def chosen_queries(corpus: Corpus, captions: Mapping[str, str]) -> list[str]:
    """Both sides of a pair that differs in direction, and one side of a pair of orders."""
    pairs = read_pairs(corpus.pairs)
    direction, order = (
        next(pair for pair in pairs if pair.kind == kind) for kind in ("direction", "order")
    )
    return [captions[Path(video).name] for video in (*direction.videos, order.videos[0])]


def search_text(row: SheetRow, captions: Mapping[str, str]) -> str:
    """The query and its hits, each with what the video really shows."""
    lines = [f'"{row.title}"']
    for hit in row.hits:
        told = captions[hit.video]
        mark = "*" if told == row.title else " "
        lines.append(f"  {mark} {hit.score:6.3f}  {hit.video}  ({told})")
    return "\n".join(lines)
