"""`reelscan evaluate` as a person meets it, with small models of random weights."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from random_model import save_random_model

from reelscan.models.torchvision_mismatch import importable_torchvision
from reelscan.video.encode import write_video

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
}


TEXTS = [f"a {name} screen" for name in COLOURS]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_random_model(folder / "first", texts=TEXTS)
    save_random_model(folder / "second", texts=TEXTS, seed=1, matching=False)
    return folder


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name, colour in COLOURS.items():
        frames = torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(8, 3, 32, 32)
        write_video(folder / f"{name}.mp4", frames, fps=8)
    annotations = [{"video": f"{name}.mp4", "caption": f"a {name} screen"} for name in COLOURS]
    (folder / "msrvtt_test1k.json").write_text(json.dumps(annotations))
    return folder


def test_list_names_every_benchmark_with_counts_and_licence(run) -> None:
    outcome = run("evaluate", "--list")
    assert outcome.code == 0
    for part in ("msrvtt", "27,763 texts", "captions of a video joined, first 30 s", "licence:"):
        assert part in outcome.out
    assert run("evaluate").code == 2


def test_a_name_alone_tells_what_is_needed(run) -> None:
    outcome = run("evaluate", "msrvtt")
    assert outcome.code == 1
    for part in ("--videos DIR is missing", "MSRVTT.zip", "DIR/msrvtt_test1k.json", "licence"):
        assert part in outcome.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("msrvt", "--videos", "."), "did you mean 'msrvtt'?"),
        (("msrvtt", "--videos", "gone"), "gone is not a folder"),
        (("didemo", "--videos", "videos"), "no didemo_ret_test.json in videos or "),
        (("msrvtt", "--videos", "videos"), "has 1,000 videos and 1,000 texts"),
        (("msrvtt", "--videos", "videos", "--join-captions"), "does not go with MSRVTT-1kA"),
        (("didemo", "--videos", "videos", "--max-seconds", "20"), "whose protocol has 30.0"),
        (("videos/msrvtt_test1k.json", "--annotations", "x.json"), "give one of them"),
        (("videos/msrvtt_test1k.json", "--join-captions"), "leave out --join-captions"),
        (("videos/msrvtt_test1k.json", "--model", "open_clip:ViT-B-32"), "MODEL:WEIGHTS"),
        (("gone.json",), "gone.json"),
    ],
)
def test_mistakes_are_explained(words, told: str, videos: Path, run) -> None:
    outcome = run("evaluate", *words)
    assert outcome.code == 1
    assert told in outcome.err


def test_one_command_prints_and_saves_everything(videos: Path, models: Path, run) -> None:
    words = ("evaluate", "msrvtt", "--videos", videos, "--model", models / "first")
    outcome = run(*words, "--any-counts", "--worst", 2)
    assert outcome.code == 0, outcome.err
    for row in (
        "text to video, embedding",
        "video to text, reranked (top 128)",
        "text to video, dual softmax *",
        "text to video, VideoMamba-M 25M, published     35.6   58.1   69.5",
        "video to text, chance",
        "* uses the whole query set",
        "note: not comparable with published results",
        "note: 4 frames a video; published results have 8",
    ):
        assert row in outcome.out
    folder = videos.parent / "evaluations" / "msrvtt"
    assert {one.name for one in folder.iterdir()} == {
        *("report.json", "report.md", "recall.png", "worst.png")
    }
    for picture in ("recall.png", "worst.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    report = json.loads((folder / "report.json").read_text())
    (measured,) = report["models"].values()
    assert report["benchmark"]["published"][2]["text_to_video"] == [35.6, 58.1, 69.5]
    assert (measured["videos"], measured["texts"]) == (6, 6)
    low, high = measured["intervals_95_percent"]["reranked"]["text_to_video"]["recall_at_5"]
    assert low <= measured["reranked"]["text_to_video"]["recall_at_5"] <= high
    (worst,) = report["worst"].values()
    assert [query["rank"] for query in worst] == sorted(
        (query["rank"] for query in worst), reverse=True
    )
    assert worst[0]["text"] == f"a {worst[0]['wanted'].removesuffix('.mp4')} screen"
    page = (folder / "report.md").read_text()
    assert "| VideoMamba-M 25M, published, reranked | 35.6 | 58.1 | 69.5 | | |" in page


def test_embedding_only_needs_no_matching_head(videos: Path, models: Path, run) -> None:
    words = ("evaluate", "msrvtt", "--videos", videos, "--any-counts", "--json")
    reranked = run(*words, "--model", models / "first")
    assert json.loads(reranked.out)["rerank_top"] == 128
    alone = run(*words, "--model", models / "first", "--embedding-only")
    assert json.loads(alone.out)["reranked"] is None
    unable = json.loads(run(*words, "--model", models / "second").out)
    assert unable["reranked"] is None
    assert "published results are reranked; this is by embeddings alone" in unable["notices"]
    refused = run(*words, "--model", models / "second", "--rerank-top", 4)
    assert refused.code == 1
    assert "trained without the matching loss" in refused.err


def test_texts_are_read_as_long_as_the_benchmark_says(videos: Path, models: Path, run) -> None:
    words = ("evaluate", "lsmdc", "--videos", videos, "--any-counts", "--json", "--embedding-only")
    annotations = ("--annotations", videos / "msrvtt_test1k.json")
    outcome = run(*words, *annotations, "--model", models / "first")
    notices = json.loads(outcome.out)["notices"]
    assert "the model reads 48 tokens of a text, and LSMDC 96" in notices


def test_three_encoders_side_by_side(videos: Path, models: Path, tmp_path: Path, run) -> None:
    importable_torchvision()
    open_clip = pytest.importorskip(
        "open_clip", reason="needs open_clip: pip install 'reelscan[openclip]'"
    )
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (tmp_path / "tiny-compared.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-compared.json")
    weights = tmp_path / "clip.pt"
    torch.save(open_clip.create_model("tiny-compared").state_dict(), weights)
    clip = f"open_clip:tiny-compared:{weights}"
    outcome = run(
        *("evaluate", videos / "msrvtt_test1k.json", "--model", models / "first"),
        *("--rerank-top", 3, "--worst", 1, "--to", tmp_path / "out"),
        *("--compare", models / "second", clip),
    )
    assert outcome.code == 0, outcome.err
    side_by_side = outcome.out.split("text to video           video to text")[1]
    for name in (f"{models / 'first'}, reranked (top 3)", f"{models / 'second'}, embedding", clip):
        assert name in side_by_side
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["models"]) == [str(models / "first"), str(models / "second"), clip]
    assert len({one["encoder_fingerprint"] for one in report["models"].values()}) == 3
    assert len(list((tmp_path / "out").glob("worst-*.png"))) == 3
    twice = run("evaluate", videos / "msrvtt_test1k.json", "--model", clip, "--compare", clip)
    assert twice.code == 1
    assert "named twice" in twice.err


def test_ctrl_c_keeps_what_was_finished(videos: Path, models: Path) -> None:
    script = (
        "import time\n"
        "from reelscan.models.encoder import VideoTextEncoder\n"
        "from reelscan.retrieval.cli.main import main\n"
        "match = VideoTextEncoder.match\n"
        "def slow(*arguments):\n"
        "    print('matching', flush=True)\n"
        "    time.sleep(0.3)\n"
        "    return match(*arguments)\n"
        "VideoTextEncoder.match = slow\n"
        "main()\n"
    )
    words = ["evaluate", "msrvtt", "--videos", videos, "--model", models / "first", "--any-counts"]
    command = [sys.executable, "-c", script, *map(str, words)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command, env=os.environ | {"PYTHONUNBUFFERED": "1"}, **options
    ) as process:
        for _ in range(3):
            assert process.stdout.readline() == "matching\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted; what was finished is kept"
    assert "Traceback" not in errors
    again = subprocess.run(command, timeout=120, **options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("matching\n") == len(COLOURS) - 2
    for line in ("embedding videos: all 6 videos", "embedding texts: all 6 texts"):
        assert f"{line} were done earlier" in again.stderr
