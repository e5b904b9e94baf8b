"""What people and programs ask, answered."""

import logging
import shutil

import pytest
from colour_encoder import ColourMatcher, write_colours
from error_answers import message
from PIL import Image

from reelscan.index.collection import Collection
from reelscan.index.embed import embed_folder
from reelscan.retrieval.searcher import Searcher

OTHER = "sub folder/blue_red's.mp4"


def places(answer):
    return [(one["video"], one["start_seconds"]) for one in answer["moments"]]


def test_a_sentence_finds_the_moments_that_the_searcher_finds(search, collection_path):
    found = search(text="a white wall", top=3)["moments"]
    with Collection.open(collection_path, read_only=True) as collection:
        expected = Searcher(collection, ColourMatcher()).search("a white wall", top=3)
    assert [(one["video"], one["start_seconds"]) for one in found] == [
        (hit.video, hit.start_seconds) for hit in expected
    ]
    assert [one["score"] for one in found] == pytest.approx([hit.score for hit in expected])
    best = found[0]
    assert best["video"] == OTHER and best["title"] == "blue red's"
    assert 2.0 < best["best_frame_seconds"] < 4.0
    assert "path" not in best and str(collection_path.parent) not in str(found)


def test_a_link_is_enough_for_a_sentence(client, search):
    linked = client.get("/search", params={"text": "green", "top": 1, "where": "camera = 'north'"})
    assert places(linked.json()) == [("red-blue.mp4", 2.0)]


def test_parts_weights_groups_and_conditions(search):
    unlike = [{"text": "red blue"}, {"text": "green", "weight": -5}]
    assert places(search(parts=unlike, join=False))[-1] == ("red-blue.mp4", 2.0)
    grouped = search(text="white", group="video", moments_per_video=1)["videos"]
    assert [one["video"] for one in grouped] == [OTHER, "red-blue.mp4"]
    assert [len(one["moments"]) for one in grouped] == [1, 1]
    assert {video for video, _ in places(search(text="white", where="camera = 'north'"))} == {
        "red-blue.mp4"
    }
    assert {video for video, _ in places(search(text="white", video=OTHER))} == {OTHER}
    assert places(search(text="white", video=OTHER, where="start < 1")) == [(OTHER, 0.0)]


def test_more_like_a_moment_is_not_that_moment(search):
    like = {"video": "red-blue.mp4", "start_seconds": 0, "end_seconds": 2}
    found = places(search(parts=[like]))
    assert found[0] == (OTHER, 0.0)
    assert ("red-blue.mp4", 0.0) not in found


def test_reranking_knows_the_order(search):
    found = search(text="blue red", rerank=True, top=1)["moments"][0]
    assert (found["video"], found["start_seconds"]) == (OTHER, 0.0)
    assert found["score"] == pytest.approx(4.0)


def test_a_dropped_picture_and_a_dropped_clip(client, search, tmp_path):
    Image.new("RGB", (32, 32), (0, 255, 0)).save(tmp_path / "green.png")
    write_colours(tmp_path / "white.mp4", "white white")
    for name, frames, expected in (
        ("green.png", 1, ("red-blue.mp4", 2.0)),
        ("white.mp4", 4, (OTHER, 2.0)),
    ):
        answer = client.post("/uploads", content=(tmp_path / name).read_bytes())
        assert answer.status_code == 200, answer.text
        assert answer.json()["frames"] == frames
        found = search(parts=[{"upload": answer.json()["upload"]}], top=1)
        assert places(found) == [expected]
        assert found["moments"][0]["score"] == pytest.approx(1.0, abs=1e-3)
    gone = client.post("/search", json={"parts": [{"upload": "unknown"}]})
    assert gone.status_code == 400 and "upload it again" in message(gone)


def test_vectors(client):
    wanted = {"texts": ["red", "blue"], "parts": [{"video": "red-blue.mp4", "end_seconds": 2}]}
    answer = client.post("/embed", json=wanted).json()
    assert answer["fingerprint"] == "colours-1" and answer["embed_dim"] == 8
    assert [len(one) for one in answer["vectors"]] == [8, 8, 8]
    assert answer["vectors"][0][0] == pytest.approx(1.0, abs=1e-4)
    assert answer["vectors"][2][0] == pytest.approx(0.5**0.5, abs=0.01)
    assert client.post("/embed", json={}).status_code == 400


def test_videos_and_one_video(client):
    listed = client.get("/videos").json()
    assert [one["video"] for one in listed["videos"]] == ["red-blue.mp4", OTHER]
    assert client.get("/videos", params={"contains": "RED'S"}).json()["total"] == 1
    assert client.get("/videos", params={"offset": 1, "limit": 1}).json()["videos"][0]["video"] == (
        OTHER
    )
    one = client.get("/videos/red-blue.mp4").json()
    assert one["metadata"] == {"camera": "north", "hour": 3}
    assert [part["start_seconds"] for part in one["segments"]] == [0.0, 2.0]
    assert client.get(f"/videos/{OTHER}").json()["title"] == "blue red's"
    assert client.get("/videos/nowhere.mp4").status_code == 404
    about = client.get("/collection").json()
    assert (about["videos"], about["segments"], about["can_rerank"]) == (2, 4, True)
    assert about["fields"][0] == {"name": "camera", "values": ["north"]}


def test_the_file_comes_whole_and_in_ranges(client, videos):
    content = (videos / OTHER).read_bytes()
    found = client.get("/videos").json()["videos"][1]
    whole = client.get(found["media"])
    assert whole.content == content
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["accept-ranges"] == "bytes"
    part = client.get(found["media"], headers={"range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == content[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    assert client.get(found["media"], headers={"range": "bytes=-5"}).content == content[-5:]
    beyond = client.get(found["media"], headers={"range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416
    head = client.head(found["media"])
    assert head.status_code == 200 and head.content == b""
    assert int(head.headers["content-length"]) == len(content)


def test_a_frame_is_that_of_its_second(client):
    import cv2
    import numpy as np

    for seconds, channel in ((0.5, 2), (1.5, 0), (3.0, 1), (99.0, 1)):
        answer = client.get("/frame", params={"video": "red-blue.mp4", "seconds": seconds})
        assert answer.headers["content-type"] == "image/jpeg"
        picture = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert picture.mean(axis=(0, 1)).argmax() == channel
    assert client.get("/frame", params={"video": "no.mp4"}).status_code == 404
    odd = client.get("/frame", params={"video": "red-blue.mp4", "height": 181})
    assert odd.status_code == 400 and "choose one of" in message(odd)


def test_what_watches_over_it(client, search):
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/ready").json()["status"] == "ready"
    search(text="red")
    search(text="red")
    text = client.get("/metrics").text
    assert 'reelscan_requests_total{method="POST",route="/search",status="200"} 2' in text
    assert 'reelscan_request_seconds_count{route="/search"} 2' in text
    # The second one's vector was remembered.
    assert "reelscan_text_batch_count 1" in text
    assert "reelscan_segments 4" in text


def test_every_request_has_an_id_and_a_line_without_what_was_asked(client, caplog):
    import json

    caplog.set_level(logging.INFO, logger="reelscan.serve")
    answer = client.get("/search?text=my%20secret", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    line = json.loads(caplog.records[-1].message)
    assert line["request_id"] == "mine-1" and line["status"] == 200
    assert line["route"] == "/search" and "secret" not in caplog.text
    odd = client.get("/health", headers={"x-request-id": "a b\x7f"})
    assert odd.headers["x-request-id"] != "a b\x7f"


def test_openapi_has_examples(client):
    described = client.get("/openapi.json").json()
    assert {"/search", "/embed", "/videos", "/uploads", "/health", "/ready", "/metrics"} <= set(
        described["paths"]
    )
    assert described["components"]["schemas"]["SearchRequest"]["examples"][0]["text"]


def test_what_is_indexed_while_it_serves_is_found(make_client, videos, tmp_path):
    shutil.copytree(videos, tmp_path / "videos")
    path = tmp_path / "c"
    embed_folder(ColourMatcher(), tmp_path / "videos", path, window_seconds=2.0)
    client = make_client(path=path)
    assert client.post("/search", json={"text": "magenta"}).json()["moments"][0]["score"] < 0.5
    write_colours(tmp_path / "videos" / "new.mp4", "magenta magenta")
    embed_folder(ColourMatcher(), tmp_path / "videos", path, window_seconds=2.0)
    best = client.post("/search", json={"text": "magenta"}).json()["moments"][0]
    assert best["video"] == "new.mp4" and best["score"] > 0.99


def test_an_empty_collection_is_not_ready(make_client, tmp_path):
    from reelscan.index.manifest import Manifest, Windowing

    manifest = Manifest(
        fingerprint="colours-1", embed_dim=8, videos_root="/", windowing=Windowing()
    )
    Collection.create(tmp_path / "empty", manifest=manifest).close()
    client = make_client(path=tmp_path / "empty")
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503
    empty = client.post("/search", json={"text": "red"})
    assert empty.status_code == 400 and "no segments yet" in message(empty)
