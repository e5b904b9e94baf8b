"""The loop of a run: steps, a log, measurements on the way, and an end in time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import torch
from benchmarks.proof.session import Session

from reelscan.pretrain.train_step import StepOutcome

LOG_EVERY = 20
"""Steps between two lines."""


def run(
    session: Session,
    log_path: Path,
    *,
    name: str,
    measure_every: int,
    time_is_up: Callable[[float], bool],
    on_stop: Callable[[], None],
) -> dict[str, float]:
    """Trains until done, or until `time_is_up(seconds still needed)`; the last measurement.

    `on_stop` is called before the last measurement, so that nothing is lost if that takes too long.
    """
    start = time.perf_counter()
    measuring = 5.0
    with log_path.open("w", encoding="utf-8") as log:
        _write(log, {"run": name, **_facts(session)})
        while not session.is_done and not time_is_up(3 * measuring + 10):
            outcome = session.take_step()
            if session.step % LOG_EVERY == 0 or session.is_done:
                spent = time.perf_counter() - start
                _write(log, {"run": name, **_line(session, outcome, spent)})
            if session.step % measure_every == 0 and not session.is_done:
                begun = time.perf_counter()
                found = session.measure()
                measuring = time.perf_counter() - begun
                _write(log, {"run": name, "step": session.step, "measured": found})
                print(_progress(session, found, begun - start), flush=True)
        on_stop()
        found = session.measure()
        last = {
            "step": session.step,
            "seconds": round(time.perf_counter() - start, 2),
            "done": session.is_done,
            "skipped_steps": session.skipped,
            "measured": found,
        }
        _write(log, {"run": name, **last})
    return found


def _line(session: Session, outcome: StepOutcome, spent: float) -> dict[str, Any]:
    return {
        "step": session.step,
        "seconds": round(spent, 2),
        "clips": session.step * session.recipe.batch,
        "learning_rate": outcome.learning_rate,
        "temperature": round(outcome.temperature, 5),
        "gradient_norm": round(outcome.gradient_norm, 4),
        **{name: round(value, 5) for name, value in outcome.losses.items() if value},
    }


def _facts(session: Session) -> dict[str, Any]:
    """What is trained, and with what."""
    device = session.device
    script = Path(sys.argv[0]).stem
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "commit": os.environ.get("PROOF_COMMIT") or _commit(),
        "command": " ".join([f"python -m benchmarks.proof.{script}", *sys.argv[1:]]),
        "recipe": asdict(session.recipe),
        "vision_parameters": sum(p.numel() for p in session.model.vision_encoder.parameters()),
        "first_step": session.step,
    }


def _commit() -> str:
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "unknown"
    return asked.stdout.strip() or "unknown"


def _progress(session: Session, found: dict[str, float], spent: float) -> str:
    return (
        f"step {session.step} of {session.recipe.steps}, {spent:.0f} s: T2V R@1 {found['t2v_r1']}, "
        f"R@10 {found['t2v_r10']}, pairs {found['pairs']}"
    )


def _write(log: TextIO, content: dict[str, Any]) -> None:
    log.write(json.dumps(content) + "\n")
    log.flush()
