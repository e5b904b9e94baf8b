"""`milvus:ADDRESS#NAME` in place of a folder."""

import json

from optional_package import require_package


def test_a_collection_goes_to_milvus_and_back(demo_root, tmp_path, run) -> None:
    require_package("pymilvus", extra="milvus")
    require_package("milvus_lite", extra="milvus")
    there, milvus = demo_root / "test.collection", "milvus:films.db#films"
    outcome = run("index", "export", there, "--to", milvus)
    assert outcome.code == 0, outcome.err
    assert "12 unchanged" in run("index", "export", there, "--to", milvus).out
    assert "12 videos" in run("index", "import", milvus, "--to", tmp_path / "back").out
    words = ("a red circle", "--top", 5, "--json", "--where", "start < 1")
    answers = [
        json.loads(run("search", place, *words).out) for place in (there, milvus, tmp_path / "back")
    ]
    shown = [[(hit["video"], hit["best_frame_seconds"]) for hit in one] for one in answers]
    assert shown[0] == shown[1] == shown[2]


def test_a_mistyped_place_is_told(run) -> None:
    for place in ("milvus:films.db", "milvus:#films", "milvus:films.db#no-name"):
        outcome = run("search", place, "words")
        assert outcome.code == 1
        assert "milvus:ADDRESS#NAME" in outcome.err
