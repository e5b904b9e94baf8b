"""A stopped evaluation goes on where it was, and its result is the same."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from colour_encoder import ColourMatcher, write_colours

from reelscan.retrieval.evaluate import evaluate

SUPPORT = Path(__file__).parents[1] / "support"
COLOURS = ("red blue", "blue red", "green", "white", "red green", "green red", "cyan", "black")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    for number, colours in enumerate(COLOURS):
        write_colours(folder / f"{number}.mp4", colours)
    annotations = [
        {"video": f"{number}.mp4", "caption": colours} for number, colours in enumerate(COLOURS)
    ]
    (folder / "test.json").write_text(json.dumps(annotations))
    return folder


class Counting(ColourMatcher):
    """Counts its work, and stops like Ctrl-C after so much of one kind."""

    def __init__(self, *, stop_at_clip=None, stop_at_match=None):
        super().__init__()
        self.matches = self.texts = 0
        self.stop_at_clip, self.stop_at_match = stop_at_clip, stop_at_match

    def encode_video(self, frames_uint8):
        if self.stop_at_clip is not None and self.clips_seen >= self.stop_at_clip:
            raise KeyboardInterrupt
        return super().encode_video(frames_uint8)

    def encode_text(self, texts):
        self.texts += len(texts)
        return super().encode_text(texts)

    def match(self, text_tokens, video_tokens):
        if self.matches == self.stop_at_match:
            raise KeyboardInterrupt
        self.matches += 1
        return super().match(text_tokens, video_tokens)


def run(root, cache, encoder=None, **settings):
    settings = {"rerank_top": 3, "batch_size": 2, "workers": 1} | settings
    return evaluate(
        encoder or Counting(), root / "test.json", video_root=root, cache_folder=cache, **settings
    )


def assert_same(found, expected):
    np.testing.assert_array_equal(found.scores.similarity, expected.scores.similarity)
    for direction in ("text_to_video", "video_to_text"):
        np.testing.assert_array_equal(
            getattr(found.scores.reranked, direction), getattr(expected.scores.reranked, direction)
        )
    assert found.reranked == expected.reranked


def test_a_second_run_computes_nothing(root, tmp_path):
    first = run(root, tmp_path)
    encoder, seen = Counting(), []
    assert_same(run(root, tmp_path, encoder, on_progress=seen.append), first)
    assert (encoder.clips_seen, encoder.texts, encoder.matches) == (0, 0, 0)
    last = {one.stage: one for one in seen}
    for stage in ("embedding videos", "embedding texts", "matching pairs"):
        assert last[stage].reused == last[stage].total == last[stage].done


def test_stopped_while_embedding_it_keeps_the_finished_videos(root, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path, Counting(stop_at_clip=4))
    encoder = Counting()
    assert_same(run(root, tmp_path, encoder), run(root, None))
    assert encoder.clips_seen == len(COLOURS) - 4


def test_stopped_while_matching_it_keeps_the_finished_videos(root, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path, Counting(stop_at_match=5))
    encoder = Counting()
    assert_same(run(root, tmp_path, encoder), run(root, None))
    assert (encoder.clips_seen, encoder.matches) == (0, len(COLOURS) - 5)


def test_killed_while_matching_it_goes_on(root, tmp_path):
    script = [sys.executable, str(SUPPORT / "slow_evaluation.py"), str(root), str(tmp_path)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=environment) as process:
        matched = 0
        for line in process.stdout:
            matched += line.startswith("matching pairs")
            if matched == 4:
                process.send_signal(signal.SIGKILL)
                break
        assert "finished" not in process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    encoder = Counting()
    assert_same(run(root, tmp_path, encoder), run(root, None))
    assert encoder.clips_seen == 0
    assert 0 < encoder.matches <= len(COLOURS) - 3


def test_one_changed_video_is_embedded_again(root, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in root.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    run(root, tmp_path / "features")
    encoder = Counting()
    run(copy, tmp_path / "features", encoder)
    assert encoder.clips_seen == 0, "copies share features"
    write_colours(copy / "2.mp4", "magenta")
    encoder = Counting()
    assert_same(run(copy, tmp_path / "features", encoder), run(copy, None))
    assert encoder.clips_seen == 1


def test_tokens_are_added_to_vectors_of_an_earlier_run(root, tmp_path):
    run(root, tmp_path, rerank_top=None)
    assert_same(run(root, tmp_path), run(root, None))


def test_another_shortlist_is_matched_anew(root, tmp_path):
    run(root, tmp_path)
    encoder = Counting()
    assert_same(run(root, tmp_path, encoder, rerank_top=8), run(root, None, rerank_top=8))
    assert encoder.matches > 0
    encoder = Counting()
    run(root, tmp_path, encoder, score_rule="matching+similarity")
    assert encoder.matches == 0, "the score rule needs no matching"


def test_a_broken_video_does_not_waste_the_work_on_the_others(root, tmp_path, monkeypatch):
    import reelscan.retrieval.embed_set as module
    from reelscan.video.errors import VideoError

    whole = module.read_whole

    def breaking(source, **settings):
        if source.name == "0.mp4":
            raise VideoError(settings["name"], "no frame can be decoded")
        return whole(source, **settings)

    monkeypatch.setattr(module, "read_whole", breaking)
    with pytest.raises(ValueError, match="1 of 8 videos"):
        run(root, tmp_path)
    encoder = Counting()
    report = run(root, tmp_path, encoder, leave_out_broken=True)
    assert encoder.clips_seen == 0
    assert [one.video for one in report.left_out] == ["0.mp4"]
