"""Alignment: the student's features follow the teacher's, token by token (UTA).

K alignment layers, B clips, N tokens (class token included), E teacher width.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F


def alignment_loss(
    student: Tensor,
    teacher: Tensor,
    *,
    kind: Literal["l2", "mse", "smooth_l1"] = "l2",
    normalise: bool = True,
) -> Tensor:
    """Mean distance of student and teacher, both [K, B, N, E]; a scalar in float32.

    kind: "l2" is 2 - 2 cos a token, "mse" and "smooth_l1" are means over the E entries too.
    normalise: bring both to unit length over E first ("l2" is a cosine only then).
    The teacher gets no gradient.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape; "
            "give the same layers, clips, visible tokens and width"
        )
    student, teacher = student.float(), teacher.detach().float()
    if normalise:
        student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    if kind == "l2":
        return (2 - 2 * (student * teacher).sum(-1)).mean()
    if kind == "mse":
        return F.mse_loss(student, teacher)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(student, teacher)
    raise ValueError(f"kind is {kind!r}; give 'l2', 'mse' or 'smooth_l1'")
