"""Peak memory of embedding one long video into a collection.

Without `--model` an encoder without weights is used, so that what is measured is decoding,
batching and storing. The last line of the output is JSON.

    python benchmarks/embed_memory.py --minutes 10
    python benchmarks/embed_memory.py --model path/to/model
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from reelscan.index.embed import EmbedProgress, embed_folder
from reelscan.models.encoder import Encoder
from reelscan.models.preprocessing import Preprocessing
from reelscan.video.encode import write_video

WIDTH, HEIGHT, FRAMES_PER_SECOND = 320, 240, 24


class MeanColourEncoder:
    """An encoder without weights: a frame's vector is its mean colour."""

    fingerprint = "mean-colour"
    embed_dim = 3

    def __init__(self) -> None:
        self.preprocessing = Preprocessing()

    def encode_video(self, frames_uint8: Tensor) -> Tensor:
        colours = torch.stack([clip.float().mean(dim=(-2, -1)) for clip in frames_uint8])
        return torch.nn.functional.normalize(colours, dim=-1).mean(dim=1)

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.nn.functional.normalize(torch.ones(len(texts), 3), dim=-1)


def memory_megabytes(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (highest so far) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this benchmark needs Linux")


def write_panning_video(path: Path, *, minutes: float) -> None:
    """A camera panning over noise; the frames are views of one wide picture."""
    frames = round(minutes * 60 * FRAMES_PER_SECOND)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, HEIGHT // 16, (WIDTH + frames) // 16, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH + frames), mode="bilinear")
    picture = (wide[0] * 255).to(torch.uint8)
    windows = picture.unfold(2, WIDTH, 1)[:, :, :frames]
    write_video(path, windows.permute(2, 0, 1, 3), fps=FRAMES_PER_SECOND)


def load_encoder(model: Path | None, device: str) -> Encoder:
    if model is None:
        return MeanColourEncoder()
    from reelscan.models.model_directory import load_model

    return load_model(model, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory of embedding one long video.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--window-seconds", type=float, default=8.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only-write", type=Path, help="write the video and stop")
    arguments = parser.parse_args()
    if arguments.only_write:
        write_panning_video(arguments.only_write, minutes=arguments.minutes)
        return
    with tempfile.TemporaryDirectory() as scratch:
        videos = Path(scratch) / "videos"
        videos.mkdir()
        # In a process of its own, so that encoding the video is not measured.
        subprocess.run(
            [
                *(sys.executable, __file__, "--minutes", str(arguments.minutes)),
                *("--only-write", str(videos / "long.mp4")),
            ],
            check=True,
        )
        encoder = load_encoder(arguments.model, arguments.device)
        before, samples = memory_megabytes("VmRSS"), []

        def sample(_: EmbedProgress) -> None:
            samples.append(round(memory_megabytes("VmRSS")))

        started = time.monotonic()
        report = embed_folder(
            encoder,
            videos,
            Path(scratch) / "long.collection",
            window_seconds=arguments.window_seconds,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
            on_progress=sample,
        )
        result = {
            "video_minutes": arguments.minutes,
            "frame_width": WIDTH,
            "frame_height": HEIGHT,
            "frames_per_second": FRAMES_PER_SECOND,
            "model": str(arguments.model or "mean colour"),
            "window_seconds": arguments.window_seconds,
            "batch_size": arguments.batch_size,
            "workers": arguments.workers,
            "segments": report.segments,
            "rss_before_mb": round(before),
            "rss_while_embedding_mb": samples[:: max(1, len(samples) // 8)],
            "peak_rss_mb": round(memory_megabytes("VmHWM")),
            "seconds": round(time.monotonic() - started, 1),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
