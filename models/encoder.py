"""What everything that embeds videos and texts looks like to search and benchmarks, and ours.

Axes: B videos or pairs, Q texts, T frames, S side of a frame in pixels, N vision tokens, L text
tokens, E embedding width, C encoder width.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from reelscan.models.clip_length import with_clip_length
from reelscan.models.long_pass import pool_long_clips
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba import VideoMamba


@runtime_checkable
class Encoder(Protocol):
    """Puts videos and texts into one space; an inner product there is their similarity."""

    @property
    def fingerprint(self) -> str:
        """Names the weights and everything else that decides the vectors."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How frames and texts have to be prepared."""

    @property
    def embed_dim(self) -> int:
        """Width E of the vectors."""

    def encode_video(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, T, 3, S, S] -> float32 [B, E] on the CPU."""

    def encode_text(self, texts: list[str]) -> Tensor:
        """Q texts -> float32 [Q, E] of length 1, on the CPU."""


@runtime_checkable
class FrameEncoder(Encoder, Protocol):
    """Also gives a vector for each frame of a clip of any length."""

    def encode_frames(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, T, 3, S, S] -> float32 [B, T, E] of length 1, on the CPU.

        Their mean over the `preprocessing.frames` of a clip is its `encode_video`. [B, 1, E] where
        the model does not tell frames apart.
        """


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """Texts ready to be matched with videos."""

    hidden: Tensor
    """[Q, L, C]."""
    attention_mask: Tensor
    """[Q, L], true at tokens."""

    def __getitem__(self, rows: Tensor | slice | list[int]) -> "TextTokens":
        """The texts of these rows, repeated if a row is."""
        return TextTokens(hidden=self.hidden[rows], attention_mask=self.attention_mask[rows])


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """What one pass over videos gives."""

    vectors: Tensor
    """float32 [B, E], as of `encode_video`."""
    tokens: Tensor
    """[B, N, C], as of `video_tokens`."""


@dataclass(frozen=True, kw_only=True)
class TextFeatures:
    """What one pass over texts gives."""

    vectors: Tensor
    """float32 [Q, E], as of `encode_text`."""
    tokens: TextTokens
    """As of `text_tokens`."""


@runtime_checkable
class MatchingEncoder(Encoder, Protocol):
    """Also judges a video and a text together: slower, better, for a shortlist."""

    can_match: bool
    """False where the matching head was never trained."""

    def video_tokens(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, T, 3, S, S] -> [B, N, C]"""

    def text_tokens(self, texts: list[str]) -> TextTokens:
        """Q texts -> their hidden states."""

    def match(self, text_tokens: TextTokens, video_tokens: Tensor) -> Tensor:
        """Logit of "match" of each row's text with its video [B, N, C]: float32 [B] on the CPU."""


@runtime_checkable
class OnePassEncoder(MatchingEncoder, Protocol):
    """Also gives vectors and tokens from one pass, for half the work."""

    def video_features(self, frames_uint8: Tensor) -> VideoFeatures:
        """uint8 [B, T, 3, S, S] -> what `encode_video` and `video_tokens` give."""

    def text_features(self, texts: list[str]) -> TextFeatures:
        """Q texts -> what `encode_text` and `text_tokens` give."""


class VideoTextEncoder:
    """A `VideoTextModel` with its tokenizer and preprocessing: a `MatchingEncoder`.

    Works in micro-batches and without gradients, in bfloat16 autocast on CUDA and float32
    elsewhere. What it returns lies on the CPU and is float32, but for `video_tokens` on CUDA:
    those are bfloat16, which is all that `match` reads of them. The model is taken as it is, not
    copied: it moves to the device and into eval mode.
    """

    def __init__(
        self,
        model: VideoTextModel,
        tokenizer: Tokenizer,
        preprocessing: Preprocessing,
        *,
        fingerprint: str,
        device: torch.device | str = "cpu",
        videos_at_once: int = 16,
        texts_at_once: int = 64,
    ) -> None:
        if min(videos_at_once, texts_at_once) < 1:
            raise ValueError(
                f"videos_at_once is {videos_at_once}, texts_at_once {texts_at_once}; "
                "give numbers of at least 1"
            )
        check_fit(model.config, tokenizer=tokenizer, preprocessing=preprocessing)
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"device is {device!r}, but PyTorch sees no CUDA GPU; use 'cpu'")
        self._autocast = self.device.type == "cuda"
        self.model = model.to(self.device).eval()
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.fingerprint = fingerprint
        self.can_match = model.config.matching_trained
        self._token_dtype = torch.bfloat16 if self._autocast else torch.float32
        self._videos_at_once = videos_at_once
        self._texts_at_once = texts_at_once
        self._other_length: VideoMamba | None = None

    @property
    def embed_dim(self) -> int:
        """Width E of the vectors."""
        return self.model.config.embed_dim

    def encode_video(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, T, 3, S, S] -> float32 [B, E]: the mean over frames of vectors of length 1.

        It is not brought to length 1 again, so that the inner product with a text is the mean
        over frames of the cosine. T may also be 1, for images. Raises ValueError.
        """
        self.preprocessing.check_frames(frames_uint8)
        if not len(frames_uint8):
            return torch.empty(0, self.embed_dim)
        return self._each_clip(frames_uint8, lambda clips: self.model.embed_video(clips).mean(1))

    def encode_frames(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, T, 3, S, S] -> float32 [B, T, E], each frame's vector of length 1.

        One pass over each clip, however long: positions in time are interpolated where T is not
        `preprocessing.frames`, and cost grows with T alone. Longer clips than the frames of
        `videos_at_once` are read in pieces of so many, in memory that does not grow with T
        (`long_pass`). [B, 1, E] for models that pool the class token only. Raises ValueError.
        """
        self.preprocessing.check_frames(frames_uint8, any_length=True)
        frames = frames_uint8.shape[1]
        if not len(frames_uint8):
            return torch.empty(0, frames, self.embed_dim)
        vision = self._vision_for(frames)
        piece_frames = self._videos_at_once * self.preprocessing.frames
        if frames > piece_frames:
            return self._each_long_clip(frames_uint8, vision, piece_frames)
        at_once = piece_frames // frames
        return self._each_clip(
            frames_uint8,
            lambda clips: self.model.project_vision(vision(clips).pooled),
            at_once=at_once,
        )

    def encode_text(self, texts: list[str]) -> Tensor:
        """Q texts -> float32 [Q, E] of length 1."""
        if not texts:
            return torch.empty(0, self.embed_dim)
        return self._each_text(self._tokenize(texts), self.model.embed_text)

    def video_tokens(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, T, 3, S, S], B at least 1 -> [B, N, C]. Raises ValueError."""
        self.preprocessing.check_frames(frames_uint8)
        return self._each_clip(
            frames_uint8, lambda clips: self.model.encode_vision(clips).tokens.to(self._token_dtype)
        )

    def video_features(self, frames_uint8: Tensor) -> VideoFeatures:
        """uint8 [B, T, 3, S, S], B at least 1 -> vectors and tokens. Raises ValueError."""
        self.preprocessing.check_frames(frames_uint8)
        vectors: list[Tensor] = []

        def compute(clips: Tensor) -> Tensor:
            output = self.model.encode_vision(clips)
            vectors.append(self.model.project_vision(output.pooled).mean(1).cpu())
            return output.tokens.to(self._token_dtype)

        tokens = self._each_clip(frames_uint8, compute)
        return VideoFeatures(vectors=torch.cat(vectors), tokens=tokens)

    def text_tokens(self, texts: list[str]) -> TextTokens:
        """Q texts, at least one -> hidden states, all padded to `max_text_tokens`."""
        batch = self._tokenize(texts)
        hidden = self._each_text(batch, self.model.encode_text)
        return TextTokens(hidden=hidden, attention_mask=batch.attention_mask)

    def text_features(self, texts: list[str]) -> TextFeatures:
        """Q texts, at least one -> vectors and hidden states."""
        batch = self._tokenize(texts)
        vectors: list[Tensor] = []

        def compute(ids: Tensor, mask: Tensor) -> Tensor:
            hidden = self.model.encode_text(ids, mask)
            vectors.append(self.model.project_text(hidden, mask).cpu())
            return hidden

        hidden = self._each_text(batch, compute)
        tokens = TextTokens(hidden=hidden, attention_mask=batch.attention_mask)
        return TextFeatures(vectors=torch.cat(vectors), tokens=tokens)

    def with_text_length(self, max_text_tokens: int) -> "VideoTextEncoder":
        """The same model reading texts of so many tokens, or of as many as it can read."""
        length = min(max_text_tokens, self.model.config.text.max_position_embeddings)
        if length == self.preprocessing.max_text_tokens:
            return self
        named = f"{self.fingerprint} with texts of {length} tokens"
        return VideoTextEncoder(
            self.model,
            self.tokenizer,
            replace(self.preprocessing, max_text_tokens=length),
            fingerprint=hashlib.sha256(named.encode()).hexdigest(),
            device=self.device,
            videos_at_once=self._videos_at_once,
            texts_at_once=self._texts_at_once,
        )

    def match(self, text_tokens: TextTokens, video_tokens: Tensor) -> Tensor:
        """Logit of "match" of each row's text with its video [B, N, C]: float32 [B].

        One video expanded over the rows (`tokens.expand(B, -1, -1)`) is moved and projected once.
        Raises ValueError unless there are as many texts as videos.
        """
        hidden, mask = text_tokens.hidden, text_tokens.attention_mask
        if len(hidden) != len(video_tokens):
            raise ValueError(
                f"{len(hidden)} texts and {len(video_tokens)} videos were given; a row of each "
                "makes a pair, so repeat the one to match it with several"
            )
        with self._inference():
            if len(hidden) > 1 and video_tokens.stride(0) == 0:
                one = video_tokens[:1].to(self.device)
                parts = [
                    self.model.match(text, text_mask, one)[:, 1].float().cpu()
                    for text, text_mask in self._split(hidden, mask)
                ]
            else:
                parts = [
                    self.model.match(*pair)[:, 1].float().cpu()
                    for pair in self._split(hidden, mask, video_tokens)
                ]
        return torch.cat(parts)

    def _tokenize(self, texts: list[str]) -> TokenBatch:
        return self.tokenizer(texts, max_tokens=self.preprocessing.max_text_tokens)

    def _vision_for(self, frames: int) -> VideoMamba:
        """The video encoder for clips of so many frames."""
        own = self.model.vision_encoder
        if frames in (1, own.config.frames):
            return own
        if self._other_length is None or self._other_length.config.frames != frames:
            if own.config.tubelet_size > 1:
                raise ValueError(
                    f"this model reads {own.config.tubelet_size} frames as one, so it has no "
                    f"vector for each; give clips of {own.config.frames} frames"
                )
            self._other_length = with_clip_length(own, frames=frames)
        return self._other_length

    def _each_clip(
        self,
        frames_uint8: Tensor,
        compute: Callable[[Tensor], Tensor],
        *,
        at_once: int | None = None,
    ) -> Tensor:
        with self._inference():
            parts = [
                compute(self.preprocessing.normalise(part.to(self.device))).cpu()
                for part in torch.split(frames_uint8, at_once or self._videos_at_once)
            ]
        return torch.cat(parts)

    def _each_long_clip(
        self, frames_uint8: Tensor, vision: VideoMamba, piece_frames: int
    ) -> Tensor:
        def vectors(clip_uint8: Tensor) -> Tensor:
            pooled = pool_long_clips(
                vision,
                lambda first, end: self.preprocessing.normalise(
                    clip_uint8[:, first:end].to(self.device)
                ),
                clips=1,
                piece_frames=piece_frames,
            )
            return self.model.project_vision(pooled).cpu()

        with self._inference():
            return torch.cat([vectors(clip) for clip in torch.split(frames_uint8, 1)])

    def _each_text(self, batch: TokenBatch, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        with self._inference():
            parts = [
                compute(ids, mask).cpu()
                for ids, mask in self._split(batch.input_ids, batch.attention_mask)
            ]
        return torch.cat(parts)

    def _split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Parts of as many rows as are computed at once, on the device."""
        parts = (torch.split(tensor, self._texts_at_once) for tensor in tensors)
        for rows in zip(*parts, strict=True):
            yield tuple(part.to(self.device) for part in rows)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast)
        with torch.inference_mode(), autocast:
            yield


def check_fit(
    config: VideoTextConfig, *, tokenizer: Tokenizer, preprocessing: Preprocessing
) -> None:
    """Raise ValueError if texts or frames prepared like this cannot enter such a model."""
    vision, text = config.vision, config.text
    for what, given, needed in (
        ("preprocessing.size", preprocessing.size, vision.image_size),
        ("preprocessing.frames", preprocessing.frames, vision.frames),
    ):
        if given != needed:
            raise ValueError(f"{what} is {given}, but the model takes {needed}; make them equal")
    if preprocessing.max_text_tokens > text.max_position_embeddings:
        raise ValueError(
            f"preprocessing.max_text_tokens is {preprocessing.max_text_tokens}, but the model "
            f"takes {text.max_position_embeddings} at most; give that or fewer"
        )
    if tokenizer.vocab_size > text.vocab_size or tokenizer.pad_id != text.pad_token_id:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens with [PAD] = {tokenizer.pad_id}, the "
            f"model {text.vocab_size} with [PAD] = {text.pad_token_id}; give the tokenizer that "
            "the model was trained with"
        )
