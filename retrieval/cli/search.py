"""`reelscan search`: finds moments in a collection."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reelscan.index.collection import Collection
from reelscan.retrieval.cli.arguments import as_json, parse_arguments
from reelscan.retrieval.cli.device import best_device
from reelscan.retrieval.cli.progress import notice
from reelscan.retrieval.model_choice import choose_encoder
from reelscan.retrieval.searcher import Searcher, SearchHit


@dataclass(frozen=True, kw_only=True)
class Command:
    """Finds the moments of a collection that a sentence describes, or that look like a video.

    Examples:
      reelscan search films.collection "a red square moves left, then stops" --top 10
      reelscan search films.collection --video example.mp4
      reelscan search films.collection "a dog catches a ball" --rerank --json
    """

    collection: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="COLLECTION")]
    """Folder made by `reelscan index`."""
    query: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="SENTENCE")] = None
    """What to look for."""
    video: Path | None = None
    """Look for moments like this video instead."""
    top: int = 10
    """Hits to show."""
    one_per_video: bool = False
    """Only the best moment of each video."""
    rerank: bool = False
    """Read the best candidates again with the matching head: better and slower."""
    rerank_candidates: int = 64
    """Moments that --rerank reads."""
    model: str | None = None
    """Model directory, weight file, hub:OWNER/NAME/FILE, or demo; None: the model that the
    collection was made with."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print json: [{video, start_seconds, end_seconds, score, path}, ...]."""


def main(arguments: list[str]) -> int:
    """Prints the hits, best first."""
    command = parse_arguments(Command, "search", arguments)
    if (command.query is None) == (command.video is None):
        raise ValueError("give either a sentence or --video, what to look for")
    with Collection.open(command.collection, read_only=True) as collection:
        model = command.model or collection.model_path()
        encoder = choose_encoder(model, device=best_device(command.device), on_notice=notice)
        searcher = Searcher(collection, encoder)
        hits = searcher.search(
            command.query if command.query is not None else checked_path(command.video),
            top=command.top,
            one_per_video=command.one_per_video,
            rerank=command.rerank,
            rerank_candidates=command.rerank_candidates,
        )
    print(as_json(hits) if command.json else hits_text(hits))
    return 0


def checked_path(video: Path | None) -> Path:
    assert video is not None, "one of the two was given"
    return video


def hits_text(hits: list[SearchHit]) -> str:
    """A line a hit: score, time range, video."""
    return "\n".join(
        f"{hit.score:7.3f}  {clock(hit.start_seconds)} - {clock(hit.end_seconds)}  {hit.video}"
        for hit in hits
    )


def clock(seconds: float) -> str:
    """`3725.5` -> ` 1:02:05.5`."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:2d}:{minutes:02d}:{rest:04.1f}"
