"""Time and peak memory of an evaluation with as many videos and captions as MSVD has.

The videos are short and synthetic, but the numbers of videos, texts and pairs and the sizes of all
features are real. Without `--published-sizes` there is no model behind them; with it, the published
one with random weights. The last line of the output is JSON.

    python benchmarks/evaluation_memory.py
    python benchmarks/evaluation_memory.py --published-sizes --device cuda
"""

import argparse
import json
import random
import tempfile
import threading
import time
import zlib
from pathlib import Path

import torch
from torch import Tensor

from reelscan.models.encoder import MatchingEncoder, TextTokens, VideoTextEncoder
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextModel, video_text_middle
from reelscan.retrieval.evaluate import evaluate
from reelscan.retrieval.evaluation_report import EvaluationProgress
from reelscan.video.encode import write_video

WORDS = ("man", "woman", "dog", "cat", "runs", "plays", "cuts", "slowly", "guitar", "onion", "red")


class SizedEncoder:
    """No model, but features as large as the published model's, and a matching that costs little.

    So that memory and disk are those of a real evaluation, on any machine and in minutes.
    """

    fingerprint = "sized"
    embed_dim = 512
    can_match = True

    def __init__(self) -> None:
        self.preprocessing = Preprocessing(max_text_tokens=64)

    def encode_video(self, frames_uint8: Tensor) -> Tensor:
        """[B, 512]"""
        return torch.cat([_noise(int(clip.sum()), 1, 512) for clip in frames_uint8])

    def encode_text(self, texts: list[str]) -> Tensor:
        """[Q, 512]"""
        return torch.cat([_noise(zlib.crc32(text.encode()), 1, 512) for text in texts])

    def video_tokens(self, frames_uint8: Tensor) -> Tensor:
        """[B, 1568, 576]"""
        return torch.stack([_noise(int(clip.sum()), 1568, 576) for clip in frames_uint8])

    def text_tokens(self, texts: list[str]) -> TextTokens:
        """[Q, 64, 768], of which a token a word and two more are real."""
        lengths = torch.tensor([2 + len(text.split()) for text in texts])
        hidden = _noise(zlib.crc32(texts[0].encode()), len(texts) * 64, 768)
        return TextTokens(
            hidden=hidden.view(len(texts), 64, 768),
            attention_mask=torch.arange(64) < lengths[:, None],
        )

    def match(self, text_tokens: TextTokens, video_tokens: Tensor) -> Tensor:
        """[B]"""
        return text_tokens.hidden[:, 0, :576] @ video_tokens[0, 0]


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 20


def published_encoder(device: str) -> VideoTextEncoder:
    """The published sizes, with random weights."""
    torch.manual_seed(0)
    return VideoTextEncoder(
        VideoTextModel(video_text_middle()),
        Tokenizer.bert_uncased(),
        Preprocessing(max_text_tokens=64),
        fingerprint="random, published sizes",
        device=device,
    )


def write_set(folder: Path, *, videos: int, captions: int) -> Path:
    """Short videos of one colour each, and captions of MSVD's length (about seven words)."""
    draw = random.Random(0)
    annotations = []
    for number in range(videos):
        colour = torch.tensor([draw.randrange(256) for _ in range(3)], dtype=torch.uint8)
        frames = colour.view(1, 3, 1, 1).expand(8, 3, 32, 32)
        write_video(folder / f"{number}.mp4", frames, fps=8)
        own = captions // videos + (number < captions % videos)
        sentences = [
            " ".join(draw.choices(WORDS, k=draw.randrange(4, 12))) + f" {draw.randrange(10**6)}"
            for _ in range(own)
        ]
        annotations.append({"video": f"{number}.mp4", "caption": sentences})
    path = folder / "annotations.json"
    path.write_text(json.dumps(annotations))
    return path


class MemoryWatch:
    """Highest memory of this process, sampled: its own (anonymous), and with mapped files."""

    def __init__(self) -> None:
        self.own_megabytes = self.resident_megabytes = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more samples."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            own, resident = memory_megabytes("RssAnon"), memory_megabytes("VmRSS")
            self.own_megabytes = max(self.own_megabytes, own)
            self.resident_megabytes = max(self.resident_megabytes, resident)


def memory_megabytes(field: str) -> float:
    """A memory field of this process now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this benchmark needs Linux")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and peak memory of a large evaluation.")
    parser.add_argument("--videos", type=int, default=670)
    parser.add_argument("--captions", type=int, default=27763)
    parser.add_argument("--top", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--published-sizes", action="store_true", help="the whole published model")
    parser.add_argument("--cache", type=Path, help="keep features here; run again to resume")
    arguments = parser.parse_args()
    encoder: MatchingEncoder = SizedEncoder()
    if arguments.published_sizes:
        encoder = published_encoder(arguments.device)
    seconds: dict[str, float] = {}
    last = time.monotonic()

    def tell(progress: EvaluationProgress) -> None:
        nonlocal last
        now = time.monotonic()
        seconds[progress.stage] = seconds.get(progress.stage, 0.0) + now - last
        if progress.done == progress.total or now - tells.get(progress.stage, 0.0) > 20:
            tells[progress.stage] = now
            print(f"{progress.stage}: {progress.done}/{progress.total}", flush=True)
        last = now

    tells: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = write_set(folder, videos=arguments.videos, captions=arguments.captions)
        before, watch = memory_megabytes("RssAnon"), MemoryWatch()
        last = started = time.monotonic()
        report = evaluate(
            encoder,
            path,
            video_root=folder,
            rerank_top=arguments.top,
            cache_folder=arguments.cache or folder / "features",
            on_progress=tell,
        )
        total = time.monotonic() - started
        watch.stop()
        features = arguments.cache or folder / "features"
        disk = sum(file.stat().st_size for file in features.rglob("*") if file.is_file())
    result: dict[str, object] = {
        "videos": len(report.scores.videos),
        "captions": len(report.scores.texts),
        "top": arguments.top,
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu",
        "published_sizes": arguments.published_sizes,
        "seconds": round(total, 1),
        "stage_seconds": {stage: round(value, 1) for stage, value in seconds.items()},
        "own_memory_before_mb": round(before),
        "own_memory_peak_mb": round(watch.own_megabytes),
        "resident_with_mapped_files_peak_mb": round(watch.resident_megabytes),
        "features_on_disk_mb": round(disk / 2**20),
    }
    if arguments.device == "cuda":
        result["gpu_memory_peak_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
