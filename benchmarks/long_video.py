"""A long clip in one pass in pieces, beside the whole pass and beside windows: time and memory.

Weights are random, which changes neither. Every case runs in a process of its own. Memory is what
the process holds beyond the start, without the mapped pages of temporary files, which the system
drops when it wants; their size is told apart. The last line of the output is JSON.

    python benchmarks/long_video.py
    python benchmarks/long_video.py --model middle --frames 64 256 --piece-frames 16
    python benchmarks/long_video.py --frames 14400 --only pieces --device cuda
"""

import os

# As the command line does: threads that spin for long hold up others on a busy machine.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import argparse
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reelscan.models import roomy_tensor
from reelscan.models.long_pass import pool_long_clips
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.videomamba import VideoMamba, videomamba_middle, videomamba_tiny

MODELS = {"tiny": videomamba_tiny, "middle": videomamba_middle}
WINDOW_FRAMES = 8
FILM_FRAMES = 14_400
"""Two hours at two frames a second."""


def anonymous_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no RssAnon: this benchmark needs Linux")


class PeakMemory:
    """Samples what the process holds."""

    def __enter__(self) -> "PeakMemory":
        self.before = self.peak = anonymous_megabytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, anonymous_megabytes())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def measure(case: str, arguments: argparse.Namespace, frames: int) -> dict[str, object]:
    """One case in this process."""
    torch.set_num_threads(arguments.threads)
    roomy_tensor.MEMORY_BYTES = arguments.file_above_megabytes * 2**20
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    clip_frames = WINDOW_FRAMES if case == "windows" else frames
    config = replace(MODELS[arguments.model](), frames=clip_frames, alignment_layers=0)
    encoder = VideoMamba(config).to(device).eval()
    # As a collection has them: one byte a channel, in a file if they are many.
    film = roomy_tensor.roomy_tensor((1, frames, 3, 224, 224), torch.uint8)
    film.random_(0, 256)
    run(encoder, film[:, :WINDOW_FRAMES], "warm", arguments.piece_frames, device)
    with PeakMemory() as memory:
        started = time.monotonic()
        run(encoder, film, case, arguments.piece_frames, device)
        seconds = time.monotonic() - started
    tokens = 1 + frames * (config.image_size // config.patch_size) ** 2
    return {
        "case": case,
        "frames": frames,
        "seconds": round(seconds, 1),
        "milliseconds_a_frame": round(1000 * seconds / frames, 1),
        "peak_megabytes": round(memory.peak - memory.before),
        "streams_megabytes": round(8 * tokens * config.width / 1e6) if case == "pieces" else 0,
        "frames_megabytes": round(film.numel() / 1e6),
        "gpu_peak_megabytes": round(torch.cuda.max_memory_allocated() / 1e6)
        if device.type == "cuda"
        else None,
    }


def run(
    encoder: VideoMamba, film: Tensor, case: str, piece_frames: int, device: torch.device
) -> Tensor:
    """The vectors [T, C] of a film's frames, uint8 [1, T, 3, S, S]."""
    preprocessing = Preprocessing()

    def read(first: int, end: int) -> Tensor:
        return preprocessing.normalise(film[:, first:end].to(device))

    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    with torch.inference_mode(), autocast:
        if case == "warm":
            return encoder.patch_embed(read(0, film.shape[1]))[0].cpu()
        if case == "pieces":
            return pool_long_clips(encoder, read, clips=1, piece_frames=piece_frames)[0].cpu()
        step = encoder.config.frames
        parts = [
            encoder(read(first, first + step)).pooled[0].cpu()
            for first in range(0, film.shape[1], step)
        ]
        return torch.cat(parts)


def in_own_process(case: str, arguments: argparse.Namespace, frames: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--only", case, "--frames", str(frames), "--here"]
    for name in ("model", "piece_frames", "device", "threads", "file_above_megabytes"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, object] = json.loads(output)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of long clips.")
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--piece-frames", type=int, default=32)
    parser.add_argument("--only", choices=["windows", "whole", "pieces"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--file-above-megabytes",
        type=int,
        default=roomy_tensor.MEMORY_BYTES // 2**20,
        help="larger streams lie in a temporary file; small numbers show a short clip as a film",
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cases = [arguments.only] if arguments.only else ["windows", "whole", "pieces"]
    if arguments.here:
        print(json.dumps(measure(arguments.only, arguments, arguments.frames[0])))
        return
    results = []
    for frames in arguments.frames:
        for case in cases:
            found = in_own_process(case, arguments, frames)
            hours = float(str(found["milliseconds_a_frame"])) * FILM_FRAMES / 3.6e6
            print(
                f"{case:<8}{frames:>6} frames {found['seconds']:>8} s "
                f"{found['milliseconds_a_frame']:>8} ms a frame ({hours:.2f} h a film of 2 h) "
                f"{found['peak_megabytes']:>7} MB, streams {found['streams_megabytes']} MB, "
                f"frames {found['frames_megabytes']} MB, GPU {found['gpu_peak_megabytes']}",
                flush=True,
            )
            results.append(found)
    print(json.dumps({"model": arguments.model, "results": results}))


if __name__ == "__main__":
    main()
