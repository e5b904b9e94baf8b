import numpy as np
import pytest
import torch

from reelscan.video.encode import write_video
from reelscan.video.reader import open_reader
from reelscan.video.shots import find_cuts, shot_spans


def film(path, moving_frames, lengths, *, fps=10):
    """Each shot pans over a picture of its own."""
    pictures = moving_frames(20 * len(lengths))[::20]
    shots = [
        torch.stack([picture.roll(frame // 2, dims=-1) for frame in range(length)])
        for picture, length in zip(pictures, lengths, strict=True)
    ]
    write_video(path, torch.cat(shots), fps=fps, crf=18)
    return path


def spans(path, **options):
    with open_reader(path) as reader:
        return shot_spans(reader, **options)


def test_shots_are_found_where_they_were_cut(tmp_path, moving_frames):
    path = film(tmp_path / "film.mp4", moving_frames, [15, 12, 31, 20])
    found = spans(path)
    assert [start for start, _ in found] == pytest.approx([0.0, 1.5, 2.7, 5.8])
    assert [end for _, end in found] == pytest.approx([1.5, 2.7, 5.8, 7.8])


def test_shots_too_short_are_part_of_their_neighbours(tmp_path, moving_frames):
    path = film(tmp_path / "film.mp4", moving_frames, [15, 4, 20, 4])
    assert [start for start, _ in spans(path)] == pytest.approx([0.0, 1.5])
    found = spans(path, shortest_seconds=0.3)
    assert [start for start, _ in found] == pytest.approx([0.0, 1.5, 1.9, 3.9])


def test_long_shots_are_cut_into_equal_parts(tmp_path, moving_frames):
    path = film(tmp_path / "film.mp4", moving_frames, [12, 50])
    found = spans(path, longest_seconds=2.0)
    assert found == [
        pytest.approx(span)
        for span in [(0, 1.2), (1.2, 1.2 + 5 / 3), (1.2 + 5 / 3, 1.2 + 10 / 3), (1.2 + 10 / 3, 6.2)]
    ]


def test_real_motion_is_no_cut(sample_videos):
    # One shot of a talking person filmed from a moving car.
    assert len(spans(sample_videos["carphone_pristine"])) == 1


def test_the_cuts_of_a_real_film_are_found(sample_videos):
    # As PySceneDetect 0.7.2 finds them with either of its detectors, but for a last shot of 0.3 s.
    found = [start for start, _ in spans(sample_videos["bikes"])]
    assert found == pytest.approx([0.0, 1.2, 3.04, 5.48, 7.48], abs=0.01)


def test_a_cut_stands_out_from_its_neighbours():
    quiet = np.full(20, 2.0)
    quiet[0] = 0.0
    assert find_cuts(quiet, threshold=2.0) == []
    moving = np.full(20, 30.0)
    moving[0] = 0.0
    assert find_cuts(moving, threshold=2.0) == []
    one = moving.copy()
    one[9] = 70.0
    assert find_cuts(one, threshold=2.0) == [9]
    assert find_cuts(one, threshold=2.5) == []
    flicker = quiet.copy()
    flicker[9] = 8.0
    assert find_cuts(flicker, threshold=2.0) == []
