"""`reelscan demo`: the whole way on a small corpus of real videos, rendered here."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from reelscan.index.collection import Collection
from reelscan.index.embed import EmbedProgress, embed_folder
from reelscan.models.encoder import VideoTextEncoder
from reelscan.models.model_directory import load_model
from reelscan.pretrain.annotations import read_annotations
from reelscan.pretrain.clip_training import save_teacher, train_clip
from reelscan.pretrain.demo_corpus.corpus import Corpus, write_corpus
from reelscan.pretrain.demo_recipe import DemoRecipe, demo_recipe
from reelscan.pretrain.shard_writer import write_shards
from reelscan.pretrain.stages import PretrainConfig
from reelscan.retrieval.cli.arguments import as_json, parse_arguments
from reelscan.retrieval.cli.pretrain import run_stage
from reelscan.retrieval.cli.progress import StageProgress, duration_text
from reelscan.retrieval.cli.retrieval_table import order_of_pairs, summary, table
from reelscan.retrieval.cli.search import hits_text
from reelscan.retrieval.contact_sheet import SheetRow, write_contact_sheet
from reelscan.retrieval.evaluate import evaluate
from reelscan.retrieval.evaluation_report import EvaluationProgress, EvaluationReport
from reelscan.retrieval.order_pairs import OrderReport, read_pairs
from reelscan.retrieval.searcher import Searcher


@dataclass(frozen=True, kw_only=True)
class Command:
    """Shows everything once, on a few thousand short clips that it renders itself.

    Renders videos with captions, writes shards, trains a small CLIP as the teacher, pretrains a
    small VideoMamba, embeds held-out videos, evaluates zero-shot retrieval and runs three
    searches. Takes minutes on two cores. Stopped with Ctrl-C, it goes on when run again.

    Examples:
      reelscan demo
      reelscan demo --to /tmp/demo --seed 1
      reelscan search demo-run/test.collection "a red circle moves left"
    """

    to: Path = Path("demo-run")
    """Folder for everything that the demo makes; finished parts of it are used again."""
    seed: int = 0
    """Of the corpus and of all training."""
    size: str = "standard"
    """standard, or smoke: a few clips and steps, to see that all parts run (learns nothing)."""


@dataclass(frozen=True)
class DemoFolder:
    """Where the demo's parts lie."""

    root: Path

    corpus = property(lambda self: self.root / "corpus")
    shards = property(lambda self: self.root / "shards")
    teacher = property(lambda self: self.root / "teacher")
    collection = property(lambda self: self.root / "test.collection")
    results = property(lambda self: self.root / "results.json")
    searches = property(lambda self: self.root / "searches.png")
