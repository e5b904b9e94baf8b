"""Dependencies go down only: retrieval on pretrain and index, these on video and models."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "video": {"video"},
    "models": {"models"},
    "pretrain": {"pretrain", "video", "models"},
    "index": {"index", "video", "models"},
    "retrieval": {"retrieval", "pretrain", "index", "video", "models"},
}
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def forbidden(path: Path, room: str) -> list[str]:
    found = []
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] in MAY_IMPORT:
            found.append(module)
        ours = parts[0] == "reelscan" and len(parts) > 1 and parts[1] in MAY_IMPORT
        if ours and parts[1] not in MAY_IMPORT[room]:
            found.append(module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    assert forbidden(path, room) == []


def test_every_room_has_files_and_a_link() -> None:
    for room in MAY_IMPORT:
        link = ROOT / "src" / "reelscan" / room
        assert link.is_symlink() and link.resolve() == ROOT / room
        assert list((ROOT / room).glob("*.py"))


def test_the_check_sees_an_upward_and_a_bare_import(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from reelscan.retrieval import metrics\n"
        "import models.mixer\n"
        "from reelscan.video import probe\n"
    )
    assert sorted(forbidden(bad, "video")) == ["models.mixer", "reelscan.retrieval.metrics"]
