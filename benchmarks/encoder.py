"""VideoMamba on one GPU beside the published kernels and a ViT: correctness, then time and memory.

Needs an NVIDIA GPU; mamba_ssm and causal_conv1d for the published rows. Prints markdown, writes
encoder.json, encoder.md and encoder.png into `--to`. The last line is JSON.

    python benchmarks/encoder.py --to benchmarks/results/encoder
    python benchmarks/encoder.py --only scan
"""

import argparse
import gc
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from benchmarks.baselines import PublishedVideoMamba, VideoViT
from benchmarks.encoder_report import Row, write_report
from benchmarks.gpu_timing import Cost, measure, measure_ahead
from torch import Tensor, nn

from reelscan.models.masks import tube_mask, with_class_token
from reelscan.models.scan_backend import use_scan
from reelscan.models.selective_scan import selective_scan
from reelscan.models.videomamba import VideoMamba
from reelscan.models.videomamba_config import VideoMambaConfig

SIZES = {"Ti": (24, 192), "S": (24, 384), "M": (32, 576)}
"""Depth and width of VideoMamba."""
VIT_WIDTHS = {"Ti": 192, "S": 384, "B": 768}
KINDS = ("ours", "published", "ViT")
HAS_PUBLISHED = importlib.util.find_spec("mamba_ssm") is not None


def make_encoder(kind: str, size: str, frames: int, *, train: bool) -> nn.Module:
    """In bfloat16 for inference; for training ours and the ViT in float32, under autocast."""
    torch.manual_seed(0)
    if kind == "ViT":
        model: nn.Module = VideoViT(VIT_WIDTHS[size], frames=frames)
    else:
        depth, width = SIZES[size]
        config = VideoMambaConfig(depth=depth, width=width, frames=frames, alignment_layers=0)
        model = VideoMamba(config)
        if kind == "published":
            model = PublishedVideoMamba(model)
    model = model.cuda()
    if not train or kind == "published":
        model = model.to(torch.bfloat16)
        for name, parameter in model.named_parameters():
            if name.endswith(("A_log", "A_b_log", ".D", ".D_b")):
                parameter.data = parameter.data.float()
    return model.train(train)


def run_encoder(model: nn.Module, clips: Tensor, mask: Tensor | None) -> Tensor:
    if isinstance(model, VideoMamba):
        return model.encode(clips, mask=mask).tokens
    if isinstance(model, VideoViT):
        return model(clips, None if mask is None else ~mask[:, 1:])
    return model(clips, mask)


def make_clips(batch: int, frames: int) -> Tensor:
    return torch.randn(batch, frames, 3, 224, 224, device="cuda", dtype=torch.bfloat16)


def make_mask(batch: int, frames: int, ratio: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    hidden = tube_mask(batch, (frames, 14, 14), ratio=ratio, generator=generator)
    return with_class_token(hidden).cuda()


def inference(kind: str, size: str, frames: int, batch: int) -> Cost:
    """One pass, each kind as a CUDA graph."""
    model, clips = make_encoder(kind, size, frames, train=False), make_clips(batch, frames)
    with torch.inference_mode():
        return measure(lambda: run_encoder(model, clips, None), captured=True)


def training(kind: str, size: str, frames: int, batch: int, *, masked: float) -> Cost:
    """Forward, backward and a fused AdamW step, our blocks as CUDA graphs."""
    model, clips = make_encoder(kind, size, frames, train=True), make_clips(batch, frames)
    if isinstance(model, VideoMamba):
        model.use_cuda_graphs()
    mask = make_mask(batch, frames, masked) if masked else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16, enabled=kind != "published"):
            tokens = run_encoder(model, clips, mask)
        tokens.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return measure(step, warm_ups=3, repetitions=7)


def scan_inputs(
    clips: int, length: int, *, dtype: torch.dtype = torch.bfloat16
) -> dict[str, Tensor]:
    """One direction of VideoMamba-M, the time steps as Mamba starts them."""
    torch.manual_seed(0)
    channels, states = 1152, 16
    steps = torch.empty(channels, device="cuda").uniform_(-6.9, -2.3).exp()
    narrow = {"device": "cuda", "dtype": dtype}
    return {
        "u": torch.randn(clips, length, channels, **narrow),
        "delta": 0.5 * torch.randn(clips, length, channels, **narrow),
        "A": -torch.arange(1.0, 1 + states, device="cuda").repeat(channels, 1),
        "B": torch.randn(clips, length, states, **narrow),
        "C": torch.randn(clips, length, states, **narrow),
        "D": torch.ones(channels, device="cuda"),
        "z": torch.randn(clips, length, channels, **narrow),
        "delta_bias": steps + torch.log(-torch.expm1(-steps)),
    }


def scan_work(kind: str, inputs: dict[str, Tensor]) -> Callable[[], Tensor]:
    """The scan in the layout that each implementation wants."""
    if kind == "ours":
        u, delta, A, B, C = (inputs[name] for name in ("u", "delta", "A", "B", "C"))
        rest = {name: inputs[name] for name in ("D", "z", "delta_bias")}
        return lambda: selective_scan(u, delta, A, B, C, **rest, delta_softplus=True).y
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    first = {
        name: tensor.transpose(1, 2).contiguous() if tensor.dim() == 3 else tensor
        for name, tensor in inputs.items()
    }
    return lambda: selective_scan_fn(**first, delta_softplus=True)


def time_scan(kind: str, clips: int, length: int) -> tuple[Cost, Cost]:
    """Forward, and backward alone."""
    inputs = scan_inputs(clips, length)
    with torch.inference_mode():
        forward = measure(scan_work(kind, inputs), repetitions=20, captured=True)
    for tensor in inputs.values():
        tensor.requires_grad_()
    y = scan_work(kind, inputs)()
    grad, leaves = torch.randn_like(y), list(inputs.values())

    def backward() -> object:
        return torch.autograd.grad(y, leaves, grad, retain_graph=True)

    cost = measure(backward, warm_ups=1, repetitions=1)
    return forward, replace(cost, milliseconds=measure_ahead(backward))


def check_correctness() -> list[str]:
    """Our kernels against the plain loop in float64, and against the published kernels."""
    lines = []
    inputs = scan_inputs(2, 1569, dtype=torch.float32)
    ours = scan_work("ours", inputs)()
    exact = {name: tensor.double() for name, tensor in inputs.items()}
    plain = {name: exact[name] for name in ("D", "z", "delta_bias")}
    five = [exact[name] for name in ("u", "delta", "A", "B", "C")]
    expected = selective_scan(*five, **plain, delta_softplus=True, backend="reference").y
    error = ((ours - expected).abs().max() / expected.abs().max()).item()
    lines.append(f"scan, float32, 2 x 1569 x 1152: {error:.1e} of the largest value")
    assert error < 1e-5, lines[-1]
    small = VideoMamba(VideoMambaConfig(depth=4, width=192, alignment_layers=0)).cuda().eval()
    clips = torch.randn(2, 8, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        fast = run_encoder(small, clips, None)
        use_scan("chunked")
        slow = run_encoder(small, clips, None)
        use_scan(None)
        error = (fast - slow).abs().max().item()
        lines.append(f"encoder, float32, kernels against plain PyTorch: {error:.1e}")
        assert error < 1e-3, lines[-1]
        if HAS_PUBLISHED:
            theirs = PublishedVideoMamba(small)(clips)
            error = (fast - theirs).abs().max().item()
            lines.append(f"encoder, float32, kernels against the published ones: {error:.1e}")
            assert error < 5e-3, lines[-1]
    return lines


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def scan_rows(kinds: list[str]) -> list[Row]:
    rows = []
    for clips, length in ((64, 1569), (64, 315), (8, 12545), (1, 12545)):
        for kind in kinds:
            if kind != "ViT":
                forward, backward = time_scan(kind, clips, length)
                work = f"{clips} x {length} x 1152"
                rows.append(Row.of("scan forward", work, kind, forward, clips))
                rows.append(Row.of("scan backward", work, kind, backward, clips))
                print(rows[-2].line(), rows[-1].line(), sep="\n", flush=True)
                free()
    return rows


def encoder_rows(kinds: list[str]) -> list[Row]:
    """VideoMamba-M beside ViT-B in the settings of the goals."""
    settings = [
        ("inference", 8, 64, 0.0),
        ("inference", 64, 8, 0.0),
        ("training, 80 % masked", 8, 64, 0.8),
        ("training", 8, 32, 0.0),
        ("training", 64, 4, 0.0),
        ("inference", 64, 1, 0.0),
        ("inference", 512, 1, 0.0),
    ]
    rows = []
    for name, frames, batch, masked in settings:
        for kind in kinds:
            size = "B" if kind == "ViT" else "M"
            if name == "inference":
                cost = inference(kind, size, frames, batch)
            else:
                cost = training(kind, size, frames, batch, masked=masked)
            work = f"{frames} frames, batch {batch}"
            rows.append(Row.of(name, work, f"{kind} {size}", cost, batch))
            print(rows[-1].line(), flush=True)
            free()
    return rows


FRAMES = (8, 16, 32, 64, 128, 256, 512)


def crossover_rows(kinds: list[str], counts: Sequence[int]) -> list[Row]:
    """Inference of all sizes over the number of frames, with as many frames in each batch."""
    rows = []
    for frames in counts:
        batch = 512 // frames
        for kind in kinds:
            for size in VIT_WIDTHS if kind == "ViT" else SIZES:
                cost = inference(kind, size, frames, batch)
                work = f"{frames} frames, batch {batch}"
                rows.append(Row.of("crossover", work, f"{kind} {size}", cost, batch))
                print(rows[-1].line(), flush=True)
                free()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, help="folder for json, markdown and plot")
    parser.add_argument("--only", nargs="+", choices=["scan", "encoder", "crossover"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--frames", type=int, nargs="+", choices=FRAMES, default=list(FRAMES))
    given = parser.parse_args()
    kinds = [kind for kind in given.kinds if kind != "published" or HAS_PUBLISHED]
    if kinds != given.kinds:
        print("mamba_ssm is not installed: the published rows are left out", flush=True)
    checks = check_correctness()
    print(*checks, sep="\n", flush=True)
    rows = []
    parts: dict[str, Callable[[], list[Row]]] = {
        "scan": lambda: scan_rows(kinds),
        "encoder": lambda: encoder_rows(kinds),
        "crossover": lambda: crossover_rows(kinds, given.frames),
    }
    for name, part in parts.items():
        if given.only is None or name in given.only:
            rows += part()
            if given.to:
                write_report(given.to, rows, checks)
    print(json.dumps([row.as_dict() for row in rows]))


if __name__ == "__main__":
    main()
