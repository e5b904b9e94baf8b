"""VideoMamba-Ti beside ViT-Ti/16 on a CPU: time to embed clips, and of a training step.

Both see the same tokens: 8 frames of 224 px in 16 px patches and a class token. The ViT attends to
all of them at once through SDPA. Runs are interleaved, so that other work on the machine slows both
alike, and each takes the precision in which it embeds fastest unless `--precision` says otherwise.
The last line of the output is JSON.

    python benchmarks/encoder_cpu.py
    python benchmarks/encoder_cpu.py --clips 4 --repetitions 9 --precision fp32
"""

import os

# As the command line does: threads that spin for long hold up others on a busy machine.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from reelscan.models.selective_scan import default_backend
from reelscan.models.videomamba import VideoMamba, videomamba_tiny

FRAMES, SIDE, PATCH, WIDTH, DEPTH, HEADS = 8, 224, 16, 192, 12, 3
TOKENS = 1 + FRAMES * (SIDE // PATCH) ** 2


class VitBlock(nn.Module):
    """Pre-norm attention and a perceptron four times as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, stream: Tensor) -> Tensor:
        clips, tokens, _ = stream.shape
        heads = self.qkv(self.norm1(stream)).view(clips, tokens, 3, HEADS, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        stream = stream + self.out(mixed.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.up(self.norm2(stream)))
        added: Tensor = self.down(hidden)
        return stream + added


class Vit(nn.Module):
    """ViT-Ti/16 with joint space-time attention: clips [B, T, 3, H, W] -> [B, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH))
        self.blocks = nn.Sequential(*(VitBlock() for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, clips: Tensor) -> Tensor:
        patches = self.patches(clips.flatten(0, 1)).flatten(2).transpose(1, 2)
        patches = patches.reshape(len(clips), -1, WIDTH)
        cls = self.cls_token.expand(len(clips), -1, -1)
        stream = self.blocks(torch.cat([cls, patches], dim=1) + self.positions)
        pooled: Tensor = self.norm(stream).mean(dim=1)
        return pooled


class Mamba(nn.Module):
    """VideoMamba-Ti: clips [B, T, 3, H, W] -> [B, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = VideoMamba(videomamba_tiny())

    def forward(self, clips: Tensor) -> Tensor:
        pooled: Tensor = self.encoder(clips, keep_temporal=False).pooled
        return pooled[:, 0]


def embed(model: nn.Module, clips: Tensor, precision: str) -> None:
    with torch.inference_mode(), autocast(precision):
        model(clips)


def train(model: nn.Module, clips: Tensor, precision: str) -> None:
    with autocast(precision):
        embedding = model(clips)
    model.zero_grad(set_to_none=True)
    embedding.float().square().mean().backward()


def autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


def seconds(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(
    models: dict[str, nn.Module], clips: Tensor, precisions: list[str], repetitions: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Median seconds of each work, model and precision, all taken in turn."""
    works = {"inference": embed, "training": train}
    cases = [
        (work, name, precision) for work in works for name in models for precision in precisions
    ]
    taken: dict[tuple[str, str, str], list[float]] = {case: [] for case in cases}
    for repetition in range(repetitions + 1):
        for work, name, precision in cases:
            run = works[work]
            spent = seconds(lambda run=run, n=name, p=precision: run(models[n], clips, p))
            if repetition:  # the first is to warm up
                taken[work, name, precision].append(spent)
    return {
        work: {
            name: {p: statistics.median(taken[work, name, p]) for p in precisions}
            for name in models
        }
        for work in works
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=2, help="clips of a batch")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["fp32", "bf16", "best"], default="best")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clips = torch.randn(options.clips, FRAMES, 3, SIDE, SIDE)
    models: dict[str, nn.Module] = {"VideoMamba-Ti": Mamba(), "ViT-Ti/16": Vit()}
    precisions = ["fp32", "bf16"] if options.precision == "best" else [options.precision]
    times = measure(models, clips, precisions, options.repetitions)
    print(f"{options.clips} clips of {FRAMES} frames, {SIDE} px, {TOKENS} tokens each")
    print(f"{options.threads} threads, medians of {options.repetitions} interleaved runs")
    print(f"scan: {': '.join(default_backend(clips.device, clips.dtype))}\n")
    print(f"{'':<14}{'precision':<12}{'embed s':>10}{'clips/s':>10}{'train s':>10}{'clips/s':>10}")
    for name in models:
        for precision in precisions:
            row = [times[work][name][precision] for work in ("inference", "training")]
            cells = "".join(f"{spent:>10.3f}{options.clips / spent:>10.2f}" for spent in row)
            print(f"{name:<14}{precision:<12}{cells}")
    ratios = {}
    for work, by_model in times.items():
        ours, theirs = (by_model[name] for name in models)
        ratios[f"{work}_ratio"] = min(ours.values()) / min(theirs.values())
        for precision in precisions:
            ratios[f"{work}_ratio_{precision}"] = ours[precision] / theirs[precision]
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))


if __name__ == "__main__":
    main()
