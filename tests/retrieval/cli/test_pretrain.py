"""The command line of pretraining: recipes, the dry run, and how a run ends."""

import json
from pathlib import Path

import pytest
from toy_shards import COUNT, write_corpus

from reelscan.models.model_directory import load_model
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.run_reports import PretrainReport
from reelscan.pretrain.train import TrainingDivergedError
from reelscan.retrieval.cli import pretrain as command
from reelscan.retrieval.cli.pretrain_recipes import (
    DEFAULT_SIZES,
    RECIPES,
    STAGES_OF_CORPORA,
    find_recipe,
)


def rows(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("warning")]
    return {line[:26].strip(): line[26:].strip() for line in lines}


@pytest.mark.parametrize("corpus", STAGES_OF_CORPORA)
def test_a_dry_run_of_every_published_stage_needs_no_data(run, corpus):
    for stage in STAGES_OF_CORPORA[corpus]:
        for size in ("tiny", "small", "middle"):
            outcome = run("pretrain", f"{stage}:{size}:{corpus}", "--dry-run")
            assert outcome.code == 0, outcome.err
            told = rows(outcome.out)
            assert int(told["steps"].replace(",", "")) > 1000
            assert float(told["H100-hours, about"].replace(",", "")) > 1
            assert set(told) >= {"videos, images an epoch", "disk", "memory a GPU, about"}


def test_a_dry_run_counts_the_given_shards_by_their_weights(run, tmp_path):
    index = write_corpus(tmp_path / "toy")
    options = ("--data.shards", index, "--data.weights", 2, "--data.batch-size", 4, "--epochs", 3)
    outcome = run("pretrain", "unmasked:tiny", "--dry-run", *options)
    assert outcome.code == 0, outcome.err
    told = rows(outcome.out)
    assert told["videos, images an epoch"] == f"{2 * COUNT}, 0"
    assert told["steps"] == str(3 * 2 * COUNT // 4)
    assert told["clips a step"] == "4 in 1 process, 4 at once"
    assert not list(tmp_path.glob("TO-BE*"))


def test_a_dry_run_without_anything_to_count_says_what_to_give(run):
    outcome = run("pretrain", "unmasked", "--dry-run")
    assert outcome.code == 1 and "give --data.shards" in outcome.err


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("unmaskt", "did you mean 'unmasked'?"),
        ("unmasked:mid", "did you mean 'middle'?"),
        ("fine-tuned:5M", "5M was published for video-text-masked and unmasked"),
    ],
)
def test_an_unknown_recipe_is_named_with_the_nearest(run, name, hint):
    outcome = run("pretrain", name, "--out", "x")
    assert outcome.code == 2 and hint in outcome.err


def test_the_help_lists_recipes_and_corpora(run):
    outcome = run("pretrain")
    assert outcome.code == 2
    for name in (*RECIPES, *STAGES_OF_CORPORA):
        assert name in outcome.out


def test_as_many_gpus_as_there_are_make_the_published_batch(monkeypatch):
    for processes, local, parts in ((1, 4096, 32), (8, 512, 4), (32, 128, 1), (64, 64, 1)):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        settings = find_recipe("video-text-masked:middle:25M", placeholders=True).settings
        assert (settings.data.batch_size, settings.parallel.accumulate) == (local, parts)
    monkeypatch.setenv("WORLD_SIZE", "7")
    with pytest.raises(ValueError, match="7 processes do not divide the 4096 clips"):
        find_recipe("video-text-masked:middle:25M", placeholders=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    first = find_recipe("video-only-masked:middle:K400", placeholders=True).settings
    assert first.optimizer.learning_rate == pytest.approx(6e-4)
    assert first.data.batch_size == 512


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_valid_configuration_whose_options_can_be_set(
    name, monkeypatch, tmp_path
):
    seen: list[PretrainConfig] = []

    def remember(label, config, out, *, resume, held_out):
        seen.append(config)
        return ended(config, out, interrupted=False)

    monkeypatch.setattr(command, "run_stage", remember)
    given = {
        "video-only-masked": "--teacher",
        "video-text-masked": "--teacher",
        "single-gpu": "--teacher",
        "self-distilled": "--smaller-encoder",
        "fine-tuned": "--initial-model",
        "unmasked": "--initial-model",
    }[name]
    words = [name, "--out", "run", "--data.shards", "a.index.json", given, "file", "--steps", "5"]
    words += ["--epochs", "None", "--guard.on-divergence", "roll_back"]
    words += ["--parallel.sharding", "fully_sharded"]
    assert command.main(words) == 0
    assert seen[0].steps == 5 and seen[0].parallel.sharding == "fully_sharded"
    assert [str(index) for index in seen[0].data.shards] == ["a.index.json"]
    width = seen[0].model.vision.width
    assert width == {"small": 384, "middle": 576}[DEFAULT_SIZES.get(name, "middle")]


def ended(config: PretrainConfig, out: Path, *, interrupted: bool) -> PretrainReport:
    return PretrainReport(
        steps=3,
        total_steps=5,
        interrupted=interrupted,
        skipped_steps=2,
        roll_backs=0,
        unreadable_samples=0,
        losses={"total": 1.0},
        seconds=1.0,
        data_wait_seconds=0.0,
        checkpoint=out / "checkpoints" / "step-00000003",
        model=None if interrupted else out / "model",
    )


def test_a_stopped_run_ends_well_and_says_how_to_go_on(run, monkeypatch):
    monkeypatch.setattr(
        command,
        "run_stage",
        lambda label, config, out, *, resume, held_out: ended(config, out, interrupted=True),
    )
    outcome = run("pretrain", "unmasked", "--out", "r", "--data.shards", "a.index.json")
    assert outcome.code == 0
    assert "--resume goes on from r/checkpoints/step-00000003" in outcome.out
    assert "2 steps were skipped" in outcome.out and "r/report.html" in outcome.out


def test_a_run_that_diverged_is_an_error(run, monkeypatch):
    def diverge(*arguments, **options):
        raise TrainingDivergedError("the last 20 steps")

    monkeypatch.setattr(command, "run_stage", diverge)
    outcome = run("pretrain", "unmasked", "--out", "r", "--data.shards", "a.index.json")
    assert outcome.code == 1 and "the last 20 steps" in outcome.err


def test_held_out_recall_is_that_of_the_evaluation(demo_root, run):
    annotations = demo_root / "corpus" / "test.json"
    measure = command.held_out_recall(annotations, videos=demo_root / "corpus")
    measured = measure(load_model(demo_root / "pretrain" / "model"))
    assert len(measured) == 6
    expected = json.loads((demo_root / "results.json").read_text())["embedding"]
    assert measured["text_to_video_recall_at_10"] == pytest.approx(
        expected["text_to_video"]["recall_at_10"]
    )


def test_a_wrong_held_out_file_is_found_before_training(run, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    outcome = run("pretrain", "unmasked", "--out", "r", "--data.shards", "a", "--held-out", bad)
    assert outcome.code == 1 and "bad.json" in outcome.err
