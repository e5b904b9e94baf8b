"""One smoke run of the demo, shared by the tests of the commands."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from reelscan.retrieval.cli.main import run_command


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands write by default goes to a folder of the test."""
    monkeypatch.setenv("REELSCAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `reelscan` with these words."""

    def run_words(*words: object) -> Outcome:
        capsys.readouterr()
        try:
            code = run_command([str(word) for word in words])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run_words


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke demo."""
    root = tmp_path_factory.mktemp("demo") / "run"
    assert run_command(["demo", "--size", "smoke", "--to", str(root)]) == 0
    return root
