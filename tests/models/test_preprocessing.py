"""Preprocessing values are checked and applied as published."""

import pytest
import torch

from reelscan.models.preprocessing import Preprocessing


def test_normalises_like_the_published_evaluation():
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    result = Preprocessing().normalise(frames)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.flatten(), torch.tensor(expected))


def test_takes_clips_and_images_of_its_size():
    preprocessing = Preprocessing(frames=4, size=6)
    for frames in (4, 1):
        preprocessing.check_frames(torch.zeros(2, frames, 3, 6, 6, dtype=torch.uint8))


@pytest.mark.parametrize(
    "frames",
    [
        torch.zeros(2, 4, 3, 6, 6),
        torch.zeros(2, 3, 3, 6, 6, dtype=torch.uint8),
        torch.zeros(2, 4, 6, 6, 3, dtype=torch.uint8),
        torch.zeros(2, 4, 3, 8, 6, dtype=torch.uint8),
        torch.zeros(4, 3, 6, 6, dtype=torch.uint8),
    ],
)
def test_other_frames_are_refused_with_what_is_taken(frames):
    with pytest.raises(ValueError, match=r"takes torch.uint8 \[B, 4 or 1, 3, 6, 6\]"):
        Preprocessing(frames=4, size=6).check_frames(frames)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"size": -1}, "size is -1"),
        ({"max_text_tokens": 2}, "max_text_tokens is 2"),
        ({"std": (0.0, 1.0, 1.0)}, "std"),
        ({"mean": (0.5, 0.5)}, "three numbers"),
        ({"interpolation": "cubic"}, "choose one of .*bicubic"),
        ({"sampling": "random"}, "choose one of .*middle"),
    ],
)
def test_bad_values_are_refused(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        Preprocessing(**values)
