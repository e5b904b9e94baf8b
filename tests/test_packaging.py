"""The wheel, built from the sdist, works away from the checkout and holds only `reelscan`."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IMPORT_ALL = """
import importlib, pkgutil, reelscan
names = [m.name for m in pkgutil.walk_packages(reelscan.__path__, "reelscan.")]
assert len(names) > 40, names
for name in names:
    importlib.import_module(name)
print(reelscan.__file__)
print(len(names))
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_holds_every_source_file_and_nothing_generic(
    distributions: tuple[Path, Path],
) -> None:
    names = set(zipfile.ZipFile(distributions[0]).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"reelscan"}
    for room in ("video", "models", "pretrain", "index", "retrieval"):
        for path in (ROOT / room).rglob("*.py"):
            assert f"reelscan/{path.relative_to(ROOT)}" in names
    assert "reelscan/models/bert_uncased_vocab.txt" in names
    assert "reelscan/py.typed" in names
    for path in (ROOT / "retrieval" / "serve" / "page").iterdir():
        assert f"reelscan/{path.relative_to(ROOT)}" in names


def test_sdist_holds_regular_files_only(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[1]) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]


def test_wheel_imports_every_module_from_the_root_folder(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", str(distributions[0])]
    subprocess.run([python, *install], check=True, capture_output=True, timeout=120)
    site = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    # Dependencies come from the running environment, whose editable reelscan is not on this path.
    ours = [path for path in sys.path if path.endswith("site-packages")]
    script = f"import sys; sys.path += {ours!r}\n{IMPORT_ALL}"
    result = subprocess.run(
        [python, "-I", "-c", script], cwd="/", capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].startswith(site)
