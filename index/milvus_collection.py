"""A collection in Milvus: embedded in a file, or a cluster behind an address.

Its rows are those of a `Collection`, so that either becomes the other (`copy_rows.py`), and
`Searcher` searches both. Needs the extra `milvus`. N segments, Q queries, E embedding width.
"""

import base64
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reelscan.index.copy_rows import VideoRows
from reelscan.index.manifest import (
    CollectionError,
    FingerprintMismatch,
    Manifest,
    manifest_from_plain,
)
from reelscan.index.milvus_filter import milvus_filter, quoted
from reelscan.index.segment_hits import SegmentHit
from reelscan.index.segments import NewSegment
from reelscan.index.video_files import VideoFile

MOST_HITS = 16384
"""More Milvus does not answer in one search."""
_ROWS_AT_ONCE = 1000
_VIDEOS_AT_ONCE = 100
_LONGEST_TEXT = 65535
_ROW = ("video", "start_seconds", "end_seconds", "metadata")
_WHOLE_ROW = (*_ROW, "place", "record", "frame_codes", "vector")
_IDS = 2**62
_MANIFEST = "reelscan.manifest"


class MilvusCollection:
    """An open collection; made by `create` or `open`."""

    def __init__(self, client: Any, collection: str, *, address: str, manifest: Manifest) -> None:
        self.manifest = manifest
        self._client = client
        self._collection = collection
        self._address = address

    @classmethod
    def create(
        cls, address: str, *, collection: str, manifest: Manifest, token: str = ""
    ) -> "MilvusCollection":
        """Make an empty one. `address`: a file ending in .db, or http://host:19530.

        Raises FileExistsError if it is there, ImportError without the extra.
        """
        client = _connect(address, token)
        if client.has_collection(collection):
            client.close()
            raise FileExistsError(f"{address} has a collection {collection!r} already")
        kinds = _pymilvus().DataType
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("video", kinds.VARCHAR, max_length=_LONGEST_TEXT)
        for name in ("start_seconds", "end_seconds", "duration_seconds"):
            schema.add_field(name, kinds.DOUBLE)
        schema.add_field("place", kinds.INT64)
        schema.add_field("metadata", kinds.JSON)
        for name in ("record", "frame_codes"):
            schema.add_field(name, kinds.VARCHAR, max_length=_LONGEST_TEXT)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=manifest.embed_dim)
        indexes = client.prepare_index_params()
        indexes.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        client.create_collection(
            collection,
            schema=schema,
            index_params=indexes,
            consistency_level="Strong",
            properties={_MANIFEST: _described(manifest)},
        )
        return cls(client, collection, address=address, manifest=manifest)

    @classmethod
    def open(
        cls, address: str, *, collection: str, fingerprint: str | None = None, token: str = ""
    ) -> "MilvusCollection":
        """Open one; raises CollectionError if there is none, FingerprintMismatch, ImportError."""
        if _is_file(address) and not Path(address).exists():
            raise CollectionError(f"there is no Milvus file {address}")
        client = _connect(address, token)
        if not client.has_collection(collection):
            names = ", ".join(client.list_collections()) or "none"
            client.close()
            raise CollectionError(f"{address} has no collection {collection!r}; it has: {names}")
        try:
            described = client.describe_collection(collection)["properties"][_MANIFEST]
            manifest = manifest_from_plain(json.loads(described))
        except (ValueError, KeyError, TypeError) as error:
            client.close()
            raise CollectionError(
                f"the collection {collection!r} of {address} was not made by reelscan"
            ) from error
        if fingerprint is not None and fingerprint != manifest.fingerprint:
            client.close()
            raise FingerprintMismatch(
                collection=manifest.fingerprint, encoder=fingerprint, path=Path(address)
            )
        client.load_collection(collection)
        return cls(client, collection, address=address, manifest=manifest)

    def close(self) -> None:
        """Close the connection, or the file."""
        self._client.close()

    def __enter__(self) -> "MilvusCollection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"milvus:{self._address}#{self._collection}"

    def __len__(self) -> int:
        """How many segments are stored."""
        return self._count("")

    def video_path(self, video: str) -> Path:
        """Where a video's file lies."""
        return Path(self.manifest.videos_root) / video

    def model_path(self) -> Path:
        """Where the encoder's model directory lay; raises CollectionError."""
        if self.manifest.model_path is None:
            raise CollectionError(f"{self.name} does not say where its model lies: name the model")
        return Path(self.manifest.model_path)

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        top: int = 10,
        one_per_video: bool = False,
        where: str | None = None,
    ) -> list[list[SegmentHit]]:
        """The segments of highest inner product for each of `queries` [Q, E], best first.

        At most `MOST_HITS`. `where` is a condition as in `where.py`, `one_per_video` keeps a
        video's best segment only. Raises ValueError.
        """
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.manifest.embed_dim:
            raise ValueError(
                f"queries have the shape {queries.shape}; "
                f"it should be [queries, {self.manifest.embed_dim}]"
            )
        if top < 1:
            raise ValueError(f"top is {top}; ask for at least 1 hit")
        grouping = {"group_by_field": "video"} if one_per_video else {}
        found = self._client.search(
            self._collection,
            data=queries,
            limit=min(top, MOST_HITS),
            filter="" if where is None else milvus_filter(where),
            output_fields=list(_ROW),
            consistency_level="Strong",
            **grouping,
        )
        return [[_hit(one) for one in of_query] for of_query in found]

    def vectors_of(self, segment_ids: Sequence[int]) -> NDArray[np.float32]:
        """The vectors [N, E] of these segments, in their order; KeyError for one that is gone."""
        found = {row["id"]: row["vector"] for row in self._by_id(segment_ids, "vector")}
        return np.array([found[one] for one in segment_ids], np.float32)

    def sample_vectors(self, count: int) -> NDArray[np.float32]:
        """The vectors [about `count`, E] of segments spread over all, always the same ones."""
        stored = len(self)
        if stored == 0:
            return np.empty((0, self.manifest.embed_dim), np.float32)
        # Ids are hashes, so those of a range are of any videos.
        below = min(_IDS, _IDS * count // stored)
        rows = self._query(f"id < {below}", ("vector",), limit=min(count, MOST_HITS))
        return np.array([row["vector"] for row in rows], np.float32)

    def frame_codes_of(self, segment_ids: Sequence[int]) -> dict[int, bytes]:
        """What is known of the frames of these segments (`frame_codes.py`)."""
        return {
            row["id"]: base64.b64decode(row["frame_codes"])
            for row in self._by_id(segment_ids, "frame_codes")
            if row["frame_codes"]
        }

    def videos(self) -> Mapping[str, VideoFile]:
        """Every stored video, by name."""
        return {
            row["video"]: _video_file(row)
            for rows in self._iterate("place == 0", ("video", "record"))
            for row in rows
        }

    def count_segments_of(self, video: str) -> int:
        """How many segments of a video are there."""
        return self._count(f"video == {quoted(video)}")

    def put(self, videos: Sequence[VideoRows]) -> None:
        """Store videos whole, replacing what was known of them; doing it twice changes nothing.

        Ids are hashes of video and place, so writers on many machines need not agree on any. New
        rows come before old ones go: a video is never gone meanwhile.
        """
        rows = [
            _row(file, place, segment, recorded)
            for file, segments, recorded in videos
            for place, segment in enumerate(segments)
        ]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            self._client.upsert(self._collection, rows[start : start + _ROWS_AT_ONCE])
        stored = {row["id"] for row in rows}
        for start in range(0, len(videos), _VIDEOS_AT_ONCE):
            names = [file.path for file, _, _ in videos[start : start + _VIDEOS_AT_ONCE]]
            found = self._iterate(f"video in {_listed(names)}", ("id",))
            gone = [row["id"] for some in found for row in some if row["id"] not in stored]
            if gone:
                self._client.delete(self._collection, ids=gone)
        if _is_file(self._address):
            # The embedded one searches a hundred times slower what it has not written to its file.
            self._client.flush(self._collection)

    def forget_videos(self, videos: Sequence[str]) -> None:
        """Remove videos."""
        for start in range(0, len(videos), _VIDEOS_AT_ONCE):
            names = _listed(videos[start : start + _VIDEOS_AT_ONCE])
            self._client.delete(self._collection, filter=f"video in {names}")

    def videos_with_rows(self) -> Iterator[VideoRows]:
        """Every video with its segments in their order and what was recorded about it."""
        for heads in self._iterate("place == 0", ("video",), rows_at_once=_VIDEOS_AT_ONCE):
            names = _listed([head["video"] for head in heads])
            found = self._iterate(f"video in {names}", _WHOLE_ROW)
            of_videos: dict[str, list[Mapping[str, Any]]] = {}
            for row in (row for some in found for row in some):
                of_videos.setdefault(row["video"], []).append(row)
            for rows in of_videos.values():
                rows.sort(key=lambda row: int(row["place"]))
                record = json.loads(rows[0]["record"])
                yield _video_file(rows[0]), [_segment(row) for row in rows], record["of_video"]

    def _count(self, expression: str) -> int:
        rows = self._client.query(
            self._collection,
            filter=expression,
            output_fields=["count(*)"],
            consistency_level="Strong",
        )
        return int(rows[0]["count(*)"])

    def _by_id(self, segment_ids: Sequence[int], field: str) -> Iterator[Mapping[str, Any]]:
        for start in range(0, len(segment_ids), _ROWS_AT_ONCE):
            ids = list(segment_ids[start : start + _ROWS_AT_ONCE])
            yield from self._query(f"id in {ids}", ("id", field), limit=_ROWS_AT_ONCE)

    def _query(
        self, expression: str, fields: Sequence[str], *, limit: int
    ) -> Sequence[Mapping[str, Any]]:
        rows: Sequence[Mapping[str, Any]] = self._client.query(
            self._collection,
            filter=expression,
            output_fields=list(fields),
            limit=limit,
            consistency_level="Strong",
        )
        return rows

    def _iterate(
        self, expression: str, fields: Sequence[str], *, rows_at_once: int = _ROWS_AT_ONCE
    ) -> Iterator[Sequence[Mapping[str, Any]]]:
        iterator = self._client.query_iterator(
            self._collection,
            batch_size=rows_at_once,
            filter=expression,
            output_fields=list(fields),
            consistency_level="Strong",
        )
        try:
            while rows := iterator.next():
                yield rows
        finally:
            iterator.close()


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError as error:
        raise ImportError(
            "Milvus needs the packages pymilvus and milvus-lite: pip install 'reelscan[milvus]'"
        ) from error
    # The embedded server lacks a call that iterators make do without, and tells every time.
    for name in ("pymilvus.client.iterator.query_iterator", "grpc._server"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus


def _connect(address: str, token: str) -> Any:
    pymilvus = _pymilvus()
    if not _is_file(address) and not address.startswith(("http://", "https://")):
        raise ValueError(
            f"{address!r} is no Milvus: give a file that ends in .db, or http://host:19530"
        )
    try:
        return pymilvus.MilvusClient(address, token=token)
    except pymilvus.MilvusException as error:
        raise ValueError(f"Milvus at {address} does not answer: {error.message}") from error


def _is_file(address: str) -> bool:
    return address.endswith(".db") and "://" not in address


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(quoted(name) for name in names)}]"


def _described(manifest: Manifest) -> str:
    plain = {**asdict(manifest), "windowing": manifest.windowing.as_plain()}
    return json.dumps(plain)


def _row(
    file: VideoFile, place: int, segment: NewSegment, recorded: Mapping[str, Any]
) -> dict[str, Any]:
    digest = hashlib.blake2b(f"{place} {file.path}".encode(), digest_size=8).digest()
    record = {
        "of_segment": dict(segment.metadata),
        "of_video": dict(recorded),
        **asdict(file),
    }
    codes = b"" if segment.frame_codes is None else base64.b64encode(segment.frame_codes)
    return {
        "id": int.from_bytes(digest, "big") % _IDS,
        "video": file.path,
        "start_seconds": segment.start_seconds,
        "end_seconds": segment.end_seconds,
        "duration_seconds": segment.end_seconds - segment.start_seconds,
        "place": place,
        "metadata": {**recorded, **segment.metadata},
        "record": json.dumps(record, ensure_ascii=False),
        "frame_codes": codes.decode(),
        "vector": segment.vector.astype(np.float32),
    }


def _video_file(row: Mapping[str, Any]) -> VideoFile:
    record = json.loads(row["record"])
    return VideoFile(
        path=row["video"],
        size_bytes=record["size_bytes"],
        mtime_ns=record["mtime_ns"],
        sha256=record["sha256"],
    )


def _segment(row: Mapping[str, Any]) -> NewSegment:
    codes = row["frame_codes"]
    return NewSegment(
        start_seconds=row["start_seconds"],
        end_seconds=row["end_seconds"],
        vector=np.array(row["vector"], np.float32),
        metadata=json.loads(row["record"])["of_segment"],
        frame_codes=base64.b64decode(codes) if codes else None,
    )


def _hit(found: Mapping[str, Any]) -> SegmentHit:
    row = found["entity"]
    return SegmentHit(
        segment_id=int(found["id"]),
        video=row["video"],
        start_seconds=row["start_seconds"],
        end_seconds=row["end_seconds"],
        score=float(found["distance"]),
        metadata=row["metadata"],
    )
