import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from reelscan.video.transforms import (
    center_crop,
    normalise,
    random_flip,
    random_resized_crop,
    resize,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(33, 17), (40, 64), (7, 90)])
def test_resize_is_torch_interpolation_rounded(
    shape: tuple[int, int], interpolation: str, antialias: bool
) -> None:
    frames = noise(2, 3, 3, *shape)
    smooth = F.interpolate(
        frames.flatten(0, 1).float(),
        size=(24, 30),
        mode=interpolation,
        align_corners=False,
        antialias=antialias,
    )
    expected = smooth.clamp(0, 255).round().to(torch.uint8).reshape(2, 3, 3, 24, 30)
    ours = resize(frames, (24, 30), interpolation=interpolation, antialias=antialias)  # type: ignore[arg-type]
    assert torch.equal(ours, expected)


def test_resize_in_parts_equals_resize_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(5, 3, 20, 30)
    at_once = resize(frames, 16)
    monkeypatch.setattr("reelscan.video.transforms._PIXELS_AT_ONCE", 1)
    assert torch.equal(resize(frames, 16), at_once)


def test_resize_does_not_depend_on_memory_layout() -> None:
    frames = noise(2, 3, 50, 41)
    strided = frames.to(memory_format=torch.channels_last)
    assert torch.equal(resize(strided, 32), resize(frames, 32))


def test_resize_to_the_same_size_changes_nothing() -> None:
    frames = noise(3, 3, 16, 16)
    assert torch.equal(resize(frames, 16), frames)


def test_nearest_keeps_to_the_given_colours() -> None:
    frames = noise(1, 3, 9, 9)
    small = resize(frames, 5, interpolation="nearest")
    assert set(small.flatten().tolist()) <= set(frames.flatten().tolist())


def test_center_crop_takes_the_middle() -> None:
    frames = noise(2, 3, 10, 20)
    assert torch.equal(center_crop(frames, 6), frames[:, :, 2:8, 7:13])
    with pytest.raises(ValueError, match="does not fit frames of 10 x 20"):
        center_crop(frames, 12)


def test_a_crop_is_shared_by_all_frames_and_follows_the_seed() -> None:
    still = noise(1, 3, 40, 60).expand(6, -1, -1, -1)
    crops = random_resized_crop(still, 32, generator=seeded(3))
    assert crops.shape == (6, 3, 32, 32)
    assert all(torch.equal(crop, crops[0]) for crop in crops)
    assert torch.equal(crops, random_resized_crop(still, 32, generator=seeded(3)))
    assert not torch.equal(crops, random_resized_crop(still, 32, generator=seeded(4)))


def test_a_crop_has_the_asked_share_of_the_area() -> None:
    # Each pixel is its own number, so the size of the box can be read off the crop.
    rows = torch.arange(64, dtype=torch.uint8)[:, None].expand(64, 64)
    frames = torch.stack((rows, rows.T, rows))[None]
    shares = []
    for seed in range(50):
        crop = random_resized_crop(
            frames, 64, generator=seeded(seed), scale=(0.3, 0.6), ratio=(1.0, 1.0)
        ).float()
        height = (crop[0, 0].max() - crop[0, 0].min() + 1) / 64
        width = (crop[0, 1].max() - crop[0, 1].min() + 1) / 64
        shares.append(float(height * width))
    assert 0.27 < min(shares) < 0.36 and 0.54 < max(shares) < 0.63


def test_a_box_that_never_fits_becomes_the_largest_central_one() -> None:
    frames = noise(1, 3, 8, 64)
    crop = random_resized_crop(frames, 8, generator=seeded(0), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert torch.equal(crop, center_crop(frames, 8))


def test_a_flip_is_all_or_nothing_and_about_even() -> None:
    frames = noise(4, 3, 8, 8)
    flips = 0
    for seed in range(100):
        flipped = random_flip(frames, generator=seeded(seed))
        is_flipped = torch.equal(flipped, frames.flip(-1))
        assert is_flipped or torch.equal(flipped, frames)
        flips += is_flipped
    assert 35 < flips < 65
    assert torch.equal(random_flip(frames, generator=seeded(0), probability=0), frames)
    assert torch.equal(random_flip(frames, generator=seeded(0), probability=1), frames.flip(-1))


def test_normalise_is_the_published_arithmetic() -> None:
    frames, mean, std = noise(2, 3, 5, 5), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (frames.float().div(255) - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
        :, None, None
    ]
    normal = normalise(frames, mean=mean, std=std)
    assert normal.dtype == torch.float32 and torch.equal(normal, expected)


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ValueError, match=r"float32 \[1, 3, 4, 4\]; give torch.uint8"):
        resize(torch.zeros(1, 3, 4, 4), 4)
    with pytest.raises(ValueError, match=r"\[4, 4, 3\]; give torch.uint8 \[..., 3, H, W\]"):
        resize(noise(4, 4, 3), 4)
    with pytest.raises(ValueError, match="at least one pixel"):
        resize(noise(3, 0, 4), 4)
    with pytest.raises(ValueError, match="size is 0"):
        resize(noise(3, 4, 4), 0)
    with pytest.raises(ValueError, match="std above 0"):
        normalise(noise(3, 4, 4), mean=(0, 0, 0), std=(1, 0, 1))
    with pytest.raises(ValueError, match="scale within"):
        random_resized_crop(noise(3, 4, 4), 4, generator=seeded(0), scale=(0.5, 2))
    with pytest.raises(ValueError, match="probability is 2"):
        random_flip(noise(3, 4, 4), generator=seeded(0), probability=2)
