import multiprocessing
import os
import signal
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from reelscan.models.bert import BertConfig
from reelscan.models.model_directory import load_model
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.annotations import CaptionedVideo
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.run_log import read_metrics
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.shard_writer import write_shards
from reelscan.pretrain.train import StepReport, pretrain
from reelscan.pretrain.training_data import RandomView, open_shards, to_training_batch
from reelscan.video.encode import write_video

ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


def write_set(folder: Path, name: str, media: list[CaptionedVideo]) -> Path:
    write_shards(media, folder, root=folder, name=name, samples_per_shard=3)
    return folder / f"{name}.index.json"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos and four images of plain colours, named in their captions."""
    folder = tmp_path_factory.mktemp("corpus")
    videos, images = [], []
    for number, (name, values) in enumerate([*COLOURS.items()] * 2):
        frames = torch.tensor(values, dtype=torch.uint8)[None, :, None, None].repeat(6, 1, 32, 48)
        write_video(folder / f"{number}.mp4", frames, fps=6)
        videos.append(CaptionedVideo(video=f"{number}.mp4", captions=(f"a {name} video",)))
    for number in range(4):
        picture = np.full((32, 48, 3), 60 * number, dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), picture)
        images.append(CaptionedVideo(video=f"{number}.png", captions=("a grey image",)))
    write_set(folder, "videos", videos)
    write_set(folder, "images", images)
    words = ["a", "video", "image", "grey", *COLOURS]
    Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]).save(folder / "vocab.txt")
    return folder


@pytest.fixture
def config(corpus: Path) -> PretrainConfig:
    return PretrainConfig(
        model=VideoTextConfig(
            vision=VideoMambaConfig(image_size=16, patch_size=8, frames=2, depth=1, width=16),
            text=BertConfig(
                vocab_size=12,
                hidden_size=16,
                num_hidden_layers=2,
                fusion_layer=1,
                encoder_width=16,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=12,
            ),
            embed_dim=8,
        ),
        data=DataConfig(
            shards=(corpus / "videos.index.json",),
            batch_size=2,
            max_text_tokens=8,
            vocabulary=corpus / "vocab.txt",
            decode_size=24,
        ),
        losses=LossWeights(alignment=0.0),
        mask=MaskConfig(kind="none"),
        run=RunConfig(device="cpu", log_every=1, checkpoint_every=100, tensorboard=False),
        steps=5,
    )


def test_a_run_reads_shards_and_resumes_within_an_epoch(config, tmp_path):
    """From encoded videos on disk to a model, with crops, over two epochs."""
    whole = pretrain(config, tmp_path / "whole")
    asked = iter([False, True])
    pretrain(config, tmp_path / "parts", should_stop=lambda: next(asked))
    rest = pretrain(config, tmp_path / "parts", resume=True)
    totals = [
        [row["total"] for row in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("whole", "parts")
    ]
    assert len(totals[0]) == 5 and totals[0] == totals[1]
    assert load_model(rest.model).fingerprint == load_model(whole.model).fingerprint
    assert whole.unreadable_samples == 0


def test_ctrl_c_with_loader_processes_still_saves_a_checkpoint(config, tmp_path):
    """A terminal sends it to all of them."""

    def press(report: StepReport) -> None:
        if report.step == 1:
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            for pid in (*(worker.pid for worker in workers), os.getpid()):
                os.kill(pid, signal.SIGINT)

    with_workers = replace(config, data=replace(config.data, workers=2), steps=40)
    report = pretrain(with_workers, tmp_path / "run", on_step=press)
    assert report.interrupted and report.checkpoint.is_dir() and report.steps < 5


def test_captions_stay_with_their_clips(config):
    for batch in open_shards(config, ALONE).batches(0, skip=0):
        assert batch.clips_uint8.shape == (2, 2, 3, 16, 16)
        for clip, caption in zip(batch.clips_uint8, batch.captions, strict=True):
            brightest = clip.float().mean(dim=(0, 2, 3)).argmax().item()
            assert caption == f"a {list(COLOURS)[brightest]} video"


def test_skipping_leaves_the_rest_of_the_epoch_as_it_was(config):
    source = open_shards(config, ALONE)
    assert source.steps_per_epoch == 3
    all_ids = [batch.sample_ids.tolist() for batch in source.batches(1, skip=0)]
    assert [batch.sample_ids.tolist() for batch in source.batches(1, skip=2)] == all_ids[2:]
    assert len({number for ids in all_ids for number in ids}) == 6


def test_image_and_video_batches_alternate_in_a_random_order_that_repeats(config, corpus):
    data = replace(config.data, image_shards=(corpus / "images.index.json",))
    source = open_shards(replace(config, data=data), ALONE)
    assert source.steps_per_epoch == 5
    orders = [
        [batch.clips_uint8.shape[1] for batch in source.batches(epoch, skip=0)]
        for epoch in (0, 1, 2, 3, 0)
    ]
    assert all(sorted(order) == [1, 1, 2, 2, 2] for order in orders)
    assert orders[0] == orders[4]
    assert len({tuple(order) for order in orders}) > 1


def test_a_run_mixes_images_and_videos(config, corpus, tmp_path):
    data = replace(config.data, image_shards=(corpus / "images.index.json",))
    assert pretrain(replace(config, data=data), tmp_path / "run").skipped_steps == 0


def test_each_process_reads_its_own_samples(config):
    ids = [
        {
            number
            for batch in open_shards(
                config, Processes(rank=rank, count=2, device=torch.device("cpu"))
            ).batches(0, skip=0)
            for number in batch.sample_ids.tolist()
        }
        for rank in range(2)
    ]
    assert ids[0] and ids[1] and not ids[0] & ids[1]


def gradient_clip() -> torch.Tensor:
    """uint8 [3, 3, 32, 32]: brightness is the column, the same in each frame."""
    return (torch.arange(32) * 8).to(torch.uint8).expand(3, 3, 32, 32)


def test_a_view_crops_all_frames_alike_and_repeats_for_the_same_generator():
    view = RandomView(size=16, crop_scale=(0.2, 0.5), crop_ratio=(1.0, 1.0), flip=False)
    first, again, other = (
        view(gradient_clip(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (3, 3, 16, 16) and first.dtype == torch.uint8
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], first[2])
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_only_flip_mirrors():
    for flip, directions in ((False, {True}), (True, {True, False})):
        view = RandomView(size=32, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=flip)
        rising = {
            bool(clip[0, 0, 0, 0] < clip[0, 0, 0, -1])
            for clip in (
                view(gradient_clip(), torch.Generator().manual_seed(seed)) for seed in range(12)
            )
        }
        assert rising == directions


def test_a_batch_is_normalised_and_padded_to_its_longest_caption():
    tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat"])
    batch = Batch(
        clips_uint8=torch.full((2, 2, 3, 8, 8), 255, dtype=torch.uint8),
        captions=["A cat!", "a"],
        sample_ids=torch.tensor([5, 6]),
    )
    preprocessing = Preprocessing(frames=2, size=8, mean=(0.5,) * 3, std=(0.25,) * 3)
    prepared = to_training_batch(
        batch, tokenizer=tokenizer, preprocessing=preprocessing, device=torch.device("cpu")
    )
    assert prepared.clips.dtype == torch.float32 and bool((prepared.clips == 2.0).all())
    assert prepared.text.input_ids.tolist() == [[2, 5, 6, 3], [2, 5, 3, 0]]
    assert prepared.text.attention_mask.tolist() == [[True] * 4, [True] * 3 + [False]]
    assert prepared.sample_ids.tolist() == [5, 6]


def test_a_set_smaller_than_a_batch_is_refused(config):
    with pytest.raises(ValueError, match="batch_size"):
        open_shards(replace(config, data=replace(config.data, batch_size=50)), ALONE)


def test_an_unfinished_iteration_does_not_disturb_the_next(config):
    source = open_shards(config, ALONE)
    list(islice(source.batches(0, skip=0), 1))
    assert len(list(source.batches(0, skip=0))) == 3
