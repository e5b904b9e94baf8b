"""`reelscan index`: embeds a folder of videos into a collection, or looks after one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from reelscan.index.embed import EmbedProgress, EmbedReport, embed_folder
from reelscan.index.shards import mark_finished, mark_unfinished, parse_shard
from reelscan.index.windowing import Windowing
from reelscan.models.model_directory import load_model
from reelscan.retrieval.cli.arguments import as_json, parse_action, parse_arguments
from reelscan.retrieval.cli.device import best_device
from reelscan.retrieval.cli.index_actions import ACTIONS, bytes_of, run_action
from reelscan.retrieval.cli.interchange_actions import INTERCHANGE_ACTIONS, run_interchange
from reelscan.retrieval.cli.progress import StageProgress, notice
from reelscan.retrieval.model_choice import choose_model


@dataclass(frozen=True, kw_only=True)
class Command:
    """Embeds a folder of videos into a collection that `reelscan search` reads.

    Run it again to add what is new and replace what has changed. A video that cannot be read is
    set aside with its reason and the rest goes on. Ctrl-C keeps every finished video.

    Examples:
      reelscan index ~/films --to films.collection --model demo-run/pretrain/model
      reelscan index ~/films --to films.collection --model my-model --window-seconds 4
      reelscan index ~/films --to films.collection --segments shots --window-seconds 20
      reelscan index ~/films --to films.shards --shard 3/8
      reelscan index merge films.shards --to films.collection

    Looking after a collection (each with --help; a folder of such a name is given as ./check):
      reelscan index check|stats|compact|rebuild COLLECTION
      reelscan index set COLLECTION "north/*" camera=north
      reelscan index forget COLLECTION "holiday/*"
      reelscan index dedup COLLECTION
      reelscan index export COLLECTION --to EMBEDDINGS; reelscan index import EMBEDDINGS --to COPY
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of videos, with its subfolders."""
    to: Path
    """The collection, a folder of its own; made if it is not there."""
    model: str | None = None
    """Model directory, published weight file, hub:OWNER/NAME/FILE, or demo: what `reelscan demo`
    left in this folder; None: the published 25M video-text model, fetched once."""
    cut: Windowing = field(default_factory=Windowing)
    """How videos are cut into segments."""
    shard: str | None = None
    """3/8: only the third of eight shards, into its own part of the folder --to; `reelscan index
    merge` makes one collection of all. Each machine or array job does one."""
    batch_size: int = 8
    """Segments embedded at once."""
    workers: int = 2
    """Threads that decode videos."""
    remove_missing: bool = False
    """Forget videos that the folder no longer holds."""
    retry_quarantined: bool = False
    """Try again the videos that were set aside earlier, changed or not."""
    compare_content: bool = False
    """Find changed videos by content (sha256), not by size and time."""
    memory: str | None = None
    """What the search index may take, as 4GiB or 500MiB; None: as before (4GiB at first)."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print the report as json."""


def main(arguments: list[str]) -> int:
    """Embeds and prints what was done; 1 if a video was set aside in this run."""
    if arguments and arguments[0] in INTERCHANGE_ACTIONS:
        return run_interchange(parse_action(INTERCHANGE_ACTIONS, "index", arguments))
    if arguments and arguments[0] in ACTIONS:
        return run_action(parse_action(ACTIONS, "index", arguments))
    command = parse_arguments(Command, "index", arguments)
    device = best_device(command.device)
    model = choose_model(command.model, on_notice=notice)
    encoder = load_model(model, device=device)
    shard = None if command.shard is None else parse_shard(command.shard)
    to = command.to if shard is None else shard.path(command.to)
    mark_unfinished(to)
    with StageProgress("embedding", unit="videos") as bar:

        def show(progress: EmbedProgress) -> None:
            note = f"{progress.segments} segments, {progress.current}"
            bar.update(progress.done_videos, progress.total_videos, note=note)

        report = embed_folder(
            encoder,
            command.folder,
            to,
            model_path=model,
            windowing=command.cut,
            batch_size=command.batch_size,
            workers=command.workers,
            compare_content=command.compare_content,
            remove_missing=command.remove_missing,
            retry_quarantined=command.retry_quarantined,
            shard=shard,
            memory_bytes=None if command.memory is None else bytes_of(command.memory),
            on_progress=show,
        )
    if shard is not None:
        mark_finished(to, shard)
    print(as_json(report) if command.json else report_text(report, to))
    return 1 if report.quarantined else 0


def report_text(report: EmbedReport, collection: Path) -> str:
    lines = [
        f"{collection}: {report.embedded} videos embedded ({report.segments} segments), "
        f"{report.unchanged} unchanged, in {report.seconds:.1f} s"
    ]
    if report.still_quarantined:
        lines.append(
            f"{report.still_quarantined} set aside earlier were not tried again "
            "(--retry-quarantined does)"
        )
    if report.missing:
        lines.append(
            f"{len(report.missing)} videos are gone from the folder and kept "
            "(--remove-missing forgets them)"
        )
    if report.quarantined:
        lines.append(f"{len(report.quarantined)} could not be read:")
        lines += [f"  {entry.video}: {entry.reason}" for entry in report.quarantined]
    return "\n".join(lines)
