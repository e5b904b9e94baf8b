"""The whole way at smoke size, and the commands on what it leaves."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from reelscan.pretrain.clip_training import load_teacher


def test_demo_leaves_results_and_pictures(demo_root: Path) -> None:
    results = json.loads((demo_root / "results.json").read_text())
    assert results["videos"] == results["texts"] == 12
    assert results["chance"]["text_to_video"]["recall_at_1"] == pytest.approx(100 / 12)
    assert results["order"]["overall"]["captions"] > 0
    assert results["reranked"] is None
    assert (demo_root / "searches.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_uses_what_is_finished(demo_root: Path, run) -> None:
    weights = demo_root / "pretrain" / "model" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    outcome = run("demo", "--size", "smoke", "--to", demo_root)
    assert outcome.code == 0, outcome.err
    assert weights.stat().st_mtime_ns == written
    assert "text to video, chance" in outcome.out


def test_demo_of_another_seed_is_refused_in_the_same_folder(demo_root: Path, run) -> None:
    outcome = run("demo", "--size", "smoke", "--to", demo_root, "--seed", 5)
    assert outcome.code == 1
    assert "another folder" in outcome.err


def test_search_prints_hits_best_first(demo_root: Path, run) -> None:
    outcome = run("search", demo_root / "test.collection", "a red circle moves left", "--top", 3)
    assert outcome.code == 0, outcome.err
    scores = [float(line.split()[0]) for line in outcome.out.splitlines()]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_search_as_json(demo_root: Path, run) -> None:
    outcome = run("search", demo_root / "test.collection", "a circle", "--top", 2, "--json")
    hits = json.loads(outcome.out)
    assert set(hits[0]) >= {"video", "start_seconds", "end_seconds", "score", "path"}
    assert Path(hits[0]["path"]).is_file()


def test_search_by_example_needs_no_sentence(demo_root: Path, run) -> None:
    collection, example = demo_root / "test.collection", demo_root / "corpus/test/000003.mp4"
    outcome = run("search", collection, "--video", example, "--top", 12, "--json")
    assert "000003.mp4" in [hit["video"] for hit in json.loads(outcome.out)]


def test_a_model_without_a_trained_matching_head_does_not_rerank(demo_root: Path, run) -> None:
    outcome = run("search", demo_root / "test.collection", "a circle", "--rerank")
    assert outcome.code == 1
    assert "trained without the matching loss" in outcome.err
    model, annotations = demo_root / "pretrain/model", demo_root / "corpus/test.json"
    outcome = run("evaluate", annotations, "--model", model, "--rerank-top", 4)
    assert outcome.code == 1
    assert "trained without the matching loss" in outcome.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give a sentence, or --like"),
        (("  ",), "query is empty"),
        (("--video", "gone.mp4"), "gone.mp4"),
        (("words", "--model", "gone"), "gone"),
        (("words", "--device", "tpu"), "choose auto, cpu or cuda"),
    ],
)
def test_search_explains_a_mistake(words, told: str, demo_root: Path, run) -> None:
    outcome = run("search", demo_root / "test.collection", *words)
    assert outcome.code == 1
    assert told in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_another_model_is_refused(demo_root: Path, run) -> None:
    collection, other = demo_root / "test.collection", demo_root / "pretrain-masked" / "model"
    outcome = run("search", collection, "a circle", "--model", other)
    assert outcome.code == 1
    assert "embedded by the encoder" in outcome.err


def test_evaluate_prints_both_directions_beside_chance(demo_root: Path, run) -> None:
    corpus = demo_root / "corpus"
    outcome = run(
        *("evaluate", corpus / "test.json", "--model", demo_root / "pretrain/model"),
        *("--pairs", corpus / "pairs.json"),
    )
    assert outcome.code == 0, outcome.err
    for row in ("text to video, embedding", "video to text, embedding", "chance", "direction"):
        assert row in outcome.out


def test_evaluate_lists_missing_videos(demo_root: Path, tmp_path: Path, run) -> None:
    annotations = tmp_path / "test.json"
    annotations.write_text('[{"video": "gone.mp4", "caption": "a dog"}]')
    outcome = run("evaluate", annotations, "--model", demo_root / "pretrain/model")
    assert outcome.code == 1
    assert "gone.mp4" in outcome.err


def test_index_sets_a_broken_video_aside_and_goes_on(demo_root: Path, tmp_path: Path, run) -> None:
    films = tmp_path / "films"
    shutil.copytree(demo_root / "corpus/test", films)
    (films / "broken.mp4").write_bytes(b"not a video")
    words = ("index", films, "--to", tmp_path / "c", "--model", demo_root / "pretrain/model")
    outcome = run(*words)
    assert outcome.code == 1
    assert "12 videos embedded" in outcome.out
    assert "broken.mp4" in outcome.out
    again = run(*words)
    assert again.code == 0
    assert "0 videos embedded" in again.out and "12 unchanged" in again.out


def test_model_inspect_and_verify(demo_root: Path, tmp_path: Path, run) -> None:
    model = tmp_path / "model"
    shutil.copytree(demo_root / "pretrain/model", model)
    assert "8 frames of 64 x 64 px" in run("model", "inspect", model).out
    assert run("model", "verify", model).code == 0
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    outcome = run("model", "verify", model)
    assert outcome.code == 1
    assert "fingerprint" in outcome.err


def test_clip_weights_become_a_teacher(demo_root: Path, tmp_path: Path, run) -> None:
    teacher = load_teacher(demo_root / "teacher.safetensors")
    state = {f"visual.{name}": tensor for name, tensor in teacher.state_dict().items()}
    torch.save({"model": state}, tmp_path / "clip.pt")
    words = ("model", "teacher", tmp_path / "clip.pt", "--to", tmp_path / "t.safetensors")
    outcome = run(*words, "--heads", teacher.config.heads)
    assert outcome.code == 0, outcome.err
    assert load_teacher(tmp_path / "t.safetensors").config == teacher.config


def test_shards_write_verify_and_pretrain(demo_root: Path, tmp_path: Path, run) -> None:
    corpus = demo_root / "corpus"
    written = run("shards", "write", corpus / "train.jsonl", "--to", tmp_path, "--name", "t")
    assert written.code == 0, written.err
    index = tmp_path / "t.index.json"
    assert run("shards", "verify", index).code == 0
    trained = run(
        *("pretrain", "unmasked:tiny", "--out", tmp_path / "run", "--data.shards", index),
        *("--data.batch-size", 2, "--epochs", "None", "--steps", 1, "--model.vision.depth", 1),
        *("--model.vision.width", 32, "--model.vision.image-size", 32, "--model.vision.frames", 2),
        *("--model.text.encoder-width", 32, "--model.text.hidden-size", 32),
        *("--model.text.num-attention-heads", 2, "--model.text.num-hidden-layers", 2),
        *("--model.text.fusion-layer", 1, "--model.text.intermediate-size", 32),
        *("--data.decode-size", 32, "--data.no-flip", "--model.vision.drop-path-rate", 0),
    )
    assert trained.code == 0, trained.err
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    reranked = run(
        *("evaluate", corpus / "test.json", "--model", tmp_path / "run" / "model"),
        *("--rerank-top", 4),
    )
    assert reranked.code == 0, reranked.err
    assert "text to video, reranked" in reranked.out
    again = run("shards", "index", *sorted(tmp_path.glob("t-*.tar")), "--name", "again")
    assert again.code == 0, again.err
    assert "48 samples" in again.out
    assert run("shards", "verify", tmp_path / "again.index.json").code == 0
    words = ("shards", "teach", index, "--teacher", demo_root / "teacher.safetensors")
    taught = run(*words, "--to", tmp_path / "taught", "--frames", 2, "--size", 64)
    assert taught.code == 0, taught.err
    assert "features of 48 samples" in taught.out
    tar = next(tmp_path.glob("t-*.tar"))
    tar.write_bytes(tar.read_bytes()[:-1])
    assert run("shards", "verify", index).code == 1


def test_pretrain_corrects_a_mistyped_recipe(run) -> None:
    outcome = run("pretrain", "video-txt-masked", "--out", "x")
    assert outcome.code == 2
    assert "did you mean 'video-text-masked'?" in outcome.err


def test_pretrain_asks_for_what_is_missing(run) -> None:
    outcome = run("pretrain", "unmasked", "--out", "x")
    assert outcome.code == 2
    assert "--data.shards" in outcome.err
