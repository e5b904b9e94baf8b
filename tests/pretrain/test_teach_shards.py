from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from reelscan.models.clip_vit import ClipVision, ClipVisionConfig
from reelscan.models.preprocessing import Preprocessing
from reelscan.pretrain.annotations import CaptionedVideo
from reelscan.pretrain.clip_training import load_teacher, save_teacher
from reelscan.pretrain.sample_order import BatchOrder, CorpusOrder, KindOrder
from reelscan.pretrain.shard_list import open_corpus
from reelscan.pretrain.shard_loader import ShardLoader
from reelscan.pretrain.shard_reader import ClipDecoder, CorpusReader
from reelscan.pretrain.shard_store import ShardStore
from reelscan.pretrain.shard_writer import write_shards
from reelscan.pretrain.taught_features import TaughtFeatures, file_of
from reelscan.pretrain.teach_shards import TeachConfig, teach_shards
from reelscan.video.encode import write_video

CONFIG = TeachConfig(frames=2, size=16, batch_size=2, precision="fp32", device="cpu")
COUNT = 5
TEACHER = ClipVisionConfig(
    image_size=16, patch_size=8, width=16, layers=2, heads=2, output_dim=12, return_layers=2
)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_teacher(ClipVision(TEACHER), path)
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Five moving videos in shards of two."""
    videos = []
    for number in range(COUNT):
        generator = torch.Generator().manual_seed(number)
        frames = torch.randint(256, (6, 3, 32, 48), dtype=torch.uint8, generator=generator)
        write_video(tmp_path / f"{number}.mp4", frames, fps=6)
        videos.append(CaptionedVideo(video=f"{number}.mp4", captions=(f"clip {number}",)))
    write_shards(videos, tmp_path / "shards", root=tmp_path, name="clips", samples_per_shard=2)
    return tmp_path / "shards" / "clips.index.json"


def loader(index: Path, folder: Path, *, workers: int = 0) -> ShardLoader:
    corpus = open_corpus(index)
    reader = CorpusReader(
        corpus,
        ShardStore(),
        decode=ClipDecoder(frames=2, frame_size=16),
        taught=TaughtFeatures(folder, corpus, frames=2, size=16),
    )
    order = CorpusOrder(
        corpus.name, follows=[rows.follows for rows in corpus.rows], seed=0, shuffle_shards=3
    )
    kind = KindOrder([order], seed=0, kind=0)
    batches = BatchOrder([kind], global_batch=COUNT, seed=0)
    return ShardLoader([[reader]], batches, batch_size=COUNT, workers=workers)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_clips_come_with_what_the_teacher_sees_in_them(
    index: Path, teacher_file: Path, tmp_path: Path, precision: str
) -> None:
    config = replace(CONFIG, precision=precision, workers=int(precision == "bf16"))
    report = teach_shards(index, tmp_path / "taught", teacher_file=teacher_file, config=config)
    assert report.samples == COUNT and not report.skips.listed
    teacher, normal = load_teacher(teacher_file), Preprocessing(frames=2, size=16).normalise
    batches = loader(index, tmp_path / "taught", workers=config.workers).batches(0)
    for batch in islice(batches, 3):
        assert batch.taught is not None
        with torch.no_grad():
            seen = teacher(normal(batch.clips_uint8))
        exact = precision == "fp32"
        features = batch.taught.features
        assert features.shape == seen.features.shape == (2, COUNT, 1 + 2 * 4, 12)
        assert features.dtype == (torch.float32 if exact else torch.bfloat16)
        tolerance = 1e-5 if exact else 2**-8
        torch.testing.assert_close(features.float(), seen.features, rtol=tolerance, atol=1e-5)
        torch.testing.assert_close(batch.taught.attention, seen.attention, rtol=1e-5, atol=1e-6)
        part = batch.rows(slice(1, 3))
        assert part.taught is not None and part.captions == batch.captions[1:3]
        assert torch.equal(part.taught.features, features[:, 1:3])
        assert torch.equal(part.taught.attention, batch.taught.attention[2:6])


def test_an_interrupted_teacher_goes_on_with_the_first_shard_that_is_missing(
    index: Path, teacher_file: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def stop(done: int, total: int) -> None:
        assert total == COUNT
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teach_shards(index, parts, teacher_file=teacher_file, config=CONFIG, on_progress=stop)
    assert [path.name for path in parts.glob("*.safetensors")] == ["clips-000000.safetensors"]
    with pytest.raises(ValueError, match=r"0 of 2 samples of clips-000001.tar: .* goes on"):
        loader(index, parts)
    first = (parts / "clips-000000.safetensors").stat().st_mtime_ns
    done: list[int] = []
    teach_shards(
        index, parts, teacher_file=teacher_file, config=CONFIG,
        on_progress=lambda now, total: done.append(now),
    )  # fmt: skip
    assert done[0] == 2 and done[-1] == COUNT
    assert (parts / "clips-000000.safetensors").stat().st_mtime_ns == first
    teach_shards(index, whole, teacher_file=teacher_file, config=CONFIG)
    for path in whole.iterdir():
        assert path.read_bytes() == (parts / path.name).read_bytes()


def test_what_cannot_be_decoded_is_told_and_takes_its_place(
    index: Path, teacher_file: Path, tmp_path: Path
) -> None:
    shard, row = open_corpus(index).find(2)
    with Path(shard.address).open("r+b") as file:
        file.seek(row.media.offset)
        file.write(bytes(row.media.size))
    report = teach_shards(index, tmp_path / "taught", teacher_file=teacher_file, config=CONFIG)
    assert report.skips.counts == {"video": 1}
    taught = TaughtFeatures(tmp_path / "taught", open_corpus(index), frames=2, size=16)
    assert [bool(taught.read(n).features.any()) for n in range(COUNT)] == [
        number != 2 for number in range(COUNT)
    ]


def test_features_of_something_else_are_refused(
    index: Path, teacher_file: Path, tmp_path: Path
) -> None:
    taught, corpus = tmp_path / "taught", open_corpus(index)
    with pytest.raises(ValueError, match="`reelscan shards teach` makes them"):
        TaughtFeatures(taught, corpus, frames=2, size=16)
    teach_shards(index, taught, teacher_file=teacher_file, config=CONFIG)
    with pytest.raises(ValueError, match="choose another folder"):
        other = replace(CONFIG, precision="bf16")
        teach_shards(index, taught, teacher_file=teacher_file, config=other)
    with pytest.raises(ValueError, match="with 2 frames of 16 pixels, but they are wanted of"):
        TaughtFeatures(taught, corpus, frames=4, size=16)
    with pytest.raises(ValueError, match="but they are wanted of other"):
        TaughtFeatures(taught, replace(corpus, name="other"), frames=2, size=16)
    features = TaughtFeatures(taught, corpus, frames=2, size=16)
    file_of(taught, "clips-000000.tar").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read"):
        features.read(0)
