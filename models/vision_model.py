"""A VideoMamba alone, with a classifier's head or without: what the single-modality files hold.

Axes: B clips, T frames, H x W pixels, C model width, K classes.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from reelscan.models.videomamba import VideoMamba
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.models.weights import load_strict


class VisionModel(nn.Module):
    """A VideoMamba whose class token is a clip's feature, and a head on it if it has classes."""

    def __init__(self, config: VideoMambaConfig, *, classes: int = 0) -> None:
        super().__init__()
        self.encoder = VideoMamba(config)
        self.head = nn.Linear(config.width, classes) if classes else None

    @property
    def config(self) -> VideoMambaConfig:
        """The configuration of the encoder."""
        return self.encoder.config

    @property
    def classes(self) -> int:
        """Number K of classes; 0 without a head."""
        return self.head.out_features if self.head is not None else 0

    def features(self, clips: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Clips [B, T, 3, H, W], mask as in `VideoMamba` -> class tokens [B, C]."""
        return self.encoder.encode(clips, mask=mask).tokens[:, 0]

    def forward(self, clips: Tensor) -> Tensor:
        """Clips [B, T, 3, H, W] -> logits [B, K]. Raises ValueError without a head."""
        return self.classify(self.features(clips))

    def classify(self, features: Tensor) -> Tensor:
        """Class tokens [B, C] -> logits [B, K]. Raises ValueError without a head."""
        if self.head is None:
            raise ValueError("this encoder has no classifier's head; use its features")
        return F.linear(features, self.head.weight, self.head.bias)

    def stored_state(self) -> dict[str, Tensor]:
        """The parameters in the published names; `pool_norm`, which such files lack, left out."""
        state = {n: t for n, t in self.encoder.state_dict().items() if "pool_norm" not in n}
        if self.head is not None:
            state |= {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return state

    def load_stored(self, state: dict[str, Tensor]) -> None:
        """Load what `stored_state` gives. Raises ValueError listing what does not fit."""
        names = {n if n.startswith("head.") else f"encoder.{n}": t for n, t in state.items()}
        load_strict(self, names, allowed_missing=("encoder.pool_norm.*",))
