"""`reelscan index export|import|merge|dedup`: embeddings out and in, copies among the videos."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from reelscan.index.collection import Collection
from reelscan.index.copy_rows import CollectionTarget, CopyReport, VideoRows, copy_videos
from reelscan.index.duplicates import Duplicate, find_duplicates, set_duplicates_aside
from reelscan.index.export import ExportFormat, export_rows
from reelscan.index.import_rows import Embeddings, find_embeddings
from reelscan.index.manifest import MANIFEST_NAME, FingerprintMismatch, Manifest
from reelscan.index.milvus_collection import MilvusCollection
from reelscan.index.shards import find_shards, merge_shards, shared_manifest
from reelscan.index.stored_rows import by_video
from reelscan.index.windowing import Windowing
from reelscan.retrieval.cli.arguments import as_json
from reelscan.retrieval.cli.progress import StageProgress, notice
from reelscan.retrieval.collection_choice import MilvusPlace, milvus_place
from reelscan.retrieval.model_choice import choose_any_encoder

CollectionPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="COLLECTION")]


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes a collection's embeddings for other programs.

    Columns: id, video, start_seconds, end_seconds, metadata, ..., vector. npy has the vectors in
    img_emb/img_emb_N.npy and the rest in metadata/metadata_N.parquet, as clip-retrieval has them.

    Examples:
      reelscan index export films.collection --to embeddings
      reelscan index export films.collection --to embeddings --format npy
      reelscan index export films.collection --to milvus:http://host:19530#films
    """

    collection: CollectionPath
    """Folder made by `reelscan index`."""
    to: str
    """A new folder; or milvus:ADDRESS#NAME, which is made or brought up to date."""
    format: ExportFormat = "parquet"
    """parquet: everything in part-N.parquet."""


@dataclass(frozen=True, kw_only=True)
class Import:
    """Reads embeddings into a collection, which is made if it is not there.

    Reads what `reelscan index export` wrote, parquet files with a column `vector`, and folders of
    clip-retrieval (img_emb_N.npy, metadata_N.parquet). Stopped with Ctrl-C, it goes on when run
    again.

    Examples:
      reelscan index import embeddings --to copy.collection
      reelscan index import clip-folder --to films.collection --model open_clip:ViT-B-32:openai
      reelscan index import milvus:films.db#films --to films.collection
    """

    embeddings: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="EMBEDDINGS")]
    """A folder, a parquet file, or milvus:ADDRESS#NAME."""
    to: Path
    """The collection."""
    model: str | None = None
    """What made the embeddings, where they do not say it: a model directory, ...,
    open_clip:MODEL:WEIGHTS."""
    videos: Path | None = None
    """Folder that the videos' paths are relative to; None: as it was, or this folder."""
    video_column: str | None = None
    """Column that names the video; None: video, image_path, path, key, ... , whichever is there."""


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """Finds videos that are copies of others, or parts of them, by how they look.

    Changes nothing unless told to set them aside: then they are no longer found, and stay out
    until their files change (`reelscan index FOLDER --retry-quarantined` takes them in again).

    Examples:
      reelscan index dedup films.collection
      reelscan index dedup films.collection --share 0.5 --set-aside
    """

    collection: CollectionPath
    """Folder made by `reelscan index`."""
    similarity: float = 0.98
    """Cosine from which two segments look the same."""
    share: float = 0.9
    """How much of a video must look the same, 0 to 1."""
    set_aside: bool = False
    """Take the copies out of the collection; files stay where they are."""
    json: bool = False
    """Print json."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Makes one collection of the shards that `reelscan index --shard` wrote, or adds them to one.

    Each video is stored once, however often this is run. Stopped with Ctrl-C, it goes on when run
    again.

    Examples:
      reelscan index merge films.shards --to films.collection
    """

    shards: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SHARDS")]
    """The folder of shards."""
    to: Path
    """The collection; made if it is not there."""
    unfinished: bool = False
    """Take what there is, although shards are missing or not finished."""


INTERCHANGE_ACTIONS: dict[str, type[Any]] = {
    "export": Export,
    "import": Import,
    "dedup": Dedup,
    "merge": Merge,
}


def run_interchange(command: Any) -> int:
    """Does one of `INTERCHANGE_ACTIONS` and prints what was done."""
    match command:
        case Export():
            print(export(command))
        case Import():
            print(import_into(command))
        case Dedup():
            print(dedup(command))
        case Merge():
            print(merge(command))
    return 0


def merge(command: Merge) -> str:
    shards = find_shards(command.shards, unfinished=command.unfinished)
    manifest = shared_manifest(shards)
    with (
        open_or_create(command.to, manifest) as collection,
        StageProgress("merging", unit="segments") as bar,
    ):
        report = merge_shards(shards, collection, on_progress=bar.update)
        collection.write_derived_files()
        total = len(collection)
    return (
        f"{command.to}: {report.videos} videos merged ({report.segments} segments) of "
        f"{len(shards)} shards, {report.unchanged} unchanged, {report.quarantined} set aside; "
        f"{total} segments now"
    )


def export(command: Export) -> str:
    place = milvus_place(command.to)
    with (
        Collection.open(command.collection, read_only=True) as collection,
        StageProgress("exporting", unit="segments", total=len(collection)) as bar,
    ):
        if place is not None:
            with milvus_target(place, collection.manifest) as target:
                copied = copy_videos(by_video(collection.rows()), target, on_progress=bar.update)
            return f"{command.to}: {copied_text(copied)}"
        report = export_rows(
            collection.rows(),
            Path(command.to),
            manifest=collection.manifest,
            format=command.format,
            on_progress=bar.update,
        )
    return f"{command.to}: {report.rows} segments in {report.files} {command.format} files"


def milvus_target(place: MilvusPlace, manifest: Manifest) -> MilvusCollection:
    """The collection in Milvus, made if need be; raises ValueError if it is another model's."""
    try:
        target = place.create(manifest)
    except FileExistsError:
        target = place.open()
    if target.manifest.fingerprint != manifest.fingerprint:
        target.close()
        raise FingerprintMismatch(
            collection=target.manifest.fingerprint,
            encoder=manifest.fingerprint,
            path=Path(target.name),
        )
    return target


def import_into(command: Import) -> str:
    place = milvus_place(command.embeddings)
    if place is not None:
        with place.open() as source:
            return copy_into(command, source.manifest, source.videos_with_rows(), len(source))
    embeddings = find_embeddings(Path(command.embeddings))
    manifest = embeddings.manifest
    if manifest is None or command.model is not None:
        manifest = foreign_manifest(command, embeddings)
    videos = by_video(embeddings.stream(video_column=command.video_column))
    return copy_into(command, manifest, videos, embeddings.rows)


def copy_into(command: Import, manifest: Manifest, videos: Iterable[VideoRows], rows: int) -> str:
    if command.videos is not None:
        manifest = replace(manifest, videos_root=str(command.videos.resolve()))
    with (
        open_or_create(command.to, manifest) as collection,
        StageProgress("importing", unit="segments", total=rows) as bar,
    ):
        copied = copy_videos(videos, CollectionTarget(collection), on_progress=bar.update)
        collection.write_derived_files()
    return f"{command.to}: {copied_text(copied)}"


def copied_text(report: CopyReport) -> str:
    return f"{report.videos} videos imported ({report.rows} segments), {report.unchanged} unchanged"


def open_or_create(path: Path, manifest: Manifest) -> Collection:
    """Raises ValueError if another model made it."""
    if not (path / MANIFEST_NAME).exists():
        return Collection.create(path, manifest=manifest, on_notice=notice)
    collection = Collection.open(path, fingerprint=manifest.fingerprint, on_notice=notice)
    if collection.manifest.embed_dim != manifest.embed_dim:
        collection.close()
        raise ValueError(
            f"the vectors are {manifest.embed_dim} wide, and those of {path} "
            f"{collection.manifest.embed_dim}: they come from another model"
        )
    return collection


def foreign_manifest(command: Import, embeddings: Embeddings) -> Manifest:
    if command.model is None:
        raise ValueError(
            f"{command.embeddings} does not say which model made it: name it (--model), for a text "
            "can be compared only with vectors of the same model"
        )
    encoder = choose_any_encoder(command.model, device="cpu", on_notice=notice)
    if encoder.embed_dim != embeddings.embed_dim:
        raise ValueError(
            f"{command.model} gives vectors {encoder.embed_dim} wide, and {command.embeddings} "
            f"holds {embeddings.embed_dim}: another model made them"
        )
    return Manifest(
        fingerprint=encoder.fingerprint,
        embed_dim=encoder.embed_dim,
        videos_root=str(Path.cwd()),
        windowing=Windowing(window_seconds=None),
    )


def dedup(command: Dedup) -> str:
    with Collection.open(
        command.collection, read_only=not command.set_aside, on_notice=notice
    ) as collection:
        with StageProgress("comparing", unit="segments", total=len(collection)) as bar:
            found = find_duplicates(
                collection,
                similarity=command.similarity,
                share=command.share,
                on_progress=bar.update,
            )
        if command.set_aside:
            set_duplicates_aside(collection, found)
            collection.write_derived_files()
    return as_json(found) if command.json else dedup_text(found, command)


def dedup_text(found: list[Duplicate], command: Dedup) -> str:
    if not found:
        return f"{command.collection}: no video looks as another one"
    lines = [f"{one.video}  looks as {one.kept} ({100 * one.share:.0f} %)" for one in found]
    done = "set aside" if command.set_aside else "--set-aside takes them out"
    return "\n".join([*lines, f"{len(found)} videos; {done}"])
