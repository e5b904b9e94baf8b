from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.pretrain.clip_training import (
    ClipTrainingConfig,
    load_teacher,
    save_teacher,
    train_clip,
)

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 230), "grey": (120,) * 3}
VISION = ClipVisionConfig(
    image_size=16, patch_size=8, width=32, layers=2, heads=2, output_dim=16, return_layers=2
)
CONFIG = ClipTrainingConfig(
    vision=VISION, text_width=32, text_heads=2, steps=40, batch_size=32, learning_rate=3e-3
)


def coloured_halves(count: int) -> tuple[Tensor, list[str]]:
    """Noisy frames uint8 [N, 3, 16, 16] whose halves have the colours that the captions name."""
    generator = torch.Generator().manual_seed(0)
    names = list(COLOURS)
    drawn = torch.randint(len(names), (count, 2), generator=generator).tolist()
    frames = torch.empty(count, 3, 16, 16)
    for frame, (left, right) in zip(frames, drawn, strict=True):
        frame[:, :, :8] = torch.tensor(COLOURS[names[left]])[:, None, None]
        frame[:, :, 8:] = torch.tensor(COLOURS[names[right]])[:, None, None]
    noise = 20 * torch.randn(frames.shape, generator=generator)
    captions = [f"{names[left]} beside {names[right]}" for left, right in drawn]
    return (frames + noise).clamp(0, 255).to(torch.uint8), captions


def test_learns_what_captions_name() -> None:
    steps: list[int] = []
    report = train_clip(
        *coloured_halves(400), config=CONFIG, on_step=lambda step, loss: steps.append(step)
    )
    assert steps == list(range(1, 41))
    assert report.chance_recall_at_1 == pytest.approx(1 / 16, rel=0.4)
    assert report.recall_at_1 > 5 * report.chance_recall_at_1
    assert report.final_loss < 2.0
    assert not report.teacher.training


def test_follows_the_seed_and_leaves_the_global_one_alone() -> None:
    frames, captions = coloured_halves(64)
    config = ClipTrainingConfig(vision=VISION, text_width=32, text_heads=2, steps=3, batch_size=16)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train_clip(frames, captions, config=config)
    assert torch.equal(torch.rand(3), expected)
    second = train_clip(frames, captions, config=config)
    assert first.final_loss == second.final_loss
    for name, tensor in first.teacher.state_dict().items():
        assert torch.equal(tensor, second.teacher.state_dict()[name])


def test_equal_captions_are_no_mistakes() -> None:
    frames, _ = coloured_halves(64)
    config = ClipTrainingConfig(vision=VISION, text_width=32, text_heads=2, steps=2, batch_size=16)
    report = train_clip(frames, ["a frame"] * 64, config=config)
    assert report.recall_at_1 == report.chance_recall_at_1 == 1.0


def test_a_saved_teacher_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = ClipVision(VISION).eval()
    save_teacher(teacher, tmp_path / "teacher.safetensors")
    loaded = load_teacher(tmp_path / "teacher.safetensors")
    assert loaded.config == VISION and not loaded.training
    clip = torch.randn(1, 2, 3, 16, 16)
    assert torch.equal(loaded(clip).features, teacher(clip).features)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.safetensors"]


def test_other_files_are_no_teachers(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not weights")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_teacher(tmp_path / "text")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="save_teacher"):
        load_teacher(tmp_path / "other")


@pytest.mark.parametrize(
    ("frames", "captions", "match"),
    [
        (torch.zeros(40, 3, 16, 16), ["a"] * 40, "uint8"),
        (torch.zeros(40, 16, 16, 3, dtype=torch.uint8), ["a"] * 40, "3, S, S"),
        (torch.zeros(40, 3, 16, 16, dtype=torch.uint8), ["a"] * 39, "one caption a frame"),
        (torch.zeros(10, 3, 16, 16, dtype=torch.uint8), ["a"] * 10, "batch"),
    ],
)
def test_unfit_input_is_refused(frames: Tensor, captions: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        train_clip(frames, captions, config=CONFIG)


def test_unfit_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size"):
        ClipTrainingConfig(vision=VISION, batch_size=1)
    with pytest.raises(ValueError, match="held_out_fraction"):
        ClipTrainingConfig(vision=VISION, held_out_fraction=1.0)
