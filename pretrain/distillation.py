"""Self-distillation: the final features follow those of a smaller video encoder, token by token.

The published way to train the larger sizes (Li et al., 2024). Axes: B clips, T frames, H x W
pixels, N patch tokens (N_vis those not masked), C width of the student, E width of the teacher.
"""

import torch
from torch import Tensor, nn

from reelscan.models.alignment_loss import alignment_loss
from reelscan.models.videomamba import VideoMamba, VisionOutput
from reelscan.models.videomamba_config import VideoMambaConfig


class Distillation(nn.Module):
    """A frozen smaller encoder, and the learned map from the student's width to its width.

    Without a teacher it is empty. Raises ValueError if the two cut clips differently.
    """

    def __init__(self, student: VideoMambaConfig, teacher: VideoMamba | None) -> None:
        super().__init__()
        self.teacher = teacher
        self.head: nn.Linear | None = None
        if teacher is not None:
            check_same_tokens(student, teacher.config)
            teacher.requires_grad_(False).eval()
            self.head = nn.Linear(student.width, teacher.config.width)

    def train(self, mode: bool = True) -> "Distillation":
        """The teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, clips: Tensor, vision: VisionOutput, mask: Tensor | None) -> Tensor:
        """2 - 2 cos, averaged over class and visible tokens; the teacher sees the whole clip."""
        assert self.teacher is not None and self.head is not None, "checked in the configuration"
        with torch.no_grad():
            taught = self.teacher.encode(clips).tokens[None]
        tokens = torch.cat([vision.class_token[:, None], vision.tokens], dim=1)
        return alignment_loss(self.head(tokens)[None], visible_features(taught, mask))


def visible_features(features: Tensor, mask: Tensor | None) -> Tensor:
    """[K, B, 1 + N, E] and bool [B, 1 + N], True = hidden -> [K, B, 1 + N_vis, E]."""
    if mask is None:
        return features
    layers, clips, _, width = features.shape
    return features[:, ~mask].view(layers, clips, -1, width)


def check_same_tokens(student: VideoMambaConfig, teacher: VideoMambaConfig) -> None:
    """Raises ValueError unless both make the same tokens of a clip."""
    for name in ("image_size", "patch_size", "frames", "tubelet_size"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(
                f"{name} of the smaller encoder is {theirs}, but this model's is {ours}; "
                "distil from an encoder of the same clips and patches"
            )
