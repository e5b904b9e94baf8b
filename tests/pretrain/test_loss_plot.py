import numpy as np
import pytest

from reelscan.pretrain.loss_plot import plot_losses, running_mean
from reelscan.pretrain.run_log import METRICS_FILE, RunLog


def test_a_picture_of_the_run_is_drawn(tmp_path):
    cv2 = pytest.importorskip("cv2")
    with RunLog(tmp_path, steps_done=0, tensorboard=False) as log:
        for step in range(100):
            log.write(step, {"total": 5.0 / (1 + step), "alignment": 1.0, "matching": 0.0})
    plot_losses(tmp_path / METRICS_FILE, tmp_path / "losses.png", title="a run")
    picture = cv2.imread(str(tmp_path / "losses.png"))
    assert picture.shape == (450, 800, 3)
    assert picture.std() > 5.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.png", METRICS_FILE]


def test_nothing_logged_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(ValueError, match="holds no logged step"):
        plot_losses(tmp_path / METRICS_FILE, tmp_path / "losses.png")


def test_running_mean_looks_back_a_fiftieth_of_the_run():
    values = list(range(100))
    means = running_mean(values)
    assert means[0] == 0.0
    np.testing.assert_allclose(means[1:], np.arange(1, 100) - 0.5)
