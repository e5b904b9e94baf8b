"""`reelscan classify` as a person meets it, with a small model of random weights."""

import csv
import json
from pathlib import Path

import pytest
import torch
from random_model import save_random_model

from reelscan.video.encode import write_video

LEVELS = {"DarkScreen": 20, "grey_screen": 120, "bright screen": 235}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A model, and folders of training and test videos of three classes."""
    folder = tmp_path_factory.mktemp("world")
    save_random_model(folder / "model", texts=["a video of dark grey bright screen"])
    for part, copies in (("train", 6), ("test", 2)):
        for name, level in LEVELS.items():
            for number in range(copies):
                brighter = level + 2 * number + (1 if part == "test" else 0)
                frames = torch.full((8, 3, 32, 32), brighter, dtype=torch.uint8)
                path = folder / part / name / f"{number}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_video(path, frames, fps=8)
    return folder


def test_all_ways_stand_side_by_side_and_are_written(run, world):
    words = ("classify", world / "test", "--train", world / "train", "--model", world / "model")
    outcome = run(*words, "--to", "out", "--neighbours", 3)
    assert outcome.code == 0, outcome.err
    assert "6 videos of 3 classes, 18 labelled examples" in outcome.out
    report = json.loads(Path("out/report.json").read_text())
    assert report["results"]["k-NN"]["top_1"] == 100.0
    assert report["results"]["linear probe"]["top_1"] == 100.0
    with Path("out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert all(row["class"] == row["linear probe"] == row["video"].split("/")[0] for row in rows)
    again = run(*words, "--to", "out", "--json")
    assert "all 6 videos were done earlier" in again.err
    assert json.loads(again.out)["examples"] == 18


def test_by_name_alone(run, world):
    outcome = run("classify", world / "test", "--model", world / "model", "--prompts", "{} now")
    assert outcome.code == 0, outcome.err
    assert "zero-shot" in outcome.out and "k-NN" not in outcome.out
    assert Path("classifications/test/predictions.csv").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere",), "no such folder or file"),
        (("{world}/test/DarkScreen",), "each class a subfolder"),
        (("{world}/test", "--prompts", "a video"), "needs one {}"),
        (("{world}/test", "--videos", "{world}"), "--videos is for annotation files"),
        (("{world}/test", "--train", "{world}/test"), "6 videos are in both sets"),
    ],
)
def test_mistakes_are_told_in_one_line(run, world, words, told):
    filled = [word.replace("{world}", str(world)) for word in words]
    outcome = run("classify", *filled, "--model", world / "model")
    assert outcome.code != 0
    assert told in outcome.err
    assert "Traceback" not in outcome.err
