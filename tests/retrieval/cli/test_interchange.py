"""`reelscan index export`, `import` and `dedup` as typed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.mark.parametrize("format", ["parquet", "npy"])
def test_a_copy_answers_as_the_collection_does(demo_root: Path, tmp_path, run, format) -> None:
    there = demo_root / "test.collection"
    out = run("index", "export", there, "--to", tmp_path / "out", "--format", format)
    assert out.code == 0, out.err
    assert "12 segments" in out.out
    back = run("index", "import", tmp_path / "out", "--to", tmp_path / "copy")
    assert back.code == 0, back.err
    assert "12 videos imported" in back.out
    words = ("a red circle", "--top", 5, "--json", "--no-join")
    first, second = (
        json.loads(run("search", one, *words).out) for one in (there, tmp_path / "copy")
    )
    assert [hit["video"] for hit in first] == [hit["video"] for hit in second]
    assert [hit["best_frame_seconds"] for hit in first] == [
        hit["best_frame_seconds"] for hit in second
    ]
    assert run("index", "check", tmp_path / "copy").code == 0
    assert "12 unchanged" in run("index", "import", tmp_path / "out", "--to", tmp_path / "copy").out


def test_embeddings_of_unknown_origin_need_their_model(demo_root: Path, tmp_path, run) -> None:
    vectors = np.eye(4, 128, dtype=np.float32)
    table = pa.table({"key": ["a", "b", "c", "d"], "vector": list(vectors)})
    pq.write_table(table, tmp_path / "a.parquet")
    words = ("index", "import", tmp_path / "a.parquet", "--to", tmp_path / "copy")
    assert "--model" in run(*words).err
    model = demo_root / "pretrain" / "model"
    width = json.loads((model / "config.json").read_text())["model"]["embed_dim"]
    outcome = run(*words, "--model", model)
    if width == 128:
        assert outcome.code == 0, outcome.err
    else:
        assert f"{width} wide" in outcome.err


def test_copies_are_found_and_set_aside(demo_root: Path, tmp_path, run) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(demo_root / "corpus" / "test", videos)
    first = min(videos.glob("*.mp4"))
    shutil.copy(first, videos / "copy.mp4")
    model, collection = demo_root / "pretrain" / "model", tmp_path / "c"
    assert run("index", videos, "--to", collection, "--model", model).code == 0
    # The smoke demo's model has learnt next to nothing, so only equal vectors are the same.
    words = ("index", "dedup", collection, "--similarity", "0.9999999")
    found = json.loads(run(*words, "--json").out)
    assert {first.name, "copy.mp4"} == {found[0]["video"], found[0]["kept"]}
    outcome = run(*words, "--set-aside")
    assert "1 videos; set aside" in outcome.out, outcome.err
    assert "no video looks as another" in run(*words).out
    assert "12 unchanged" in run("index", videos, "--to", collection, "--model", model).out


@pytest.mark.parametrize("action", ["export", "import", "merge", "dedup"])
def test_help_has_examples(action: str, run) -> None:
    outcome = run("index", action, "--help")
    assert outcome.code == 0
    assert f"\n  reelscan index {action}" in outcome.out


def test_shards_become_one_collection(demo_root: Path, tmp_path, run) -> None:
    videos, model = demo_root / "corpus" / "test", demo_root / "pretrain" / "model"
    words = ("index", videos, "--to", tmp_path / "shards", "--model", model, "--shard")
    assert run(*words, "1/2").code == 0
    early = run("index", "merge", tmp_path / "shards", "--to", tmp_path / "c")
    assert early.code == 1 and "missing: 2" in early.err
    assert run(*words, "2/2").code == 0
    outcome = run("index", "merge", tmp_path / "shards", "--to", tmp_path / "c")
    assert outcome.code == 0, outcome.err
    assert "12 videos merged (12 segments) of 2 shards" in outcome.out
    assert "12 unchanged" in run("index", "merge", tmp_path / "shards", "--to", tmp_path / "c").out
    assert run("search", tmp_path / "c", "a red circle").code == 0
