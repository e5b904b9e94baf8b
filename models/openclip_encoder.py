"""Any open_clip model as an `Encoder`: frames are embedded one by one and averaged.

open_clip is optional: pip install 'reelscan[openclip]'.

B clips, T frames, Q texts, S side in pixels, E embedding width.
"""

import difflib
import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from reelscan.models.openclip_text import import_open_clip
from reelscan.models.preprocessing import Preprocessing


class OpenClipEncoder:
    """An open_clip model that sees a video as a bag of frames; it has no matching head.

    Frames are squeezed to squares, as for our models, where CLIP's own way crops the middle.
    float32 on the CPU, bfloat16 autocast on CUDA.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        preprocessing: Preprocessing,
        *,
        fingerprint: str,
        device: torch.device | str = "cpu",
        frames_at_once: int = 64,
        texts_at_once: int = 64,
    ) -> None:
        """model and tokenizer: open_clip's; `load_openclip_encoder` puts them together."""
        self.device = torch.device(device)
        self.model: Any = model.to(self.device).eval()
        self.preprocessing = preprocessing
        self.fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._frames_at_once = frames_at_once
        self._texts_at_once = texts_at_once
        self.embed_dim = int(self.encode_text(["a"]).shape[1])

    def encode_video(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, T, 3, S, S] -> float32 [B, E]: the mean of frame vectors of length 1."""
        self.preprocessing.check_frames(frames_uint8)
        return self.encode_frames(frames_uint8).mean(dim=1)

    def encode_frames(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, T, 3, S, S], T any number -> float32 [B, T, E] of length 1."""
        self.preprocessing.check_frames(frames_uint8, any_length=True)
        if not len(frames_uint8):
            return torch.empty(0, frames_uint8.shape[1], self.embed_dim)
        with torch.inference_mode(), self._autocast():
            vectors = [
                F.normalize(
                    self.model.encode_image(
                        self.preprocessing.normalise(frames.to(self.device))
                    ).float(),
                    dim=-1,
                ).cpu()
                for frames in torch.split(frames_uint8.flatten(0, 1), self._frames_at_once)
            ]
        return torch.cat(vectors).view(*frames_uint8.shape[:2], -1)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Q texts, as they stand -> float32 [Q, E] of length 1."""
        if not texts:
            return torch.empty(0, self.embed_dim)
        with torch.inference_mode(), self._autocast():
            vectors = [
                F.normalize(self.model.encode_text(tokens.to(self.device)).float(), dim=-1).cpu()
                for tokens in torch.split(self._tokenizer(texts), self._texts_at_once)
            ]
        return torch.cat(vectors)

    def _autocast(self) -> AbstractContextManager[None]:
        on_gpu = self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu)


def load_openclip_encoder(
    model_name: str,
    *,
    weights: str,
    device: torch.device | str = "cpu",
    frames: int = 8,
) -> OpenClipEncoder:
    """An open_clip model such as "ViT-B-32" with the mean of `frames` frames for a video.

    weights: a checkpoint file, or the name of open_clip weights such as "laion2b_s34b_b79k"
    (downloaded if need be). Raises ValueError for names that open_clip does not know.
    """
    open_clip = import_open_clip()
    _check_names(open_clip, model_name, weights)
    model = open_clip.create_model(model_name, pretrained=weights, require_pretrained=True)
    how: Mapping[str, Any] = open_clip.get_model_preprocess_cfg(model)
    size = how["size"]
    side = int(size if isinstance(size, int) else size[0])
    preprocessing = Preprocessing(
        frames=frames,
        size=side,
        mean=tuple(how["mean"]),
        std=tuple(how["std"]),
        interpolation="bilinear" if how.get("interpolation") == "bilinear" else "bicubic",
        antialias=True,
        max_text_tokens=int(getattr(model, "context_length", 77) or 77),
    )
    return OpenClipEncoder(
        model,
        open_clip.get_tokenizer(model_name),
        preprocessing,
        fingerprint=_fingerprint(model, f"open_clip {model_name} {preprocessing}"),
        device=device,
    )


def _check_names(open_clip: Any, model_name: str, weights: str) -> None:
    known = open_clip.list_models()
    if model_name not in known:
        close = difflib.get_close_matches(model_name, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see open_clip.list_models()"
        raise ValueError(f"open_clip has no model {model_name!r}; {hint}")
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    is_file = Path(weights).is_file()
    if weights not in tags and not is_file:
        raise ValueError(
            f"open_clip has no weights {weights!r} for {model_name}, and there is no such file; "
            f"it has {', '.join(tags) or 'none: give a checkpoint file'}"
        )


def _fingerprint(model: torch.nn.Module, described: str) -> str:
    """sha256 over the weights and what else decides the vectors."""
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
