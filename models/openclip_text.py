"""open_clip's text towers as the text encoder, and their tokenizer.

Same calls as `BertModel` for text alone: `hidden_size`, `encode_text`, `text_vector`. They have no
fusion layers and no language head. open_clip is optional: pip install 'reelscan[openclip]'.

B texts, L tokens, C text width, E embedding width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reelscan.models.tokenizer import TokenBatch, clean_caption
from reelscan.models.torchvision_mismatch import importable_torchvision


class OpenClipText(nn.Module):
    """A causal CLIP text tower that hands out its token states."""

    def __init__(self, tower: nn.Module) -> None:
        """tower: an `open_clip.transformer.TextTransformer` that pools at the end token."""
        super().__init__()
        pooling = getattr(tower, "pool_type", None)
        if pooling != "argmax" or getattr(tower, "cls_emb", None) is not None:
            raise ValueError(
                f"this text tower ({type(tower).__name__}, pool_type {pooling!r}) is not a plain "
                "CLIP one; give one that pools at the end token, such as that of ViT-B-32"
            )
        self.tower: Any = tower

    @property
    def hidden_size(self) -> int:
        """Width C of the token states."""
        return int(self.tower.width)

    @property
    def max_tokens(self) -> int:
        """Longest text in tokens."""
        return int(self.tower.context_length)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """int64 [B, L] -> final token states [B, L, C]. Attention is causal: it needs no mask."""
        length = input_ids.shape[1]
        if length > self.max_tokens:
            raise ValueError(
                f"the texts have {length} tokens; this tower takes at most {self.max_tokens}: "
                "truncate them"
            )
        hidden = self.tower.token_embedding(input_ids) + self.tower.positional_embedding[:length]
        hidden = self.tower.transformer(hidden, attn_mask=self.tower.attn_mask[:length, :length])
        normed: Tensor = self.tower.ln_final(hidden)
        return normed

    def text_vector(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """The state of the end token, the last that attention_mask [B, L] has: [B, C]."""
        last = attention_mask.sum(1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def project(self, vector: Tensor) -> Tensor:
        """CLIP's own projection of text vectors: [B, C] -> [B, E], not normalised."""
        projection = self.tower.text_projection
        if projection is None:
            return vector
        projected: Tensor = (
            projection(vector) if isinstance(projection, nn.Linear) else vector @ projection
        )
        return projected


class OpenClipTokenizer:
    """CLIP's byte-pair tokenizer, called like `Tokenizer`."""

    def __init__(self, model_name: str) -> None:
        """model_name: an open_clip model, such as "ViT-B-32"."""
        open_clip = import_open_clip()
        tokenizer = open_clip.get_tokenizer(model_name)
        if not isinstance(tokenizer, open_clip.SimpleTokenizer):
            raise ValueError(
                f"{model_name} uses {type(tokenizer).__name__}; give a model with CLIP's own "
                "tokenizer, such as ViT-B-32"
            )
        self._tokenizer = tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return int(self._tokenizer.vocab_size)

    def __call__(
        self, texts: Sequence[str], *, max_tokens: int = 77, clean: bool = False
    ) -> TokenBatch:
        """Tokenize and pad with 0 to max_tokens. CLIP was trained on captions left as they are."""
        if isinstance(texts, str):
            raise TypeError(f"texts is the string {texts!r}; give a list of strings")
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; the start and end token alone need 2")
        cleaned = [clean_caption(text) for text in texts] if clean else list(texts)
        input_ids: Tensor = self._tokenizer(cleaned, context_length=max_tokens)
        end = (input_ids == self._tokenizer.eot_token_id).int().argmax(1)
        return TokenBatch(input_ids, torch.arange(max_tokens) <= end[:, None])


def load_openclip_text(model_name: str, *, weights: str | None) -> OpenClipText:
    """The text tower of an open_clip model such as "ViT-B-32".

    weights: a checkpoint file, the name of open_clip weights (downloaded if need be), or None for
    random ones.
    """
    open_clip = import_open_clip()
    model = open_clip.create_model(
        model_name,
        pretrained=weights,
        force_custom_text=True,
        pretrained_text=False,
        require_pretrained=weights is not None,
    )
    return OpenClipText(model.text)


def import_open_clip() -> Any:
    """The module; raises ModuleNotFoundError that names the extra to install."""
    importable_torchvision()
    try:
        import open_clip
    except ModuleNotFoundError as error:
        if error.name != "open_clip":
            raise
        raise ModuleNotFoundError(
            "open_clip is not installed; pip install 'reelscan[openclip]'", name="open_clip"
        ) from error
    return open_clip
