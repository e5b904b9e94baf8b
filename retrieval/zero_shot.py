"""Classes told by their names alone. E embedding width, K classes, P prompts."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from reelscan.models.encoder import Encoder
from reelscan.retrieval.labelled_videos import spoken

PROMPTS = (
    "{}",
    "a video of {}",
    "a video of a person {}",
    "someone is {}",
    "a clip that shows {}",
)
"""What a class's name is put into; a class's vector is the mean over them."""


def class_vectors(
    encoder: Encoder, classes: Sequence[str], *, prompts: Sequence[str] = PROMPTS
) -> NDArray[np.float32]:
    """[K, E], of length 1: the mean of each class's prompts. Raises ValueError for bad prompts."""
    check_prompts(prompts)
    texts = [prompt.replace("{}", spoken(name)) for name in classes for prompt in prompts]
    vectors = encoder.encode_text(texts).view(len(classes), len(prompts), -1).mean(dim=1)
    if not torch.isfinite(vectors).all():
        raise ValueError("vectors of class names are NaN or infinite, so the model is broken")
    return F.normalize(vectors, dim=1).numpy()


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise ValueError unless each has one place for the class."""
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise ValueError(f"the prompt {prompt!r} needs one {{}}, where the class's name goes")
    if not prompts:
        raise ValueError("there are no prompts; give at least one, such as '{}'")
