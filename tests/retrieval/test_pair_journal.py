import numpy as np
import pytest

from reelscan.retrieval.pair_journal import PairJournal

FIRST, SECOND = np.array([1.5, -2.0], np.float32), np.array([3.0], np.float32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "pairs" / "x.logits"
    with PairJournal(path) as journal:
        journal.add(4, FIRST)
        journal.add(0, SECOND)
    return path


def read(path):
    with PairJournal(path) as journal:
        return [
            None if found is None else found.tolist()
            for found in (journal.logits(4, count=2), journal.logits(0, count=1))
        ]


def test_what_was_added_is_there_again(path):
    assert read(path) == [[1.5, -2.0], [3.0]]


def test_another_number_of_pairs_is_another_task(path):
    with PairJournal(path) as journal:
        assert journal.logits(4, count=3) is None
        assert journal.logits(1, count=1) is None


def test_a_cut_at_any_byte_keeps_what_was_whole(path):
    whole = path.read_bytes()
    first = 12 + 8
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read(path) == [[1.5, -2.0] if length >= first else None, None]
        assert path.stat().st_size == (first if length >= first else 0)
        with PairJournal(path) as journal:
            journal.add(0, SECOND)
        assert read(path)[1] == [3.0]


@pytest.mark.parametrize("place", [0, 4, 8, 12, 19])
def test_a_changed_byte_is_not_believed(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert read(path) == [None, None]


def test_two_processes_do_not_write_one_journal(path):
    with PairJournal(path), pytest.raises(ValueError, match="another process"):
        PairJournal(path)
