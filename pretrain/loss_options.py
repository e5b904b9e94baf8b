"""How the losses are computed, where the published system has a choice or a defect."""

from dataclasses import dataclass
from typing import Literal, get_args

ContrastiveLoss = Literal["softmax", "sigmoid"]
AlignmentDistance = Literal["l2", "mse", "smooth_l1"]
ContrastiveGradient = Literal["true", "local_slice"]
NegativeChoice = Literal["hard", "random"]
NegativeWeights = Literal["before_softmax", "after_softmax"]
MaskedLanguageMean = Literal["global", "local"]


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The defaults are ours; docs/differences.md tells the published ones and why."""

    alignment_distance: AlignmentDistance = "l2"
    """l2 (2 - 2 cos, as published), or a mean over entries: mse, smooth_l1."""
    alignment_normalise: bool = True
    """Compare features of length 1, as published."""
    contrastive: ContrastiveLoss = "softmax"
    """softmax (as published): find the own caption among all, and the own clip. sigmoid: judge each
    pair on its own (SigLIP)."""
    sigmoid_bias: float = -10.0
    """Where the learned bias of the sigmoid loss starts."""
    contrastive_gradient: ContrastiveGradient = "true"
    """true: averaging over processes gives the gradient of the global batch. local_slice (as
    published): the encoders get 1 / processes of it, the temperature all of it."""
    negatives: NegativeChoice = "hard"
    """hard: drawn by similarity, as published. random: any sample of another id alike."""
    negative_weights: NegativeWeights = "before_softmax"
    """Of hard negatives. before_softmax never fails. after_softmax (as published) has no negative
    left, and stops the run, once the positives take all of the softmax."""
    masked_language_mean: MaskedLanguageMean = "global"
    """Over the asked tokens of all processes, or (local, as published) over those of each
    process and then over processes."""
    each_frame: bool = True
    """Compare a caption with every frame's vector and average, where the mask hides as many tokens
    in each frame; else with one vector a clip."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("contrastive", ContrastiveLoss),
            ("alignment_distance", AlignmentDistance),
            ("contrastive_gradient", ContrastiveGradient),
            ("negatives", NegativeChoice),
            ("negative_weights", NegativeWeights),
            ("masked_language_mean", MaskedLanguageMean),
        ):
            if getattr(self, name) not in get_args(allowed):
                raise ValueError(
                    f"loss_options.{name} is {getattr(self, name)!r}; choose "
                    f"{' or '.join(get_args(allowed))}"
                )
        if self.contrastive == "sigmoid" and self.contrastive_gradient != "true":
            raise ValueError(
                "loss_options.contrastive is sigmoid, which was never published with another "
                'gradient than the true one; set contrastive_gradient to "true"'
            )
