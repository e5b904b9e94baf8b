"""The table that pytest prints after the replays: family, cases, tensors, worst errors.

Results travel in the reports of the tests, so that it is whole under xdist too.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

PROPERTY = "golden_replay"


@dataclass
class FamilyResult:
    """What the replays of one family gave."""

    cases: int = 0
    failed: int = 0
    compared: int = 0
    absolute: float = 0.0
    of_tolerance: float = 0.0


def table_lines(reports: Iterable[pytest.TestReport]) -> list[str]:
    """The lines of the table; none if nothing was replayed."""
    families: dict[str, FamilyResult] = defaultdict(FamilyResult)
    for report in reports:
        for name, value in report.user_properties:
            if name == PROPERTY and report.when == "call":
                family, compared, absolute, of_tolerance = value
                result = families[family]
                result.cases += 1
                result.failed += report.failed
                result.compared += compared
                result.absolute = max(result.absolute, absolute)
                result.of_tolerance = max(result.of_tolerance, of_tolerance)
    if not families:
        return []
    heading = f"{'family':<20}{'cases':>7}{'failed':>8}{'compared':>10}{'worst error':>13}"
    lines = [f"{heading}{'of tolerance':>14}"]
    for family, result in sorted(families.items()):
        lines.append(_line(family, result))
    cases = sum(result.cases for result in families.values())
    total = FamilyResult(
        cases=cases,
        failed=sum(result.failed for result in families.values()),
        compared=sum(result.compared for result in families.values()),
        absolute=max(result.absolute for result in families.values()),
        of_tolerance=max(result.of_tolerance for result in families.values()),
    )
    return [*lines, _line("all", total)]


def _line(name: str, result: FamilyResult) -> str:
    return (
        f"{name:<20}{result.cases:>7}{result.failed:>8}{result.compared:>10}"
        f"{result.absolute:>13.2e}{result.of_tolerance:>14.1%}"
    )
