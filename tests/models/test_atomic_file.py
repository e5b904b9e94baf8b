import os

import pytest

from reelscan.models.atomic_file import replacing, write_atomically


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    write_atomically(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("a", b"old")]


def test_what_a_kill_left_is_removed_but_not_what_another_process_writes(tmp_path):
    for name, age in ((".a.1.tmp", 7200), (".a.2.tmp", 0), (".b.1.tmp", 7200)):
        (tmp_path / name).touch()
        modified = (tmp_path / name).stat().st_mtime - age
        os.utime(tmp_path / name, (modified, modified))
    write_atomically(tmp_path / "a", b"new")
    assert sorted(one.name for one in tmp_path.iterdir()) == [".a.2.tmp", ".b.1.tmp", "a"]
