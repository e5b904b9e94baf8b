"""What a person meets first: help, versions, typing mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest

from reelscan import __version__
from reelscan.retrieval.cli.main import COMMANDS


def test_help_names_every_command(run) -> None:
    outcome = run("--help")
    assert outcome.code == 0
    assert all(f"  {name}" in outcome.out for name in COMMANDS)


def test_no_command_is_wrong_usage_and_shows_help(run) -> None:
    outcome = run()
    assert outcome.code == 2
    assert "usage: reelscan COMMAND" in outcome.out


@pytest.mark.parametrize(
    "words",
    [*((name,) for name in COMMANDS if name not in ("shards", "model")),
     *(("shards", action) for action in ("write", "index", "teach", "verify")),
     *(("model", action) for action in ("inspect", "convert", "verify", "teacher"))],
    ids=" ".join,
)  # fmt: skip
def test_help_has_examples(words: tuple[str, ...], run) -> None:
    outcome = run(*words, "--help")
    assert outcome.code == 0
    assert f"\n  reelscan {' '.join(words)}" in outcome.out


@pytest.mark.parametrize("name", ["shards", "model"])
def test_help_of_a_command_with_actions_lists_them(name: str, run) -> None:
    outcome = run(name, "--help")
    assert outcome.code == 0
    assert "\n  verify    " in outcome.out
    assert run(name).code == 2


def test_a_mistyped_action_is_corrected(run) -> None:
    outcome = run("shards", "wirte")
    assert outcome.code == 2
    assert "did you mean 'write'?" in outcome.err


def test_version(run) -> None:
    assert run("--version").out == f"reelscan {__version__}\n"


def test_a_mistyped_command_is_corrected(run) -> None:
    outcome = run("serch", "x")
    assert outcome.code == 2
    assert "did you mean `reelscan search`?" in outcome.err


def test_an_unknown_command_lists_the_commands(run) -> None:
    outcome = run("qqqq")
    assert outcome.code == 2
    assert "evaluate" in outcome.err


def test_a_mistyped_option_is_corrected(run) -> None:
    outcome = run("search", "c", "words", "--tpo", "3")
    assert outcome.code == 2
    assert "--top" in outcome.err + outcome.out


def test_help_does_not_wait_for_torch() -> None:
    script = (
        "import sys; from reelscan.retrieval.cli.main import run_command;"
        "run_command(['--help']); sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True)
    assert result.returncode == 0


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    command = [Path(sys.executable).parent / "reelscan", "search", tmp_path / "none", "words"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert str(tmp_path / "none") in result.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reelscan = Path(sys.executable).parent / "reelscan"
    with subprocess.Popen(
        [reelscan, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as it:
        it.stdout.close()
        assert it.stderr.read() == b""


def test_doctor_reports_every_part_and_runs_the_scan(run) -> None:
    outcome = run("doctor")
    assert outcome.code == 0
    for part in ("torch", "device", "scan", "decoder", "faiss", "mamba kernels"):
        assert f"{part}  " in outcome.out
