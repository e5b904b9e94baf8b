import math
from dataclasses import replace

import pytest
import torch
from tiny_training import TINY_MODEL

from reelscan.models.tokenizer import Tokenizer
from reelscan.pretrain import train
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.replay import replay_step
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.skipped_batch import SkippedStep, save_skipped
from reelscan.pretrain.train import pretrain
from reelscan.retrieval.cli.pretrain_replay import replay_text

WORDS = [f"w{number}" for number in range(45)]


class RandomClips:
    """Random clips."""

    unreadable_samples = 0

    def steps_in(self, epochs):
        return epochs

    def batches(self, step):
        while True:
            torch.manual_seed(step)
            yield Batch(
                clips_uint8=torch.randint(256, (4, 2, 3, 16, 16), dtype=torch.uint8),
                captions=[f"w{step} w{number}" for number in range(4)],
                sample_ids=torch.arange(4),
            )
            step += 1


@pytest.fixture
def run(tmp_path):
    """A folder, and the settings of a run of four steps."""
    Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]).save(tmp_path / "vocab.txt")
    config = PretrainConfig(
        model=TINY_MODEL,
        data=DataConfig(batch_size=4, max_text_tokens=8, vocabulary=tmp_path / "vocab.txt"),
        losses=LossWeights(alignment=0.0),
        mask=MaskConfig(kind="tube", ratio=0.5),
        run=RunConfig(device="cpu", checkpoint_every=3, tensorboard=False),
        steps=4,
    )
    return tmp_path, config


def test_a_skipped_step_comes_out_as_it_did_in_the_run(run, monkeypatch):
    folder, config = run
    # After three steps every loss is a spike.
    monkeypatch.setattr(
        train, "highest_loss", lambda recent, **_: -1.0 if len(recent) == 3 else math.inf
    )
    reports = []
    pretrain(config, folder / "run", source=RandomClips(), on_step=reports.append)
    assert reports[-1].skipped_steps == 1
    file = folder / "run" / "skipped" / "step-00000003-process-0.safetensors"
    replay = replay_step(file, checkpoint=folder / "run" / "checkpoints" / "step-00000003")
    assert replay.losses == reports[-1].losses
    assert replay.losses["matching"] > 0
    assert replay.skipped.losses == reports[-1].losses and replay.skipped.highest_loss == -1.0
    assert replay.broken_gradients == () and replay.clips == 4
    text = replay_text(replay)
    assert "every gradient is finite" in text and "step-00000003" in text


def test_the_batches_of_all_processes_are_one_step(run):
    folder, config = run
    pretrain(replace(config, steps=1), folder / "run", source=RandomClips())
    source = RandomClips().batches(9)
    step = SkippedStep.of(
        step=1, position=1, losses={}, gradient_norm=1.0, highest_loss=float("inf")
    )
    for process in range(2):
        file = save_skipped(folder / "run" / "skipped", next(source), step, process=process)
    replay = replay_step(file)
    assert replay.clips == 8
    assert replay.checkpoint.name == "step-00000001"


def test_a_file_away_from_its_run_is_refused(run):
    folder, _ = run
    step = SkippedStep.of(step=1, position=1, losses={}, gradient_norm=1.0, highest_loss=1.0)
    file = save_skipped(folder / "elsewhere", next(RandomClips().batches(0)), step, process=0)
    with pytest.raises(ValueError, match=r"holds no settings\.json"):
        replay_step(file)
