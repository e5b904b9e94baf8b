"""What all tests share: helpers to import, and the table of the replays."""

import sys
from pathlib import Path

import pytest

SUPPORT = str(Path(__file__).parent / "support")
if SUPPORT not in sys.path:
    sys.path.insert(0, SUPPORT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from golden_replay.table import table_lines

    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
    ]
    lines = table_lines(reports)
    if lines:
        terminalreporter.section("golden replay")
        terminalreporter.write_line("\n".join(lines))
