import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from reelscan.models.bert import BertConfig
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.model_directory import load_model
from reelscan.models.scan_backend import wanted_backend
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain import objective
from reelscan.pretrain.checkpoint_files import read_state
from reelscan.pretrain.clip_training import save_teacher
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.run_log import read_metrics
from reelscan.pretrain.run_reports import StepReport
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.skipped_batch import read_skipped
from reelscan.pretrain.step_options import GuardConfig, ParallelConfig
from reelscan.pretrain.train import TrainingDivergedError, pretrain

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 200),
    "white": (220, 220, 220),
}
PLACES = {"top": slice(0, 8), "bottom": slice(8, 16)}
WORDS = ["a", "square", "at", "the", *COLOURS, *PLACES]
BATCH = 4
OFF = LossWeights(alignment=0.0, contrastive=0.0, matching=0.0, masked_language=0.0, distillation=1)
NO_MASK = MaskConfig(kind="none")


class MemorySource:
    """Eight squares of different colours and places, two batches an epoch."""

    unreadable_samples = 0

    def __init__(self) -> None:
        clips, self.captions = [], []
        for colour, values in COLOURS.items():
            for place, rows in PLACES.items():
                clip = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
                clip[:, :, rows, 4:12] = torch.tensor(values, dtype=torch.uint8)[:, None, None]
                clips.append(clip)
                self.captions.append(f"a {colour} square at the {place}")
        self.clips = torch.stack(clips)

    def steps_in(self, epochs: int) -> int:
        return 2 * epochs

    def batches(self, step: int) -> Iterator[Batch]:
        for number in count(step):
            epoch, place = divmod(number, 2)
            order = torch.randperm(8, generator=torch.Generator().manual_seed(epoch))
            rows = order.split(BATCH)[place]
            yield Batch(
                clips_uint8=self.clips[rows],
                captions=[self.captions[row] for row in rows],
                sample_ids=rows,
            )


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]).save(path)
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    torch.manual_seed(11)
    config = ClipVisionConfig(
        image_size=16, patch_size=8, width=16, layers=1, heads=2, output_dim=12
    )
    save_teacher(ClipVision(config), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


@pytest.fixture
def config(vocabulary: Path, teacher: Path) -> PretrainConfig:
    """All four losses with everything random switched on."""
    return PretrainConfig(
        model=VideoTextConfig(
            vision=VideoMambaConfig(
                image_size=16,
                patch_size=8,
                frames=2,
                depth=2,
                width=24,
                alignment_width=12,
                drop_path_rate=0.1,
                last_alignment_before_mixer=False,
            ),
            text=BertConfig(
                vocab_size=5 + len(WORDS),
                hidden_size=24,
                num_hidden_layers=2,
                fusion_layer=1,
                encoder_width=24,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=12,
            ),
            embed_dim=12,
        ),
        data=DataConfig(batch_size=BATCH, max_text_tokens=10, vocabulary=vocabulary),
        mask=MaskConfig(kind="attention", ratio=0.5),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        run=RunConfig(device="cpu", log_every=1, checkpoint_every=100, tensorboard=False, seed=3),
        steps=7,
        teacher=teacher,
    )


def train(config: PretrainConfig, out: Path, **options):
    return pretrain(config, out, source=MemorySource(), **options)


def without_dropout(model: VideoTextConfig) -> VideoTextConfig:
    return replace(
        model,
        vision=replace(model.vision, drop_path_rate=0.0),
        text=replace(model.text, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    )


def losses_of(out: Path) -> list[float]:
    return [row["total"] for row in read_metrics(out / "metrics.jsonl")]


def stop_after(steps: int):
    asked = iter(range(1000))
    return lambda: next(asked) + 1 >= steps


def test_a_run_learns_and_leaves_a_usable_model(config, tmp_path):
    calm = replace(
        config,
        model=without_dropout(config.model),
        steps=120,
        mask=MaskConfig(kind="none"),
        optimizer=OptimizerConfig(learning_rate=6e-3),
        run=replace(config.run, checkpoint_every=50, keep_checkpoints=1, log_every=25),
    )
    out = tmp_path / "run"
    reports: list[StepReport] = []
    report = train(calm, out, on_step=reports.append)

    assert [each.step for each in reports] == list(range(1, 121))
    for name, factor in {"total": 0.4, "alignment": 0.2, "contrastive": 0.5}.items():
        early = [each.losses[name] for each in reports[:10]]
        late = [each.losses[name] for each in reports[-10:]]
        assert sum(late) < factor * sum(early), name
    assert reports[0].total_steps == 120
    assert reports[0].learning_rate < reports[12].learning_rate > reports[-1].learning_rate
    assert 0.0 <= reports[-1].data_wait_fraction < 1.0
    assert reports[-1].clips_per_second > 0 and reports[-1].seconds_left == 0

    assert (report.steps, report.interrupted, report.skipped_steps) == (120, False, 0)
    assert report.losses == reports[-1].losses
    assert report.checkpoint == out / "checkpoints" / "step-00000120"
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000120"]
    rows = read_metrics(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [24, 49, 74, 99, 119]
    assert (out / "losses.png").stat().st_size > 5_000
    assert {"gradient_norm_text_encoder", "temperature", "data_wait_fraction"} <= rows[-1].keys()
    assert json.loads((out / "settings.json").read_text())["steps"] == 120

    encoder = load_model(report.model)
    source = MemorySource()
    similarity = encoder.encode_video(source.clips) @ encoder.encode_text(source.captions).T
    right_colour = similarity.argmax(1) // 2 == torch.arange(8) // 2
    assert right_colour.float().mean() >= 0.75


@pytest.mark.parametrize("stop_at", [3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(config, tmp_path, stop_at):
    """Stopped within an epoch and at its end; dropout, drop path, masks and draws included."""
    whole = train(config, tmp_path / "whole")
    part = train(config, tmp_path / "parts", should_stop=stop_after(stop_at))
    assert part.interrupted and part.steps == stop_at and part.model is None
    assert not (tmp_path / "parts" / "model").exists()
    torch.manual_seed(12345)
    rest = train(config, tmp_path / "parts", resume=True)
    assert not rest.interrupted and rest.steps == 7
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    assert load_model(rest.model).fingerprint == load_model(whole.model).fingerprint


def test_a_killed_run_goes_on_from_its_last_checkpoint(config, tmp_path):
    class Killed(BaseException):
        pass

    def die(report: StepReport) -> None:
        if report.step == 6:
            raise Killed

    config = replace(config, run=replace(config.run, checkpoint_every=4))
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", on_step=die)
    rest = train(config, tmp_path / "killed", resume=True)
    rows = read_metrics(tmp_path / "killed" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(7))
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert load_model(rest.model).fingerprint == load_model(whole.model).fingerprint


def test_resuming_a_finished_run_does_nothing_more(config, tmp_path):
    train(config, tmp_path / "run")
    again = train(config, tmp_path / "run", resume=True)
    assert (again.steps, again.losses) == (7, {})
    assert len(losses_of(tmp_path / "run")) == 7


def test_resume_without_a_checkpoint_starts_anew(config, tmp_path):
    assert train(replace(config, steps=1), tmp_path / "run", resume=True).steps == 1


def test_a_folder_that_holds_a_run_is_not_overwritten(config, tmp_path):
    train(replace(config, steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match="holds a run already"):
        train(replace(config, steps=1), tmp_path / "run")


def test_other_settings_are_refused_on_resume_by_name(config, tmp_path):
    train(config, tmp_path / "run", should_stop=stop_after(1))
    changed = replace(config, optimizer=replace(config.optimizer, learning_rate=1.0))
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate was 0\.003 and is 1\.0"):
        train(changed, tmp_path / "run", resume=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_stops_after_the_step_and_saves(config, tmp_path, number):
    usual = signal.getsignal(number)

    def press(report: StepReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), number)

    report = train(config, tmp_path / "run", on_step=press)
    assert report.interrupted and report.steps == 3
    assert report.checkpoint.name == "step-00000003" and report.checkpoint.is_dir()
    assert signal.getsignal(number) is usual


def test_held_out_clips_are_measured_without_a_trace_in_training(config, tmp_path):
    seen = []

    def measure(encoder):
        torch.rand(1)
        seen.append(encoder.fingerprint)
        return {"recall_at_1": float(len(seen))}

    config = replace(config, run=replace(config.run, held_out_every=3, log_every=2))
    train(config, tmp_path / "plain")
    report = train(config, tmp_path / "measured", held_out=measure)
    rows = read_metrics(tmp_path / "measured" / "metrics.jsonl")
    recalls = {row["step"]: row.get("held_out_recall_at_1") for row in rows}
    assert recalls == {1: None, 2: 1.0, 3: None, 5: 2.0, 6: 3.0}
    assert len(set(seen)) == 3 and seen[-1] == load_model(report.model).fingerprint
    plain = read_metrics(tmp_path / "plain" / "metrics.jsonl")
    assert [row["total"] for row in plain] == [row["total"] for row in rows if row["step"] != 2]
    assert "held-out videos" not in (tmp_path / "plain" / "report.html").read_text()
    assert (tmp_path / "measured" / "report.html").stat().st_size > 100_000


def spoil_contrastive(monkeypatch, bad_calls: range) -> None:
    calls = iter(range(1000))
    healthy = objective.contrastive_loss

    def contrastive(*arguments, **options):
        loss = healthy(*arguments, **options)
        return loss * torch.nan if next(calls) in bad_calls else loss

    monkeypatch.setattr(objective, "contrastive_loss", contrastive)


def test_a_step_without_a_finite_loss_is_skipped_and_counted(config, tmp_path, monkeypatch):
    spoil_contrastive(monkeypatch, range(2, 4))
    weights = []

    def remember(report: StepReport) -> None:
        weights.append(report.temperature)

    report = train(config, tmp_path / "run", on_step=remember)
    assert report.skipped_steps == 2 and report.steps == 7
    assert weights[2] == weights[3] == weights[4] != weights[5]
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "total" not in row] == [2, 3]
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    encoder = load_model(report.model)
    assert torch.isfinite(encoder.encode_video(MemorySource().clips)).all()


def test_too_many_bad_steps_in_a_row_end_the_run_with_advice(config, tmp_path, monkeypatch):
    spoil_contrastive(monkeypatch, range(1, 1000))
    config = replace(config, guard=GuardConfig(max_in_a_row=3, saved_batches=2))
    with pytest.raises(TrainingDivergedError, match=r"last 3 steps before step 4.*learning_rate"):
        train(config, tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "skipped").iterdir())
    assert names == [
        f"step-0000000{step}-process-0.{kind}"
        for step in (1, 2)
        for kind in ("json", "safetensors")
    ]


def test_a_spike_is_skipped_and_its_batch_saved_for_a_look(config, tmp_path, monkeypatch):
    healthy = objective.contrastive_loss
    calls = iter(range(1000))

    def contrastive(*arguments, **options):
        return healthy(*arguments, **options) + 1000.0 * (next(calls) == 5)

    monkeypatch.setattr(objective, "contrastive_loss", contrastive)
    config = replace(config, guard=GuardConfig(memory_steps=4))
    report = train(config, tmp_path / "run")
    assert report.skipped_steps == 1
    step, batches = read_skipped(
        tmp_path / "run" / "skipped" / "step-00000005-process-0.safetensors"
    )
    assert step.losses["total"] > 1000 > step.highest_loss
    expected = next(MemorySource().batches(5))
    assert batches[0].captions == expected.captions
    assert torch.equal(batches[0].clips_uint8, expected.clips_uint8)


def test_a_run_that_diverges_goes_back_and_on_with_other_clips(config, tmp_path, monkeypatch):
    spoil_contrastive(monkeypatch, range(4, 6))
    config = replace(
        config,
        guard=GuardConfig(max_in_a_row=2, on_divergence="roll_back"),
        run=replace(config.run, checkpoint_every=3),
    )
    steps = []
    report = train(config, tmp_path / "run", on_step=lambda report: steps.append(report.step))
    assert steps == [1, 2, 3, 4, 5, 6, 4, 5, 6, 7]
    assert (report.steps, report.roll_backs, report.skipped_steps) == (7, 1, 2)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(7))
    assert [row["roll_backs"] for row in rows] == [0, 0, 0, 1, 1, 1, 1]
    state = read_state(report.checkpoint)
    assert (state.step, state.position) == (7, 10)


def test_roll_backs_come_to_an_end(config, tmp_path, monkeypatch):
    spoil_contrastive(monkeypatch, range(3, 1000))
    config = replace(
        config,
        guard=GuardConfig(max_in_a_row=1, on_divergence="roll_back", max_roll_backs=2),
        run=replace(config.run, checkpoint_every=2),
    )
    with pytest.raises(TrainingDivergedError, match="after 2 roll-backs"):
        train(config, tmp_path / "run")


def test_parts_of_a_batch_train_and_resume_exactly(config, tmp_path):
    config = replace(config, parallel=ParallelConfig(accumulate=2, recompute_fusion=True))
    whole = train(config, tmp_path / "whole")
    train(config, tmp_path / "parts", should_stop=stop_after(3))
    rest = train(config, tmp_path / "parts", resume=True)
    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    assert load_model(rest.model).fingerprint == load_model(whole.model).fingerprint


def test_recomputing_changes_nothing(config, tmp_path):
    vision = replace(config.model.vision, checkpointed_blocks=2)
    frugal = replace(
        config,
        model=replace(config.model, vision=vision),
        parallel=ParallelConfig(recompute_fusion=True),
    )
    train(config, tmp_path / "usual")
    train(frugal, tmp_path / "frugal")
    assert losses_of(tmp_path / "frugal") == losses_of(tmp_path / "usual")


def test_a_larger_model_follows_a_smaller_one_and_not_the_reverse(config, tmp_path):
    alone = replace(config, teacher=None, losses=LossWeights(alignment=0.0), mask=NO_MASK)
    small = train(replace(alone, steps=2), tmp_path / "small")
    vision = replace(config.model.vision, width=48)
    text = replace(config.model.text, encoder_width=48)
    larger = replace(
        alone,
        model=without_dropout(replace(config.model, vision=vision, text=text)),
        losses=replace(OFF, distillation=1.0),
        mask=MaskConfig(kind="random", ratio=0.5),
        smaller_encoder=small.model,
        steps=25,
        optimizer=OptimizerConfig(learning_rate=2e-2),
    )
    train(larger, tmp_path / "large")
    distances = [row["distillation"] for row in read_metrics(tmp_path / "large/metrics.jsonl")]
    assert distances[-1] < 0.4 * distances[0]
    from_checkpoint = replace(larger, smaller_encoder=small.checkpoint)
    train(from_checkpoint, tmp_path / "again", should_stop=stop_after(2))
    assert losses_of(tmp_path / "again") == losses_of(tmp_path / "large")[:2]


def test_a_run_starts_from_another_runs_checkpoint(config, tmp_path):
    first = train(replace(config, steps=3), tmp_path / "first")
    slow = replace(config, optimizer=replace(config.optimizer, learning_rate=1e-12), steps=1)
    second = train(replace(slow, initial_model=first.checkpoint), tmp_path / "second")
    trained = load_model(first.model).model.state_dict()
    for name, value in load_model(second.model).model.state_dict().items():
        torch.testing.assert_close(value, trained[name], atol=1e-8, rtol=0)


def test_the_video_only_stage_reads_no_captions_and_the_next_stage_starts_from_it(config, tmp_path):
    alignment_only = LossWeights(contrastive=0.0, matching=0.0, masked_language=0.0)
    first = train(replace(config, losses=alignment_only), tmp_path / "first")
    assert first.losses["total"] == first.losses["alignment"] > 0
    trained = load_model(first.model).model
    second = replace(config, initial_model=first.model, initial_part="vision_encoder")
    frozen = replace(second, optimizer=replace(config.optimizer, learning_rate=1e-12), steps=1)
    report = train(frozen, tmp_path / "second")
    continued = load_model(report.model).model.vision_encoder.state_dict()
    for name, value in trained.vision_encoder.state_dict().items():
        torch.testing.assert_close(continued[name], value, atol=1e-8, rtol=0)


def test_the_unmasked_stage_needs_no_teacher(config, tmp_path):
    unmasked = replace(
        config, teacher=None, losses=LossWeights(alignment=0.0), mask=MaskConfig(kind="none")
    )
    report = train(unmasked, tmp_path / "run")
    assert report.losses["alignment"] == 0 and report.losses["matching"] > 0


def test_bf16_on_the_cpu_trains_too(config, tmp_path):
    config = replace(config, run=replace(config.run, precision="bf16"))
    assert train(config, tmp_path / "run").skipped_steps == 0


def test_epochs_count_passes_over_the_data(config, tmp_path):
    assert train(replace(config, steps=None, epochs=3), tmp_path / "run").total_steps == 6


def test_a_vocabulary_that_does_not_fit_the_model_is_refused(config, tmp_path):
    without = replace(config, data=replace(config.data, vocabulary=None))
    with pytest.raises(ValueError, match="tokenizer has 30522 tokens"):
        train(without, tmp_path / "run")


def test_no_shards_is_an_error_that_says_what_to_give(config, tmp_path):
    with pytest.raises(ValueError, match=r"NAME\.index\.json"):
        pretrain(config, tmp_path / "run")


def test_the_scan_can_be_chosen_for_a_run_and_only_for_it(config, tmp_path):
    chosen = replace(config, run=replace(config.run, scan="mamba_ssm"))
    with pytest.raises(ValueError, match="choose another scan than 'mamba_ssm'"):
        train(chosen, tmp_path / "run")
    assert wanted_backend() is None
