"""BERT whose last layers also attend to a video: the text and the fusion encoder.

Layers 0 .. fusion_layer - 1 read text alone (`encode_text`); the rest read the text again with
cross-attention to vision tokens (`fuse`). Post-LN, erf GELU. Parameter names are the published
ones, which are Hugging Face's plus `crossattention`; the position ids are a stored buffer there.

B texts, L text tokens, N vision tokens, C text width, E vision width, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Sizes of a BERT with fusion layers; the defaults are bert-base-uncased for VideoMamba-M."""

    vocab_size: int = 30522
    """Number of WordPiece tokens."""
    hidden_size: int = 768
    """Width C of the text tokens."""
    num_hidden_layers: int = 12
    """Layers in all, text and fusion."""
    fusion_layer: int = 9
    """First layer with cross-attention; equal to num_hidden_layers: a text encoder only."""
    encoder_width: int = 576
    """Width E of the vision tokens that the fusion layers attend to."""
    num_attention_heads: int = 12
    """Attention heads H."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers."""
    max_position_embeddings: int = 512
    """Longest text in tokens."""
    type_vocab_size: int = 2
    """Segment embeddings; only the first is used."""
    pad_token_id: int = 0
    """Token id of [PAD]."""
    hidden_dropout_prob: float = 0.1
    """Dropout after embeddings, attention and feed-forward, as a fraction."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout of the attention weights, as a fraction."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in every LayerNorm."""
    initializer_range: float = 0.02
    """Standard deviation of freshly initialised weights."""

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "encoder_width",
            "num_attention_heads",
            "intermediate_size",
            "max_position_embeddings",
            "type_vocab_size",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; change one of them"
            )
        if not 0 <= self.fusion_layer <= self.num_hidden_layers:
            raise ValueError(
                f"fusion_layer is {self.fusion_layer}; give 0 to num_hidden_layers "
                f"({self.num_hidden_layers}, no fusion)"
            )
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f"pad_token_id is {self.pad_token_id}; give 0 to vocab_size - 1 "
                f"({self.vocab_size - 1})"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more, below 1")


def bert_base(*, encoder_width: int = 576) -> BertConfig:
    """bert-base-uncased, its last three layers fused with vision tokens of this width."""
    return BertConfig(encoder_width=encoder_width)


class BertEmbeddings(nn.Module):
    """Token ids [B, L] -> [B, L, C]."""

    position_ids: Tensor

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(
            config.vocab_size, width, padding_idx=config.pad_token_id
        )
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings)[None])

    def forward(self, input_ids: Tensor) -> Tensor:
        length = input_ids.shape[1]
        if length > self.position_ids.shape[1]:
            raise ValueError(
                f"the texts have {length} tokens; this model takes at most "
                f"{self.position_ids.shape[1]}: truncate them"
            )
        shared = self.position_embeddings.weight[:length] + self.token_type_embeddings.weight[0]
        embedded: Tensor = self.dropout(self.LayerNorm(self.word_embeddings(input_ids) + shared))
        return embedded


class BertSelfAttention(nn.Module):
    """Multi-head attention of `hidden` [B, L, C] to `context` [B or 1, N, context width]."""

    def __init__(self, config: BertConfig, *, context_width: int) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout_probability = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(context_width, config.hidden_size)
        self.value = nn.Linear(context_width, config.hidden_size)

    def _split(self, projected: Tensor) -> Tensor:
        batch, length, width = projected.shape
        return projected.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        if len(context) == 1 and mask is None:
            # What all rows attend to alike is projected once, and they become one long row.
            return self._attend(hidden.flatten(0, 1)[None], context, None).view(hidden.shape)
        return self._attend(hidden, context, mask)

    def _attend(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        attended = F.scaled_dot_product_attention(
            self._split(self.query(hidden)),
            self._split(self.key(context)),
            self._split(self.value(context)),
            attn_mask=mask,
            dropout_p=self.dropout_probability if self.training else 0.0,
        )
        return attended.transpose(1, 2).flatten(-2)


class BertResidual(nn.Module):
    """LayerNorm(residual + dropout(dense(hidden)))."""

    def __init__(self, config: BertConfig, *, input_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(residual + self.dropout(self.dense(hidden)))
        return normed


class BertAttention(nn.Module):
    """Attention with its projection, residual and norm."""

    def __init__(self, config: BertConfig, *, context_width: int) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, context_width=context_width)
        self.output = BertResidual(config, input_width=config.hidden_size)

    def forward(self, hidden: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        residual: Tensor = self.output(self.self(hidden, context, mask), hidden)
        return residual


class BertIntermediate(nn.Module):
    """GELU(dense(hidden)): the wide half of the feed-forward."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return F.gelu(self.dense(hidden))


class BertLayer(nn.Module):
    """Self-attention, cross-attention if this is a fusion layer, feed-forward."""

    def __init__(self, config: BertConfig, *, fusion: bool) -> None:
        super().__init__()
        self.attention = BertAttention(config, context_width=config.hidden_size)
        self.crossattention = (
            BertAttention(config, context_width=config.encoder_width) if fusion else None
        )
        self.intermediate = BertIntermediate(config)
        self.output = BertResidual(config, input_width=config.intermediate_size)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        vision: Tensor | None = None,
        vision_mask: Tensor | None = None,
    ) -> Tensor:
        hidden = self.attention(hidden, hidden, mask)
        if self.crossattention is not None:
            hidden = self.crossattention(hidden, vision, vision_mask)
        fed: Tensor = self.output(self.intermediate(hidden), hidden)
        return fed


class BertEncoder(nn.Module):
    """The stack of layers (a class of its own only for the parameter names)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            BertLayer(config, fusion=index >= config.fusion_layer)
            for index in range(config.num_hidden_layers)
        )


class BertModel(nn.Module):
    """Text encoder and fusion encoder without a language head.

    Masks are [B, L] or [B, N], bool or integer, true where there is a token. Where a text's mask
    is false its output is arbitrary but finite.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        initialise_bert(self, standard_deviation=config.initializer_range)

    @property
    def hidden_size(self) -> int:
        """Width C of the text tokens."""
        return self.config.hidden_size

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Run the text layers: int64 [B, L] -> [B, L, C]."""
        hidden: Tensor = self.embeddings(input_ids)
        mask = _attention_mask(attention_mask)
        for layer in self.encoder.layer[: self.config.fusion_layer]:
            hidden = layer(hidden, mask)
        return hidden

    def fuse(
        self,
        text: Tensor,
        attention_mask: Tensor | None,
        vision: Tensor,
        vision_mask: Tensor | None = None,
    ) -> Tensor:
        """Run the fusion layers: text [B, L, C] and vision [B, N, E] -> [B, L, C].

        vision [1, N, E] without a mask is the same for all texts, and cheaper than B copies.
        """
        if self.config.fusion_layer == self.config.num_hidden_layers:
            raise ValueError(
                f"this BERT has no fusion layers (fusion_layer = {self.config.fusion_layer} of "
                f"{self.config.num_hidden_layers}); configure a smaller fusion_layer"
            )
        mask, cross_mask = _attention_mask(attention_mask), _attention_mask(vision_mask)
        for layer in self.encoder.layer[self.config.fusion_layer :]:
            text = layer(text, mask, vision, cross_mask)
        return text

    def text_vector(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The vector that stands for a text: [CLS], so [B, L, C] -> [B, C]."""
        return hidden[:, 0]


class BertPredictionTransform(nn.Module):
    """LayerNorm(GELU(dense(hidden)))."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(F.gelu(self.dense(hidden)))
        return normed


class BertPredictions(nn.Module):
    """Hidden states [..., C] -> logits over the vocabulary, by the word embeddings themselves."""

    def __init__(self, config: BertConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.transform = BertPredictionTransform(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        # `decoder` repeats `bias` and the word embeddings: published checkpoints hold both names.
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, device="meta")
        self.decoder.weight = word_embeddings.weight
        self.decoder.bias = self.bias

    def forward(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.transform(hidden))
        return logits


class BertHead(nn.Module):
    """Holder of the prediction head under its published name, `cls.predictions`."""

    def __init__(self, config: BertConfig, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.predictions = BertPredictions(config, word_embeddings)


class BertForMaskedLM(nn.Module):
    """A `BertModel` under `bert`, and the masked-language head tied to its embeddings."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = BertModel(config)
        self.cls = BertHead(config, self.bert.embeddings.word_embeddings)
        initialise_bert(self.cls.predictions.transform, standard_deviation=config.initializer_range)

    @property
    def config(self) -> BertConfig:
        """The configuration of the encoder."""
        return self.bert.config

    @property
    def hidden_size(self) -> int:
        """Width C of the text tokens."""
        return self.bert.hidden_size

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """See `BertModel.encode_text`."""
        return self.bert.encode_text(input_ids, attention_mask)

    def fuse(
        self,
        text: Tensor,
        attention_mask: Tensor | None,
        vision: Tensor,
        vision_mask: Tensor | None = None,
    ) -> Tensor:
        """See `BertModel.fuse`."""
        return self.bert.fuse(text, attention_mask, vision, vision_mask)

    def text_vector(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """See `BertModel.text_vector`."""
        return self.bert.text_vector(hidden, attention_mask)

    def predict_tokens(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary: [..., C] -> [..., vocab_size]."""
        logits: Tensor = self.cls.predictions(hidden)
        return logits


def initialise_bert(module: nn.Module, *, standard_deviation: float) -> None:
    """BERT's initialisation, in place: normal weights, zero biases and [PAD] row, unit norms."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=standard_deviation)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()


def _attention_mask(mask: Tensor | None) -> Tensor | None:
    """[B, N], true = attend -> bool [B, 1, 1, N]."""
    return None if mask is None else mask.bool()[:, None, None, :]
