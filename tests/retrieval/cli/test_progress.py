"""Progress where there is no terminal: a line now and then, and one at the end."""

import pytest

from reelscan.retrieval.cli import progress
from reelscan.retrieval.cli.progress import StageProgress, duration_text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (4000, "1:06:40")]
)
def test_duration_text(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_lines_tell_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with StageProgress("embedding", unit="videos", total=40) as bar:
        bar.update(1)
        now[0] += progress.SECONDS_BETWEEN_LINES
        bar.update(20, note="x.mp4")
        now[0] += 10
        bar.update(40)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "embedding: 20/40, 2.0 videos/s, 0:10 left, x.mp4"
    assert lines[-1] == "embedding: 40 videos in 20 s"


def test_nothing_is_claimed_after_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), StageProgress("embedding", unit="videos"):
        raise KeyError
    assert capsys.readouterr().err == ""
