"""How well each way to cut finds moments in films made of the demo's held-out clips.

    python benchmarks/moments.py --demo demo-run --to FOLDER

Every film is twenty clips of 1.25 to 2 seconds behind one another; each clip's caption looks for
its stretch among all films. A hit counts when it lies in the right film and overlaps the stretch by
half of what both cover together. Last line JSON.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from reelscan.index.collection import Collection
from reelscan.index.embed import embed_folder
from reelscan.index.windowing import Windowing
from reelscan.models.encoder import VideoTextEncoder
from reelscan.models.model_directory import load_model
from reelscan.retrieval.searcher import Searcher
from reelscan.video.decode import read_clip
from reelscan.video.encode import write_video

CLIPS_A_FILM, FPS, FRAMES = 20, 8, 16
CUTS = {
    "windows 2 s every 2 s": Windowing(window_seconds=2.0),
    "windows 2 s every 0.5 s": Windowing(window_seconds=2.0, stride_seconds=0.5),
    "shots": Windowing(segments="shots"),
    "long-clip": Windowing(segments="long-clip", frames_per_second=4.0),
    "long-clip, vectors of the pass": Windowing(
        segments="long-clip", frames_per_second=4.0, moment_vectors="pass"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where a caption's clip lies."""

    film: str
    start_seconds: float
    end_seconds: float
    caption: str


def make_films(corpus: Path, folder: Path) -> list[Scene]:
    """Films of the test clips, and what is where."""
    draws = random.Random(0)
    entries = json.loads((corpus / "test.json").read_text())
    draws.shuffle(entries)
    scenes: list[Scene] = []
    for number in range(len(entries) // CLIPS_A_FILM):
        pictures: list[torch.Tensor] = []
        name, shown = f"film-{number:02d}.mp4", 0
        for entry in entries[number * CLIPS_A_FILM : (number + 1) * CLIPS_A_FILM]:
            length = draws.randint(10, FRAMES)
            clip = read_clip(corpus / entry["video"], frames=FRAMES, sampling="middle")
            pictures.append(clip.frames_uint8[:length])
            scenes.append(
                Scene(
                    film=name,
                    start_seconds=shown / FPS,
                    end_seconds=(shown + length) / FPS,
                    caption=entry["caption"],
                )
            )
            shown += length
        write_video(folder / name, torch.cat(pictures), fps=FPS, crf=20)
    return scenes


def overlap(scene: Scene, start: float, end: float) -> float:
    """What both cover, as a share of what either does."""
    common = min(scene.end_seconds, end) - max(scene.start_seconds, start)
    either = max(scene.end_seconds, end) - min(scene.start_seconds, start)
    return max(0.0, common) / either


def boundary_scores(collection: Collection, scenes: list[Scene]) -> tuple[float, float]:
    """Precision and recall of the segments' starts within a quarter of a second."""
    found = hit = 0
    recalled = set()
    for film in {scene.film for scene in scenes}:
        true = [scene.start_seconds for scene in scenes if scene.film == film]
        for segment in collection.segments_of(film):
            found += 1
            near = [start for start in true if abs(start - segment.start_seconds) <= 0.25]
            hit += bool(near)
            recalled |= {(film, start) for start in near}
    return hit / found, len(recalled) / len(scenes)


def measure(
    encoder: VideoTextEncoder, films: Path, scenes: list[Scene], path: Path, cut: Windowing
) -> dict[str, float]:
    started = time.monotonic()
    report = embed_folder(encoder, films, path, windowing=cut, workers=1)
    seconds = time.monotonic() - started
    with Collection.open(path, read_only=True) as collection:
        precision, recall = boundary_scores(collection, scenes)
        searcher = Searcher(collection, encoder)
        ranks = []
        for scene in scenes:
            hits = searcher.search(scene.caption, top=50)
            right = [
                place
                for place, hit in enumerate(hits)
                if hit.video == scene.film
                and overlap(scene, hit.start_seconds, hit.end_seconds) >= 0.5
            ]
            ranks.append(right[0] if right else 10**6)
    return {
        "segments": report.segments,
        "embed_seconds": round(seconds, 2),
        "recall_at_1": 100 * float(np.mean(np.array(ranks) < 1)),
        "recall_at_5": 100 * float(np.mean(np.array(ranks) < 5)),
        "recall_at_10": 100 * float(np.mean(np.array(ranks) < 10)),
        "boundary_precision": round(100 * precision, 1),
        "boundary_recall": round(100 * recall, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo-run"))
    parser.add_argument("--to", type=Path, required=True)
    options = parser.parse_args()
    films = options.to / "films"
    films.mkdir(parents=True)
    scenes = make_films(options.demo / "corpus", films)
    encoder = load_model(options.demo / "pretrain" / "model")
    results = {}
    for number, (name, cut) in enumerate(CUTS.items()):
        results[name] = measure(encoder, films, scenes, options.to / f"{number}.collection", cut)
        print(f"{name:<32}", "  ".join(f"{key} {one}" for key, one in results[name].items()))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
