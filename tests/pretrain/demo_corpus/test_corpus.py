import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reelscan.pretrain.demo_corpus import corpus as corpus_module
from reelscan.pretrain.demo_corpus.config import small_corpus
from reelscan.pretrain.demo_corpus.corpus import Corpus, open_corpus, write_corpus
from reelscan.pretrain.demo_corpus.split import split_scenes
from reelscan.video.decode import read_clip

CONFIG = replace(small_corpus(train_videos=6, test_videos=8), paired_fraction=0.5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("corpus"), config=CONFIG, workers=1)


def lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames(path: Path) -> torch.Tensor:
    return read_clip(path, frames=16).frames_uint8


def test_annotations_name_clips_that_exist(corpus: Corpus) -> None:
    train, test = lines(corpus.train_annotations), json.loads(corpus.test_annotations.read_text())
    assert [row["video"] for row in train] == [f"train/{n:06d}.mp4" for n in range(1, 7)]
    assert [row["video"] for row in test] == [f"test/{n:06d}.mp4" for n in range(1, 9)]
    for row in (*train, *test):
        assert frames(corpus.root / row["video"]).shape == (16, 3, 64, 64)
    assert all(len(set(row["caption"])) == len(row["caption"]) > 1 for row in train)
    assert len({row["caption"] for row in test}) == 8
    assert corpus.chance_recall_at_1 == pytest.approx(1 / 8)
    assert [row.get("group") for row in train] == [*2 * ["pair 1"], *2 * ["pair 2"], None, None]


def test_static_captions_belong_to_a_moment_of_the_clip(corpus: Corpus) -> None:
    for row in lines(corpus.static_annotations):
        assert 0 <= row["frame"] < 16
        assert row["frame"] == int(row["time_seconds"] * CONFIG.fps)
        assert row["caption"] and all(isinstance(text, str) for text in row["caption"])


def test_pairs_are_one_clip_and_its_frames_in_another_order(corpus: Corpus) -> None:
    pairs = json.loads(corpus.pairs.read_text())
    assert {pair["kind"] for pair in pairs} == {"order", "direction"}
    for pair in pairs:
        first, second = (frames(corpus.root / name).float() for name in pair["videos"])
        distance = torch.cdist(first.flatten(1), second.flatten(1)) / first[0].numel() ** 0.5
        assert distance.min(dim=1).values.max() < 10
        if pair["kind"] == "direction":
            assert (first.flip(0) - second).abs().mean() < 4
            assert (first - second).abs().mean() > (first.flip(0) - second).abs().mean()


def test_held_out_compositions_are_in_the_record(corpus: Corpus) -> None:
    record = json.loads((corpus.root / "corpus.json").read_text())
    assert {tuple(pair) for pair in record["held_out"]} == split_scenes(CONFIG).held_out
    assert record["counts"]["train"] == 6


def test_a_complete_corpus_is_reused(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "split_scenes", None)
    assert write_corpus(corpus.root, config=CONFIG) == corpus == open_corpus(corpus.root)


def test_another_configuration_is_refused(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="another configuration"):
        write_corpus(corpus.root, config=replace(CONFIG, seed=1))


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(ValueError, match="not empty"):
        write_corpus(tmp_path, config=CONFIG)
    with pytest.raises(ValueError, match="no complete corpus"):
        open_corpus(tmp_path)


def test_an_interrupted_corpus_is_finished(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "CLIPS_PER_JOB", 4)
    root = tmp_path / "corpus"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(root, config=CONFIG, workers=1, on_progress=stop)
    with pytest.raises(ValueError, match="no complete corpus"):
        open_corpus(root)
    with pytest.raises(ValueError, match="another configuration"):
        write_corpus(root, config=replace(CONFIG, seed=1))
    first = root / "train" / "000001.mp4"
    written = first.stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    write_corpus(root, config=CONFIG, workers=1, on_progress=lambda *at: seen.append(at))
    assert seen == [(4, 14), (8, 14), (12, 14), (14, 14)]
    assert first.stat().st_mtime_ns == written
    for name in ("train.jsonl", "train_static.jsonl", "test.json", "pairs.json", "corpus.json"):
        assert (root / name).read_text() == (corpus.root / name).read_text()


def test_worker_processes_write_the_same(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "CLIPS_PER_JOB", 7)
    made = write_corpus(tmp_path, config=CONFIG, workers=2)
    for path in sorted(corpus.root.rglob("*.*")):
        assert (made.root / path.relative_to(corpus.root)).read_bytes() == path.read_bytes()


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        write_corpus(tmp_path, config=CONFIG, workers=0)
