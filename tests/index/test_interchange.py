"""Embeddings out of a collection and in again, ours and those of other programs."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reelscan.index import export as export_module
from reelscan.index.collection import Collection
from reelscan.index.export import export_rows
from reelscan.index.import_rows import find_embeddings, import_embeddings
from reelscan.index.manifest import Manifest, Windowing
from reelscan.index.segments import NewSegment
from reelscan.index.video_files import VideoFile

WIDTH = 6
MANIFEST = Manifest(
    fingerprint="model-a",
    embed_dim=WIDTH,
    videos_root="/videos",
    windowing=Windowing(segments="shots", shot_threshold=3.0),
)


@pytest.fixture
def collection(tmp_path):
    draws = np.random.default_rng(0)
    with Collection.create(tmp_path / "c", manifest=MANIFEST) as collection:
        for number in range(5):
            segments = [
                NewSegment(
                    start_seconds=2.0 * place,
                    end_seconds=2.0 * place + 2,
                    vector=draws.normal(size=WIDTH).astype(np.float32),
                    metadata={"caption": f"näher {place}"} if place == 1 else {},
                    frame_codes=b"\x01\x02" if place == 0 else None,
                )
                for place in range(number + 1)
            ]
            file = VideoFile(
                path=f"sub/{number}.mp4", size_bytes=number + 10, mtime_ns=7, sha256="ab"
            )
            collection.add_video(file, segments)
        collection.forget_videos(["sub/1.mp4"])
        collection.edit_metadata(["sub/2.mp4"], {"camera": "north", "height": 2.5})
        yield collection


def rows_of(collection):
    """Everything that should survive, without ids."""
    return [
        (file, one.start_seconds, one.end_seconds, one.vector.tolist(), dict(one.metadata),
         one.frame_codes, recorded)
        for block in collection.rows()
        for file, one, recorded in zip(
            block.videos, block.segments, block.video_metadata, strict=True
        )
    ]  # fmt: skip


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_what_is_exported_comes_back_whole(collection, tmp_path, format):
    expected = rows_of(collection)
    told = []
    report = export_rows(
        collection.rows(),
        tmp_path / "out",
        manifest=collection.manifest,
        format=format,
        on_progress=told.append,
    )
    assert (report.rows, report.files, told) == (13, 1, [13])
    embeddings = find_embeddings(tmp_path / "out")
    assert (embeddings.rows, embeddings.embed_dim) == (13, WIDTH)
    assert embeddings.manifest == collection.manifest
    with Collection.create(tmp_path / "copy", manifest=embeddings.manifest) as copy:
        report = import_embeddings(embeddings, copy)
        assert (report.videos, report.rows, report.unchanged) == (4, 13, 0)
        assert rows_of(copy) == expected
        assert copy.metadata_of("sub/2.mp4") == {"camera": "north", "height": 2.5}
        again = import_embeddings(embeddings, copy)
        assert (again.videos, again.unchanged) == (0, 4)
        assert rows_of(copy) == expected


def test_ids_lead_back_to_the_collection(collection, tmp_path):
    export_rows(collection.rows(), tmp_path / "out", manifest=MANIFEST, format="npy")
    table = pq.read_table(tmp_path / "out/metadata/metadata_00000.parquet").to_pydict()
    vectors = np.load(tmp_path / "out/img_emb/img_emb_00000.npy")
    assert np.array_equal(collection.vectors_of(table["id"]), vectors)
    assert 2 not in table["id"]


def test_an_export_is_whole_or_absent(collection, tmp_path, monkeypatch):
    export_rows(collection.rows(), tmp_path / "out", manifest=MANIFEST)
    with pytest.raises(FileExistsError, match="new path"):
        export_rows(collection.rows(), tmp_path / "out", manifest=MANIFEST)

    def broken(*_arguments, **_options):
        raise OSError("disk full")

    monkeypatch.setattr(export_module, "_write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        export_rows(collection.rows(), tmp_path / "other", manifest=MANIFEST)
    assert {path.name for path in tmp_path.iterdir()} == {"c", "out"}


def clip_folder(path, *, parts=2, rows=3, layout="deep"):
    draws = np.random.default_rng(1)
    everything = []
    for part in range(parts):
        vectors = draws.normal(size=(rows, WIDTH)).astype(np.float16)
        table = pa.table(
            {
                "image_path": [f"shard{part}/{row}.mp4" for row in range(rows)],
                "caption": [f"caption {part} {row}" for row in range(rows)],
                "NSFW": [None] * rows,
            }
        )
        arrays, tables = (path / "img_emb", path / "metadata") if layout == "deep" else (path, path)
        for folder in (arrays, tables):
            folder.mkdir(parents=True, exist_ok=True)
        np.save(arrays / f"img_emb_{part}.npy", vectors)
        pq.write_table(table, tables / f"metadata_{part}.parquet")
        everything += list(vectors.astype(np.float32))
    return np.stack(everything)


@pytest.mark.parametrize("layout", ["deep", "flat"])
def test_folders_of_clip_retrieval_are_read(tmp_path, layout):
    vectors = clip_folder(tmp_path / "clips", parts=11, layout=layout)
    embeddings = find_embeddings(tmp_path / "clips")
    assert embeddings.manifest is None
    with Collection.create(tmp_path / "copy", manifest=MANIFEST) as copy:
        import_embeddings(embeddings, copy)
        found = [vector for _, _, _, vector, *_ in rows_of(copy)]
        np.testing.assert_array_equal(np.array(found, np.float32), vectors)
        hit = copy.search(vectors[4:5] / np.linalg.norm(vectors[4]), top=1)[0][0]
        # Ten comes after nine: parts are in the order of their numbers.
        assert hit.video == "shard1/1.mp4"
        assert hit.metadata == {"caption": "caption 1 1"}


def test_what_is_no_embedding_is_refused(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    with pytest.raises(ValueError, match="holds no embeddings"):
        find_embeddings(folder)
    clip_folder(folder)
    (folder / "metadata/metadata_1.parquet").unlink()
    with pytest.raises(ValueError, match=r"metadata_1\.parquet is missing"):
        find_embeddings(folder)
    (folder / "img_emb/img_emb_1.npy").unlink()
    np.save(folder / "img_emb/img_emb_0.npy", np.zeros((2, WIDTH), np.float32))
    with pytest.raises(ValueError, match="has 2 rows and"):
        find_embeddings(folder)
    np.save(folder / "img_emb/img_emb_0.npy", np.array([object()] * 3), allow_pickle=True)
    with pytest.raises(ValueError, match="no array of numbers"):
        find_embeddings(folder)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="none of them `vector`"):
        find_embeddings(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"title": ["a"], "vector": [[0.0] * WIDTH]}, "--video-column"),
        ({"video": ["a"], "vector": [[float("nan")] * WIDTH]}, "not finite"),
        ({"video": ["a", "b"], "vector": [[0.0] * WIDTH, [0.0]]}, "not every vector is"),
        ({"video": ["a", "b", "a"], "vector": [[0.0] * WIDTH] * 3}, "sort the rows"),
        ({"video": ["a"], "vector": [[0.0] * 3]}, "another model"),
    ],
)
def test_rows_that_cannot_be_stored_are_refused(tmp_path, columns, complaint):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with (
        Collection.create(tmp_path / "copy", manifest=MANIFEST) as copy,
        pytest.raises(ValueError, match=complaint),
    ):
        import_embeddings(find_embeddings(tmp_path / "a.parquet"), copy)


def test_a_damaged_description_is_told(collection, tmp_path):
    export_rows(collection.rows(), tmp_path / "out", manifest=MANIFEST)
    path = tmp_path / "out" / "embeddings.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(ValueError, match="newer version"):
        find_embeddings(tmp_path / "out")
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        find_embeddings(tmp_path / "out")
