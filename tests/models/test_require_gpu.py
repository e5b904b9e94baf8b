import pytest
import torch
from gpu import SWITCH, require_gpu


@pytest.mark.parametrize("obstacle", [None, "a package is missing"])
@pytest.mark.parametrize("has_gpu", [False, True])
def test_a_test_without_its_gpu_is_skipped_or_fails(monkeypatch, has_gpu, obstacle):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    if has_gpu and obstacle is None:
        assert require_gpu(obstacle) == torch.device("cuda")
        return
    why = "a package is missing" if has_gpu else "there is no GPU"
    monkeypatch.delenv(SWITCH, raising=False)
    with pytest.raises(pytest.skip.Exception, match=why):
        require_gpu(obstacle)
    monkeypatch.setenv(SWITCH, "1")
    with pytest.raises(pytest.fail.Exception, match=why):
        require_gpu(obstacle)
