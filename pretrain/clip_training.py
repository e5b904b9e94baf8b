"""Trains a small CLIP on single frames and their captions; its image tower is a student's teacher.

Frames with equal captions are each other's positives. Frames are normalised as a student's clips
are, because a teacher is shown those.

Axes: N frames, B frames of a batch, S x S pixels, L tokens, E embedding width.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from reelscan.models.atomic_file import write_atomically
from reelscan.models.bert import BertConfig, BertModel
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.losses import clamp_temperature_, contrastive_loss
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.models.weights import load_strict
from reelscan.pretrain.optimizer import build_optimizer
from reelscan.pretrain.schedule import learning_rate_factor

CONFIG_KEY = "clip_vision_config"


def small_clip_vision() -> ClipVisionConfig:
    """A fifth of a million parameters, for frames of 64 px."""
    return ClipVisionConfig(
        image_size=64, patch_size=16, width=64, layers=3, heads=4, output_dim=64
    )


@dataclass(frozen=True, kw_only=True)
class ClipTrainingConfig:
    """How a CLIP is trained; with `small_clip_vision` it takes half a minute on two cores."""

    vision: ClipVisionConfig
    """The image tower."""
    text_width: int = 64
    """Channels of the text tower."""
    text_layers: int = 2
    """Transformer blocks of the text tower."""
    text_heads: int = 4
    """Attention heads of the text tower."""
    max_text_tokens: int = 32
    """Longer captions are cut."""
    steps: int = 1000
    """Batches to learn from."""
    batch_size: int = 64
    """Frames of a batch."""
    learning_rate: float = 2e-3
    """Highest rate of AdamW."""
    warmup_fraction: float = 0.1
    """Share of the steps in which the rate rises; afterwards it falls to 0 as a cosine."""
    weight_decay: float = 0.05
    """Of AdamW, on matrices alone."""
    flip: bool = True
    """Mirror half of the batches, and turn half of them upside down; not if captions tell sides."""
    temperature: float = 0.07
    """What similarities are divided by at first; it is learned."""
    held_out_fraction: float = 0.1
    """Share of the frames that is not learned from but tested on."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of the student's normalisation (ImageNet's), for values from 0 to 1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation of the student's normalisation."""
    seed: int = 0
    """Weights, batches and the held-out slice follow from it."""
    device: str = "cpu"
    """Where to train, in torch's names; the frames may stay elsewhere."""

    def __post_init__(self) -> None:
        for name in ("text_width", "text_layers", "text_heads", "steps", "max_text_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose at least 1")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is {self.batch_size}; contrast needs at least 2")
        for name, least, most in (
            ("learning_rate", 1e-7, 1.0),
            ("warmup_fraction", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("temperature", 0.001, 0.5),
            ("held_out_fraction", 0.001, 0.9),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; choose a number from {least} to {most}"
                )


@dataclass(frozen=True, kw_only=True)
class ClipTrainingReport:
    """A trained image tower and how well it knows frames that it was not trained on."""

    teacher: ClipVision
    """In evaluation mode."""
    final_loss: float
    """Mean over the last tenth of the steps."""
    recall_at_1: float
    """Share of the held-out frames that are nearest to their own of the held-out captions."""
    chance_recall_at_1: float
    """The same for a guess."""


def train_clip(
    frames_uint8: Tensor,
    captions: Sequence[str],
    *,
    config: ClipTrainingConfig,
    on_step: Callable[[int, float], None] | None = None,
) -> ClipTrainingReport:
    """Trains on frames uint8 [N, 3, S, S] and a caption of each.

    `on_step(steps done, loss)`. Does not touch torch's global random state. Raises ValueError for
    unfit input.
    """
    _check_input(frames_uint8, captions, config)
    generator = torch.Generator().manual_seed(config.seed)
    held_out, learned = _split(len(captions), config, generator)
    tokenizer = Tokenizer.bert_uncased().restricted_to(captions)
    texts = tokenizer(captions, max_tokens=config.max_text_tokens, pad_to_longest=True)
    examples = _Examples(frames_uint8, texts, _caption_ids(captions), device=config.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _Clip(config, vocab_size=tokenizer.vocab_size)
    model.to(config.device)
    losses = _fit(model, examples, learned, config, generator=generator, on_step=on_step)
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    recall, chance = _test(model, examples, held_out)
    return ClipTrainingReport(
        teacher=model.vision,
        final_loss=sum(tail) / len(tail),
        recall_at_1=recall,
        chance_recall_at_1=chance,
    )


def save_teacher(teacher: ClipVision, path: str | os.PathLike[str]) -> None:
    """Writes weights and configuration to one safetensors file, replacing it in one step."""
    state = {name: tensor.contiguous() for name, tensor in teacher.state_dict().items()}
    metadata = {CONFIG_KEY: json.dumps(asdict(teacher.config))}
    write_atomically(Path(path), save(state, metadata=metadata))


def load_teacher(path: str | os.PathLike[str]) -> ClipVision:
    """A teacher from `save_teacher`, in evaluation mode. Raises ValueError if it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is no safetensors file: {error}") from error
    if CONFIG_KEY not in metadata:
        raise ValueError(
            f"{os.fspath(path)} holds no teacher configuration; give a file of save_teacher"
        )
    teacher = ClipVision(ClipVisionConfig(**json.loads(metadata[CONFIG_KEY])))
    load_strict(teacher, state)
    return teacher.eval()


class _Clip(nn.Module):
    """Two towers that meet in one space."""

    def __init__(self, config: ClipTrainingConfig, *, vocab_size: int) -> None:
        super().__init__()
        self.vision = ClipVision(config.vision)
        self.text = BertModel(
            BertConfig(
                vocab_size=vocab_size,
                hidden_size=config.text_width,
                num_hidden_layers=config.text_layers,
                fusion_layer=config.text_layers,
                num_attention_heads=config.text_heads,
                intermediate_size=4 * config.text_width,
                max_position_embeddings=config.max_text_tokens,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=config.text_width**-0.5 / 2,
            )
        )
        self.text_proj = nn.Linear(config.text_width, config.vision.output_dim)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(config.mean)[:, None, None])
        self.register_buffer("std", 255 * torch.tensor(config.std)[:, None, None])

    def embed_frames(self, frames_uint8: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] -> [B, E], not normalised"""
        return self.vision.embed_images((frames_uint8 - self.mean) / self.std)

    def embed_texts(self, texts: TokenBatch) -> Tensor:
        """[B, L] -> [B, E], not normalised"""
        hidden = self.text.encode_text(texts.input_ids, texts.attention_mask)
        embedded: Tensor = self.text_proj(self.text.text_vector(hidden, texts.attention_mask))
        return embedded


class _Examples:
    """Frames with the tokens and the number of their caption."""

    def __init__(
        self, frames_uint8: Tensor, texts: TokenBatch, ids: Tensor, *, device: str
    ) -> None:
        self._frames_uint8 = frames_uint8
        self._texts = texts
        self._ids = ids
        self._device = device

    def rows(self, numbers: Tensor) -> tuple[Tensor, TokenBatch, Tensor]:
        """Frames uint8 [B, 3, S, S], tokens [B, L] and ids [B] on the training device."""
        frames_uint8 = self._frames_uint8[numbers.to(self._frames_uint8.device)]
        texts = TokenBatch(self._texts.input_ids[numbers], self._texts.attention_mask[numbers])
        return (
            frames_uint8.to(self._device),
            texts.to(self._device),
            self._ids[numbers].to(self._device),
        )


def _check_input(frames_uint8: Tensor, captions: Sequence[str], config: ClipTrainingConfig) -> None:
    if frames_uint8.dtype != torch.uint8 or frames_uint8.ndim != 4 or frames_uint8.shape[1] != 3:
        raise ValueError(
            f"frames are {frames_uint8.dtype} {list(frames_uint8.shape)}; give uint8 [N, 3, S, S]"
        )
    if len(frames_uint8) != len(captions):
        raise ValueError(
            f"{len(frames_uint8)} frames and {len(captions)} captions; give one caption a frame"
        )
    if len(captions) < config.batch_size:
        raise ValueError(
            f"{len(captions)} frames do not fill a batch of {config.batch_size}; "
            "give more frames or a smaller batch_size"
        )


def _split(
    count: int, config: ClipTrainingConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Numbers of the held-out frames and of those to learn from."""
    shuffled = torch.randperm(count, generator=generator)
    held_out = max(1, round(count * config.held_out_fraction))
    return shuffled[:held_out], shuffled[held_out:]


def _caption_ids(captions: Sequence[str]) -> Tensor:
    """int64 [N], equal for equal captions."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(captions))}
    return torch.tensor([numbers[text] for text in captions])


def _fit(
    model: _Clip,
    examples: _Examples,
    learned: Tensor,
    config: ClipTrainingConfig,
    *,
    generator: torch.Generator,
    on_step: Callable[[int, float], None] | None,
) -> list[float]:
    """Trains in place; the loss of every step."""
    optimizer = build_optimizer(
        model,
        learning_rate=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=config.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate_factor(config))
    losses: list[float] = []
    for step in range(config.steps):
        drawn = torch.randint(len(learned), (config.batch_size,), generator=generator)
        frames_uint8, texts, ids = examples.rows(learned[drawn])
        clamp_temperature_(model.temperature)
        loss = contrastive_loss(
            model.embed_frames(_flipped(frames_uint8, generator) if config.flip else frames_uint8),
            model.embed_texts(texts),
            temperature=model.temperature,
            ids=ids,
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if on_step is not None:
            on_step(step + 1, losses[-1])
    return losses


def _flipped(frames_uint8: Tensor, generator: torch.Generator) -> Tensor:
    """A batch, mirrored along neither, one or both axes."""
    across, down = torch.rand(2, generator=generator).tolist()
    axes = [axis for axis, drawn in ((-1, across), (-2, down)) if drawn < 0.5]
    return frames_uint8.flip(axes) if axes else frames_uint8


def _rate_factor(config: ClipTrainingConfig) -> Callable[[int], float]:
    warmup = round(config.warmup_fraction * config.steps)
    return lambda step: learning_rate_factor(
        step, total_steps=config.steps, warmup_steps=warmup, floor=0.01
    )


@torch.no_grad()
def _test(model: _Clip, examples: _Examples, held_out: Tensor) -> tuple[float, float]:
    """Recall at 1 of frames to the different captions among them, and of a guess."""
    parts = [examples.rows(part) for part in torch.split(held_out, 256)]
    images = torch.cat([model.embed_frames(frames_uint8) for frames_uint8, _, _ in parts])
    texts = torch.cat([model.embed_texts(texts) for _, texts, _ in parts])
    own = torch.cat([ids for _, _, ids in parts])
    nearest = (images @ nn.functional.normalize(texts, dim=-1).T).argmax(dim=1)
    return float((own[nearest] == own).float().mean()), 1 / len(torch.unique(own))
