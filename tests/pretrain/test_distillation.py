from dataclasses import replace

import pytest
import torch
from tiny_training import TINY_MODEL

from reelscan.models.videomamba import VideoMamba
from reelscan.pretrain.distillation import Distillation

STUDENT = TINY_MODEL.vision
TEACHER = replace(STUDENT, width=16)


def masked_clips():
    torch.manual_seed(1)
    hidden = torch.rand(3, 8).argsort(1) < 5
    mask = torch.cat([torch.zeros(3, 1, dtype=torch.bool), hidden], dim=1)
    return torch.randn(3, 2, 3, 16, 16), mask


def test_each_visible_token_is_compared_with_its_own_of_the_whole_clip():
    torch.manual_seed(0)
    student, teacher = VideoMamba(STUDENT), VideoMamba(TEACHER)
    distillation = Distillation(STUDENT, teacher)
    clips, mask = masked_clips()
    vision = student(clips, mask=mask, keep_temporal=False)
    loss = distillation(clips, vision, mask)
    loss.backward()
    taught = teacher.encode(clips).tokens
    ours = student.encode(clips, mask=mask).tokens
    distances = []
    for clip in range(3):
        visible = [token for token in range(9) if not mask[clip, token]]
        for place, token in enumerate(visible):
            given = distillation.head(ours[clip, place])
            cosine = torch.cosine_similarity(given, taught[clip, token], dim=0)
            distances.append(2 - 2 * cosine)
    assert loss.item() == pytest.approx(torch.stack(distances).mean().item(), rel=1e-5)
    assert student.cls_token.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_stays_in_evaluation_mode():
    distillation = Distillation(STUDENT, VideoMamba(replace(TEACHER, drop_path_rate=0.5)))
    assert not distillation.train().teacher.training and distillation.head.training


def test_a_teacher_of_other_clips_is_refused():
    with pytest.raises(ValueError, match="frames of the smaller encoder is 4"):
        Distillation(STUDENT, VideoMamba(replace(TEACHER, frames=4)))


def test_without_a_teacher_there_is_nothing_to_train():
    assert not list(Distillation(STUDENT, None).parameters())
