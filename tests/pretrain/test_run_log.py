import json
import sys
from types import SimpleNamespace

import pytest

from reelscan.pretrain.run_log import METRICS_FILE, RunLog, read_metrics


def test_lines_are_readable_while_the_run_goes_on(tmp_path):
    with RunLog(tmp_path, steps_done=0, tensorboard=False) as log:
        log.write(0, {"total": 2.0})
        assert read_metrics(tmp_path / METRICS_FILE) == [{"step": 0, "total": 2.0}]


def test_resume_drops_the_steps_that_will_be_done_again(tmp_path):
    with RunLog(tmp_path, steps_done=0, tensorboard=False) as log:
        for step in range(5):
            log.write(step, {"total": float(step)})
    with RunLog(tmp_path, steps_done=3, tensorboard=False) as log:
        log.write(3, {"total": 30.0})
    assert [row["total"] for row in read_metrics(tmp_path / METRICS_FILE)] == [0.0, 1.0, 2.0, 30.0]


def test_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / METRICS_FILE
    path.write_text(json.dumps({"step": 0, "total": 1.0}) + '\n{"step": 1, "to', encoding="utf-8")
    with RunLog(tmp_path, steps_done=2, tensorboard=False) as log:
        log.write(2, {"total": 3.0})
    assert [row["step"] for row in read_metrics(path)] == [0, 2]


def test_a_new_run_starts_an_empty_file(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 0, "total": 1.0}\n', encoding="utf-8")
    RunLog(tmp_path, steps_done=0, tensorboard=False).close()
    assert read_metrics(tmp_path / METRICS_FILE) == []


def test_tensorboard_gets_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path, steps_done=0, tensorboard=True) as log:
        log.write(0, {"total": 2.0})
        log.write(7, {"total": 1.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("total")] == [(0, 2.0), (7, 1.5)]


class FakeWandb(SimpleNamespace):
    """What of wandb is used, remembered."""

    def __init__(self):
        self.started, self.logged, self.ended = [], [], 0
        self.util = SimpleNamespace(generate_id=lambda: "abc123")

    def init(self, **options):
        self.started.append(options)
        return self

    def define_metric(self, name, *, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.ended += 1


def test_wandb_gets_the_same_numbers_and_the_same_run_on_resume(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for step in (0, 1):
        with RunLog(tmp_path, steps_done=step, tensorboard=False, wandb="films") as log:
            log.write(step, {"total": 2.0 - step})
    assert fake.logged == [{"step": 0, "total": 2.0}, {"step": 1, "total": 1.0}]
    assert [(each["project"], each["id"]) for each in fake.started] == [("films", "abc123")] * 2
    assert fake.ended == 2


def test_wandb_that_is_wanted_but_missing_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        RunLog(tmp_path, steps_done=0, tensorboard=False, wandb="films")


def test_steps_that_are_done_again_replace_the_earlier_ones(tmp_path):
    with RunLog(tmp_path, steps_done=0, tensorboard=False) as log:
        for step, total in ((0, 1.0), (1, 2.0), (2, 3.0), (1, 4.0)):
            log.drop_from(step)
            log.write(step, {"total": total})
    rows = read_metrics(tmp_path / METRICS_FILE)
    assert [(row["step"], row["total"]) for row in rows] == [(0, 1.0), (1, 4.0)]
