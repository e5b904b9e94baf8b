"""`reelscan search`: finds moments in a collection."""

from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reelscan.models.encoder import VideoTextEncoder
from reelscan.retrieval.calibration import load_calibration
from reelscan.retrieval.cli.arguments import as_json, parse_arguments
from reelscan.retrieval.cli.device import best_device
from reelscan.retrieval.cli.hits_text import hits_text, videos_text
from reelscan.retrieval.cli.index_actions import bytes_of
from reelscan.retrieval.cli.progress import notice
from reelscan.retrieval.collection_choice import open_searchable
from reelscan.retrieval.feature_cache import default_cache
from reelscan.retrieval.model_choice import choose_any_encoder, choose_model
from reelscan.retrieval.query import Query, parse_part
from reelscan.retrieval.searcher import Searcher, SearchOptions
from reelscan.retrieval.token_cache import TokenCache


@dataclass(frozen=True, kw_only=True)
class Command:
    """Finds the moments of a collection that a sentence describes, or that look like an example.

    What is behind --like and --not is a sentence, a picture or a video, `film.mp4#t=12,20` a part
    of it in seconds, and `^2` behind it makes it count twice.

    Examples:
      reelscan search films.collection "a red square moves left, then stops" --top 10
      reelscan search films.collection "a dog" --like park.jpg --not "indoors^0.5"
      reelscan search films.collection --like example.mp4#t=12,20 --group video
      reelscan search films.collection "a dog catches a ball" --rerank --min-score 0.9 --json
      reelscan search films.collection "a lorry" --where "camera = 'north' and start >= 3600"
    """

    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="COLLECTION")]
    """Folder made by `reelscan index`, or milvus:ADDRESS#NAME (docs/scale.md)."""
    query: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="SENTENCE")] = None
    """What to look for."""
    like: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Also look for this: a sentence, picture or video. May be given several times."""
    unlike: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(name="not")] = ()
    """Look for what is unlike this. May be given several times."""
    video: Path | None = None
    """The same as --like, for a video."""
    top: int = 10
    """Moments to show; with --group video, videos."""
    group: Literal["none", "video"] = "none"
    """video: show videos, each with its moments."""
    moments_per_video: int | None = None
    """With --group video: so many moments of each; None: all that were found."""
    one_per_video: bool = False
    """Only the best moment of each video."""
    where: str | None = None
    """Only segments that meet a condition on video, start, end, duration (seconds) or what
    `reelscan index set` recorded: = != < <= > >= in like is null, and, or, not, parentheses."""
    no_join: bool = False
    """Show neighbouring segments as they are, rather than as one moment."""
    fold_duplicates: bool = False
    """Show what looks the same once."""
    min_score: float | None = None
    """Least probability, 0 to 1 (docs/search.md); needs `reelscan evaluate --calibrate` once."""
    rerank: bool = False
    """Read the best candidates again with the matching head: better and slower."""
    rerank_candidates: int = 64
    """Segments that --rerank reads."""
    token_cache: str = "1GiB"
    """Room for what --rerank has read, so that it is quick the next time; 0: keep nothing."""
    model: str | None = None
    """Model directory, weight file, hub:OWNER/NAME/FILE, demo, or open_clip:MODEL:WEIGHTS; None:
    the model that the collection was made with."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print json: [{video, start_seconds, end_seconds, score, probability, best_frame_seconds,
    path, ...}]; with --group video [{video, path, score, moments: [...]}, ...]."""


def main(arguments: list[str]) -> int:
    """Prints the hits, best first."""
    command = parse_arguments(Command, "search", arguments)
    query = wanted(command)
    options = SearchOptions(
        rerank=command.rerank,
        rerank_candidates=command.rerank_candidates,
        join=not command.no_join,
        fold_duplicates=command.fold_duplicates,
        min_score=command.min_score,
        where=command.where,
    )
    cache_bytes = bytes_of(command.token_cache)
    with open_searchable(command.collection) as collection:
        model = command.model or collection.model_path()
        encoder = choose_any_encoder(model, device=best_device(command.device), on_notice=notice)
        calibration = None
        if isinstance(encoder, VideoTextEncoder):
            folder = choose_model(model, on_notice=notice)
            calibration = load_calibration(folder, fingerprint=encoder.fingerprint)
        with token_cache(cache_bytes if command.rerank else 0) as cache:
            searcher = Searcher(collection, encoder, calibration=calibration, token_cache=cache)
            show(command, searcher, query, options)
    return 0


def wanted(command: Command) -> Query:
    """The query that the options make; raises ValueError if they make none."""
    examples = [*command.like, *([str(command.video)] if command.video is not None else [])]
    liked = [parse_part(words) for words in examples]
    if command.query is not None:
        liked = [parse_part(command.query), *liked]
    if not liked:
        raise ValueError("give a sentence, or --like with a sentence, picture or video")
    unliked = [parse_part(words, wanted=False) for words in command.unlike]
    return Query(parts=(*liked, *unliked))


def token_cache(limit_bytes: int) -> "closing[TokenCache] | nullcontext[None]":
    if limit_bytes == 0:
        return nullcontext(None)
    return closing(TokenCache(default_cache() / "tokens.sqlite", limit_bytes=limit_bytes))


def show(command: Command, searcher: Searcher, query: Query, options: SearchOptions) -> None:
    if command.group == "video" or command.moments_per_video is not None:
        videos = searcher.search_videos(
            query,
            top=command.top,
            moments_per_video=1 if command.one_per_video else command.moments_per_video,
            options=options,
        )
        print(as_json(videos) if command.json else videos_text(videos))
        return
    hits = searcher.search(
        query, top=command.top, one_per_video=command.one_per_video, options=options
    )
    print(as_json(hits) if command.json else hits_text(hits))
