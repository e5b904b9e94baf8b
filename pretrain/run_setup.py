"""From a configuration to what computes: model, teachers, tokenizer, preprocessing, objective."""

from dataclasses import dataclass

import torch

from reelscan.models.clip_vit import ClipVision
from reelscan.models.encoder import check_fit
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextModel
from reelscan.pretrain.batch_parts import BatchParts
from reelscan.pretrain.clip_training import load_teacher
from reelscan.pretrain.initial_weights import (
    load_initial_model,
    load_initial_text_encoder,
    load_smaller_encoder,
)
from reelscan.pretrain.objective import Objective, check_teacher_fits
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.shard_index import file_sha256
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.taught_features import read_lesson
from reelscan.pretrain.train_step import uses_bf16


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """What a run computes with."""

    objective: Objective
    """On its device."""
    tokenizer: Tokenizer
    preprocessing: Preprocessing
    device: torch.device
    accumulate: int
    """Parts of a batch."""

    def parts(self, batch: Batch) -> BatchParts:
        """The batch as `TrainStep` takes it."""
        return BatchParts(
            batch,
            self.accumulate,
            tokenizer=self.tokenizer,
            preprocessing=self.preprocessing,
            device=self.device,
        )


def set_up(config: PretrainConfig, device: torch.device) -> RunSetup:
    """Builds all from the configured files. Raises ValueError for what does not fit together."""
    tokenizer = (
        Tokenizer.from_file(config.data.vocabulary)
        if config.data.vocabulary
        else Tokenizer.bert_uncased()
    )
    preprocessing = Preprocessing(
        frames=config.model.vision.frames,
        size=config.model.vision.image_size,
        antialias=False,
        max_text_tokens=config.data.max_text_tokens,
    )
    check_fit(config.model, tokenizer=tokenizer, preprocessing=preprocessing)
    model = _initial_model(config)
    model.vision_encoder.use_cuda_graphs(config.run.cuda_graphs)
    teacher = _teacher(config)
    if teacher is not None and uses_bf16(config.run.precision, device):
        # It never learns, so nothing is lost in sums over steps.
        teacher.to(torch.bfloat16)
    smaller = load_smaller_encoder(config.smaller_encoder) if config.smaller_encoder else None
    # What it learns beside the model starts alike whatever was loaded before.
    torch.manual_seed(config.run.seed)
    objective = Objective(
        model,
        teacher=teacher,
        tokenizer=tokenizer,
        losses=config.losses,
        mask=config.mask,
        options=config.loss_options,
        masked_language_probability=config.masked_language_probability,
        smaller_encoder=smaller,
        recompute_fusion=config.parallel.recompute_fusion,
    )
    return RunSetup(
        objective=objective.to(device),
        tokenizer=tokenizer,
        preprocessing=preprocessing,
        device=device,
        accumulate=config.parallel.accumulate,
    )


def _teacher(config: PretrainConfig) -> ClipVision | None:
    """None if its features are at hand; those are checked."""
    folders = (*config.data.taught, *config.data.image_taught)
    for folder in folders:
        lesson = read_lesson(folder)
        check_teacher_fits(config.model.vision, lesson.teacher)
        if config.teacher is not None and file_sha256(config.teacher) != lesson.teacher_sha256:
            raise ValueError(
                f"{folder} holds the features of another teacher than {config.teacher}: give that "
                "one, or teacher None, or run `reelscan shards teach` with this one"
            )
    return load_teacher(config.teacher) if config.teacher and not folders else None


def _initial_model(config: PretrainConfig) -> VideoTextModel:
    torch.manual_seed(config.run.seed)
    model = VideoTextModel(config.model)
    if config.initial_text_encoder is not None:
        load_initial_text_encoder(model, config.initial_text_encoder)
    if config.initial_model is not None:
        load_initial_model(model, config.initial_model, part=config.initial_part)
    return model
