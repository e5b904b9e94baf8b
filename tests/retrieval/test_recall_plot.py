import numpy as np
import pytest

from reelscan.retrieval.benchmark import find_benchmark
from reelscan.retrieval.recall_plot import recall_curve, write_recall_plot


def test_the_curve_counts_what_is_found_so_far():
    curve = recall_curve(np.array([1, 1, 3, 200]), deepest=4)
    assert curve.tolist() == [50, 50, 75, 75]


def test_nothing_to_plot_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no evaluation"):
        write_recall_plot(tmp_path / "x.png", {}, benchmark=find_benchmark("msvd"))
