import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from loopback_server import serving
from safetensors.torch import load_file

from reelscan.models.bert import BertConfig
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.model_directory import load_model
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.annotations import CaptionedVideo
from reelscan.pretrain.clip_training import save_teacher
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.run_log import read_metrics
from reelscan.pretrain.run_settings import check_same_settings, plain_settings
from reelscan.pretrain.shard_index import read_index
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.shard_writer import write_shards
from reelscan.pretrain.teach_shards import TeachConfig, teach_shards
from reelscan.pretrain.train import StepReport, pretrain
from reelscan.pretrain.training_data import (
    RandomView,
    ShardSource,
    open_shards,
    to_training_batch,
)
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
    return run_config(corpus)


def run_config(corpus: Path) -> PretrainConfig:
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


def steps_of_an_epoch(source: ShardSource, epoch: int, *, skip: int = 0) -> list[Batch]:
    """Its batches after the first `skip`."""
    start, end = source.steps_in(epoch) + skip, source.steps_in(epoch + 1)
    return list(islice(source.batches(start), end - start))


def test_captions_stay_with_their_clips(config):
    for batch in steps_of_an_epoch(open_shards(config, ALONE), 0):
        assert batch.clips_uint8.shape == (2, 2, 3, 16, 16)
        for clip, caption in zip(batch.clips_uint8, batch.captions, strict=True):
            brightest = clip.float().mean(dim=(0, 2, 3)).argmax().item()
            assert caption == f"a {list(COLOURS)[brightest]} video"


def test_image_and_video_batches_alternate_in_a_random_order_that_repeats(config, corpus):
    data = replace(config.data, image_shards=(corpus / "images.index.json",))
    source = open_shards(replace(config, data=data), ALONE)
    assert source.steps_in(1) == 5
    orders = [
        [batch.clips_uint8.shape[1] for batch in steps_of_an_epoch(source, epoch)]
        for epoch in (0, 1, 2, 3, 0)
    ]
    assert all(sorted(order) == [1, 1, 2, 2, 2] for order in orders)
    assert orders[0] == orders[4]
    assert len({tuple(order) for order in orders}) > 1


def test_a_run_mixes_images_and_videos(config, corpus, tmp_path):
    data = replace(config.data, image_shards=(corpus / "images.index.json",))
    assert pretrain(replace(config, data=data), tmp_path / "run").skipped_steps == 0


@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 2), (3, 0)])
def test_any_number_of_processes_and_workers_sees_the_same_order(config, processes, workers):
    """Clips, captions and ids of two epochs, put together from those of all processes."""
    whole = open_shards(replace(config, data=replace(config.data, batch_size=6)), ALONE)
    expected = list(islice(whole.batches(0), 2))
    data = replace(config.data, batch_size=6 // processes, workers=workers)
    parts = [
        list(
            islice(
                open_shards(
                    replace(config, data=data),
                    Processes(rank=rank, count=processes, device=torch.device("cpu")),
                ).batches(0),
                2,
            )
        )
        for rank in range(processes)
    ]
    for step, batch in enumerate(expected):
        assert len(set(batch.sample_ids.tolist())) == 6
        assert [text for part in parts for text in part[step].captions] == batch.captions
        for name in ("clips_uint8", "sample_ids"):
            together = torch.cat([getattr(part[step], name) for part in parts])
            assert torch.equal(together, getattr(batch, name))


def test_a_run_goes_on_with_other_processes_if_its_steps_stay_as_large(config, tmp_path):
    """Two processes with half the batch, then one with all of it: refused only if it differs."""
    settings = plain_settings(config, processes=2)
    alone = replace(config, data=replace(config.data, batch_size=4, workers=3))
    check_same_settings(settings, plain_settings(alone, processes=1))
    with pytest.raises(ValueError, match="batch_size x processes was 4 and is 2"):
        check_same_settings(settings, plain_settings(config, processes=1))


def test_a_set_with_a_weight_comes_that_often(config, corpus):
    names = ("videos.index.json", "images.index.json")
    data = replace(config.data, shards=tuple(str(corpus / name) for name in names))
    source = open_shards(replace(config, data=replace(data, weights=(0.5, 2))), ALONE)
    captions = [caption for batch in islice(source.batches(0), 11) for caption in batch.captions]
    assert source.steps_in(1) == (3 + 8) // 2 and source.steps_in(2) == 11
    assert sum("image" in caption for caption in captions) == 16
    with pytest.raises(ValueError, match="weights has 1 numbers for 2 sets"):
        replace(data, weights=(1.0,))


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
    list(islice(source.batches(0), 1))
    assert len(steps_of_an_epoch(source, 0)) == 3


def test_what_cannot_be_read_is_listed_in_the_run(config, corpus, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(corpus, shards)
    with (shards / "videos-000001.tar").open("r+b") as file:
        row = read_index(shards / "videos.index.json").shards[1].samples[0]
        file.seek(row.media.offset)
        file.write(bytes(row.media.size))
    data = replace(config.data, shards=(shards / "videos.index.json",), max_unreadable_fraction=0.5)
    report = pretrain(replace(config, data=data), tmp_path / "run")
    assert report.unreadable_samples >= 1 and report.steps == 5
    (line,) = (tmp_path / "run" / "unreadable-0.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "reason": "video",
        "source": "videos-000001.tar/000000003.mp4",
        "detail": "is none of mp4, webm, mkv, avi, mov, jpg, png, webp by its content",
    }


def test_remote_shards_are_fetched_ahead_into_the_cache(config, corpus, tmp_path):
    """Six videos in two shards, shuffled one by one: the second is there before it is needed."""
    losses = LossWeights(alignment=0.0, contrastive=0.0, matching=0.0)
    config = replace(config, losses=losses)
    with serving(corpus) as server:
        data = replace(
            config.data,
            shards=(f"{server.address}/videos.index.json",),
            shuffle_shards=1,
            shard_cache=tmp_path / "cache",
            batch_size=1,
        )
        shards = read_index(corpus / "videos.index.json").shards
        local = replace(data, shards=config.data.shards, shard_cache=None)
        wanted = [batch.captions for batch in take(replace(config, data=local), 6)]
        batches = open_shards(replace(config, data=data), ALONE).batches(0)
        found = []
        for step in range(6):
            if step == 3:  # the last of the first shard was the third
                wait_until(lambda: len(list((tmp_path / "cache").glob("*.tar"))) == 2)
            found.append(next(batches).captions)
        assert found == wanted
        assert [server.requests[shard.file] for shard in shards] == [1, 1]
        batches.close()
        small = replace(data, shard_cache_bytes=1000)
        with pytest.raises(ValueError, match="would be fetched again and again"):
            open_shards(replace(config, data=small), ALONE)


def take(config: PretrainConfig, count: int) -> list[Batch]:
    return list(islice(open_shards(config, ALONE).batches(0), count))


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_stored_features_train_like_the_teacher_itself(config, corpus, tmp_path):
    """Attention mask and alignment of videos and images, in two parts a batch."""
    torch.manual_seed(1)
    clip = ClipVisionConfig(image_size=16, patch_size=8, width=16, layers=1, heads=2, output_dim=12)
    save_teacher(ClipVision(clip), tmp_path / "teacher.safetensors")
    vision = replace(config.model.vision, alignment_width=12, last_alignment_before_mixer=False)
    data = replace(
        config.data,
        image_shards=(corpus / "images.index.json",),
        decode_size=None,
        sampling="middle",
        crop_scale=(1.0, 1.0),
    )
    with_teacher = replace(
        config,
        model=replace(config.model, vision=vision),
        data=data,
        losses=LossWeights(),
        mask=MaskConfig(kind="attention", ratio=0.5),
        teacher=tmp_path / "teacher.safetensors",
    )
    folders = {}
    for name, frames in (("videos", 2), ("images", 1)):
        folders[name] = tmp_path / name
        teach_shards(
            corpus / f"{name}.index.json",
            folders[name],
            teacher_file=tmp_path / "teacher.safetensors",
            config=TeachConfig(frames=frames, size=16, precision="fp32", device="cpu"),
        )
    taught = replace(data, taught=(folders["videos"],), image_taught=(folders["images"],))
    pretrain(with_teacher, tmp_path / "run")
    pretrain(replace(with_teacher, data=taught, teacher=None), tmp_path / "taught-run")
    rows = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("run", "taught-run")]
    assert len(rows[0]) == 5 and all(row["alignment"] > 0 for row in rows[0])
    for name in ("total", "alignment", "gradient_norm"):
        expected, found = ([row[name] for row in part] for part in rows)
        assert found == pytest.approx(expected, rel=1e-4)
    save_teacher(ClipVision(clip), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="of another teacher than"):
        pretrain(replace(with_teacher, data=taught, teacher=tmp_path / "other.safetensors"),
                 tmp_path / "other")  # fmt: skip
    with pytest.raises(ValueError, match="those of unchanged clips"):
        replace(taught, flip=True)


CHILD = """
import os, signal, sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from test_training_data import long_config, pretrain

def kill(report):
    if report.step == 3:
        written_beside = Path({out!r}, "checkpoints", "step-00000002")
        for _ in range(600):
            if written_beside.exists():
                break
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

pretrain(long_config(Path({corpus!r})), Path({out!r}), on_step=kill)
"""


def long_config(corpus: Path) -> PretrainConfig:
    """Three epochs of three steps; a checkpoint every second step, a process that decodes."""
    config = run_config(corpus)
    return replace(
        config,
        data=replace(config.data, workers=1),
        run=replace(config.run, checkpoint_every=2),
        epochs=3,
        steps=None,
    )


def test_a_run_killed_in_the_middle_of_an_epoch_ends_as_if_it_had_not_been(corpus, tmp_path):
    """kill -9 a step after the last checkpoint; frames and crops are random."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    paths = [str(Path(__file__).parent), *sys.path]
    code = CHILD.format(paths=paths, corpus=str(corpus), out=str(killed))
    child = subprocess.run([sys.executable, "-c", code], check=False)
    assert child.returncode == -signal.SIGKILL
    assert [path.name for path in (killed / "checkpoints").glob("step-*")] == ["step-00000002"]
    pretrain(long_config(corpus), killed, resume=True)
    pretrain(long_config(corpus), whole)
    losses = [
        [row["total"] for row in read_metrics(run / "metrics.jsonl")] for run in (whole, killed)
    ]
    assert len(losses[0]) == 9 and losses[0] == losses[1]
    weights = [load_file(run / "model" / "model.safetensors") for run in (whole, killed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
