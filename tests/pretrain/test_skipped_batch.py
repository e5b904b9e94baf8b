import json
import math
from dataclasses import replace

import pytest
import torch

from reelscan.models.clip_vit import TeacherOutput
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.skipped_batch import SkippedStep, count_skipped, read_skipped, save_skipped

STEP = SkippedStep.of(
    step=12,
    position=14,
    losses={"total": math.nan, "contrastive": 2.0},
    gradient_norm=math.inf,
    highest_loss=math.inf,
)


def batch(number: int) -> Batch:
    return Batch(
        clips_uint8=torch.full((2, 1, 3, 4, 4), number, dtype=torch.uint8),
        captions=[f"a {number}", "naïve"],
        sample_ids=torch.tensor([number, 7]),
    )


def test_the_parts_of_all_processes_come_back_in_order(tmp_path):
    for process in (10, 0, 9):
        path = save_skipped(tmp_path, batch(process), STEP, process=process)
    step, batches = read_skipped(path)
    assert step == STEP and step.losses == {"total": None, "contrastive": 2.0}
    assert [part.sample_ids[0].item() for part in batches] == [0, 9, 10]
    assert batches[1].captions == ["a 9", "naïve"]
    assert torch.equal(batches[1].clips_uint8, batch(9).clips_uint8)
    assert count_skipped(tmp_path) == 1 and count_skipped(tmp_path / "none") == 0


def test_what_a_teacher_sees_comes_back(tmp_path):
    taught = TeacherOutput(features=torch.rand(1, 2, 5, 3).bfloat16(), attention=torch.rand(2, 4))
    path = save_skipped(tmp_path, replace(batch(1), taught=taught), STEP, process=0)
    (again,) = read_skipped(path)[1]
    assert torch.equal(again.taught.features, taught.features)
    assert torch.equal(again.taught.attention, taught.attention)


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="step-N-process-P"):
        read_skipped(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError):
        read_skipped(tmp_path / "step-00000001-process-0.safetensors")


@pytest.mark.parametrize("damage", ["tensors", "text", "captions"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = save_skipped(tmp_path, batch(1), STEP, process=0)
    told = path.with_suffix(".json")
    if damage == "tensors":
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "text":
        told.write_text("{")
    else:
        told.write_text(json.dumps({**json.loads(told.read_text()), "captions": ["one"]}))
    with pytest.raises(ValueError, match=path.stem):
        read_skipped(path)
