"""A folder is written completely or not at all, and its predecessor is never lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from reelscan.models import atomic_directory as module
from reelscan.models.atomic_directory import atomic_directory, previous_folder


def write(path, text):
    with atomic_directory(path) as folder:
        (folder / "a").write_text(text)
        (folder / "b").write_text(text)


def content(path):
    return {file.name: file.read_text() for file in path.iterdir()}


@pytest.fixture(params=["one step", "two steps"])
def either_way(request, monkeypatch):
    """Replacing by a swap, and as where the system has none."""
    if request.param == "two steps":
        monkeypatch.setattr(module, "_exchange", lambda first, second: False)


def test_writes_replaces_and_leaves_nothing_beside(tmp_path, either_way):
    write(tmp_path / "deep" / "model", "old")
    write(tmp_path / "deep" / "model", "new")
    assert content(tmp_path / "deep" / "model") == {"a": "new", "b": "new"}
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["model"]


def test_an_error_while_writing_leaves_the_old_folder(tmp_path, either_way):
    path = tmp_path / "model"
    write(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_directory(path) as folder:
        (folder / "a").write_text("half")
        raise KeyboardInterrupt
    assert content(path) == {"a": "old", "b": "old"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_a_failing_second_rename_brings_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write(path, "old")
    monkeypatch.setattr(module, "_exchange", lambda first, second: False)
    rename = type(path).rename

    def fail_for_the_new(self, target):
        if self.name.endswith(".unfinished"):
            raise OSError("disk trouble")
        return rename(self, target)

    monkeypatch.setattr(type(path), "rename", fail_for_the_new)
    with pytest.raises(OSError, match="disk trouble"):
        write(path, "new")
    assert content(path) == {"a": "old", "b": "old"}


def test_a_link_keeps_pointing_to_the_folder_that_was_replaced(tmp_path):
    write(tmp_path / "target", "old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "target") == {"a": "new", "b": "new"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere replacing takes two steps")
def test_killed_at_any_moment_a_complete_folder_is_there(tmp_path):
    path = tmp_path / "model"
    write(path, "0" * 1000)
    script = (
        "import sys; from pathlib import Path\n"
        "from reelscan.models.atomic_directory import atomic_directory\n"
        "for number in range(10**9):\n"
        "    with atomic_directory(Path(sys.argv[1])) as folder:\n"
        "        for name in 'ab': (folder / name).write_text(str(number % 10) * 1000)\n"
        "    print(number, flush=True)\n"
    )
    for attempt in range(5):
        writer = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
        writer.stdout.readline()  # it is at work
        time.sleep(0.01 + 0.003 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        found = content(path)
        assert found.keys() == {"a", "b"}
        assert found["a"] == found["b"]
        assert len(found["a"]) == 1000
    assert not previous_folder(path).exists()
