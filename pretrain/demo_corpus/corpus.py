"""Writes a corpus to a folder: short H.264 clips, captions, and pairs that only time tells apart.

train/000001.mp4 ...    test/000001.mp4 ...
train.jsonl             {"video": "train/000001.mp4", "caption": ["...", ...], "group": "pair 1"}
train_static.jsonl      {"video": ..., "frame": 7, "time_seconds": 0.94, "caption": ["...", ...]}
test.json               [{"video": "test/000001.mp4", "caption": "..."}, ...]
pairs.json              [{"kind": "order" | "direction", "videos": ["test/...", "test/..."]}]
corpus.json             configuration, fingerprint, counts, chance; written last
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from reelscan.models.atomic_file import write_atomically
from reelscan.pretrain.demo_corpus.captions import captions, static_captions
from reelscan.pretrain.demo_corpus.config import CorpusConfig
from reelscan.pretrain.demo_corpus.motion import tracks, visible_looks
from reelscan.pretrain.demo_corpus.render import render
from reelscan.pretrain.demo_corpus.scene import Scene
from reelscan.pretrain.demo_corpus.split import Split, split_scenes
from reelscan.video.encode import write_video

CORPUS_FILE = "corpus.json"
STARTED_FILE = "corpus.started.json"
CLIPS_PER_JOB = 64


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A complete corpus on disk."""

    root: Path
    """The folder that the paths in the annotations are relative to."""
    train_annotations: Path
    """Captions of the clips to train on."""
    static_annotations: Path
    """Captions of single training frames, without motion."""
    test_annotations: Path
    """One caption a test clip, in the published form."""
    pairs: Path
    """Pairs of test clips that differ in order or direction alone."""
    fingerprint: str
    """Of the configuration and the generator."""
    train_videos: int
    """Clips to train on."""
    test_videos: int
    """Clips in the gallery."""
    chance_recall_at_1: float
    """Of a ranking drawn at random, text to video or back."""


@dataclass(frozen=True, kw_only=True)
class _Clip:
    """What a worker needs to make one clip."""

    scene: Scene
    path: Path
    config: CorpusConfig


@dataclass(frozen=True, kw_only=True)
class _Still:
    """A frame of a clip and what it shows."""

    frame: int
    captions: tuple[str, ...]


def write_corpus(
    root: str | os.PathLike[str],
    *,
    config: CorpusConfig,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Makes the corpus, finishes an interrupted one, or returns the one that is there.

    `workers`: processes, by default one a core; scripts that use more than one need the usual
    `if __name__ == "__main__"`. `on_progress(clips done, clips in all)`. Raises ValueError if the
    folder holds anything else, or a corpus of another configuration.
    """
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; choose at least 1")
    folder = Path(root)
    folder.mkdir(parents=True, exist_ok=True)
    if _check_folder(folder, config):
        return open_corpus(folder)
    split = split_scenes(config)
    _write_text(folder / STARTED_FILE, json.dumps({"fingerprint": config.fingerprint}))
    stills = _make_clips(folder, split, config=config, workers=workers, on_progress=on_progress)
    _write_annotations(folder, split, stills, config=config)
    content = {
        "fingerprint": config.fingerprint,
        "config": asdict(config),
        "counts": {
            "train": len(split.train),
            "test": len(split.test),
            "order_pairs": sum(pair.kind == "order" for pair in split.pairs),
            "direction_pairs": sum(pair.kind == "direction" for pair in split.pairs),
        },
        "chance": {"recall_at_1": 1 / len(split.test), "pairs": 0.5},
        "held_out": sorted(split.held_out),
    }
    _write_text(folder / CORPUS_FILE, json.dumps(content, indent=1))
    (folder / STARTED_FILE).unlink()
    return open_corpus(folder)


def open_corpus(root: str | os.PathLike[str]) -> Corpus:
    """A complete corpus. Raises ValueError if the folder holds none."""
    folder = Path(root)
    if not (folder / CORPUS_FILE).is_file():
        raise ValueError(f"{folder} holds no complete corpus: it has no {CORPUS_FILE}; write one")
    content = json.loads((folder / CORPUS_FILE).read_text(encoding="utf-8"))
    return Corpus(
        root=folder,
        train_annotations=folder / "train.jsonl",
        static_annotations=folder / "train_static.jsonl",
        test_annotations=folder / "test.json",
        pairs=folder / "pairs.json",
        fingerprint=content["fingerprint"],
        train_videos=content["counts"]["train"],
        test_videos=content["counts"]["test"],
        chance_recall_at_1=content["chance"]["recall_at_1"],
    )


def _check_folder(folder: Path, config: CorpusConfig) -> bool:
    """Whether the wanted corpus is complete there. Raises ValueError if something else is."""
    for name in (CORPUS_FILE, STARTED_FILE):
        path = folder / name
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
        if found != config.fingerprint:
            raise ValueError(
                f"{folder} holds a corpus of another configuration (fingerprint {found[:12]}, "
                f"wanted {config.fingerprint[:12]}); choose another folder or delete this one"
            )
        return name == CORPUS_FILE
    if any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no corpus; choose another folder")
    return False


def _make_clips(
    folder: Path,
    split: Split,
    *,
    config: CorpusConfig,
    workers: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> list[_Still]:
    """Writes the clips that are missing; returns a still of each training clip."""
    clips = [
        _Clip(scene=scene, path=folder / _video_name(part, number), config=config)
        for part, scenes in (("train", split.train), ("test", split.test))
        for number, scene in enumerate(scenes)
    ]
    for part in ("train", "test"):
        (folder / part).mkdir(exist_ok=True)
    jobs = [clips[at : at + CLIPS_PER_JOB] for at in range(0, len(clips), CLIPS_PER_JOB)]
    stills: list[_Still] = []
    for made in _run_jobs(jobs, workers=workers):
        stills += made
        if on_progress is not None:
            on_progress(len(stills), len(clips))
    return stills[: len(split.train)]


def _run_jobs(jobs: list[list[_Clip]], *, workers: int | None) -> Iterator[list[_Still]]:
    """Results in order. A fresh interpreter a worker: forking is unsafe once torch has threads."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        yield from map(_make_some, jobs)
        return
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_use_one_thread
    ) as pool:
        yield from pool.map(_make_some, jobs)


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _make_some(clips: Sequence[_Clip]) -> list[_Still]:
    return [_make_clip(clip) for clip in clips]


def _make_clip(clip: _Clip) -> _Still:
    config = clip.config
    if not clip.path.exists():
        frames = torch.from_numpy(render(clip.scene, config=config))
        write_video(clip.path, frames, fps=config.fps, preset="veryfast")
    return _still(clip.scene, config=config)


def _still(scene: Scene, *, config: CorpusConfig) -> _Still:
    """A random frame in which an object is seen, with captions of that moment alone."""
    generator = random.Random(f"{scene.seed} still")
    placed = tracks(scene, config=config)
    looks = [visible_looks(placed, frame) for frame in range(config.frames)]
    frame = generator.choice([number for number, seen in enumerate(looks) if seen])
    told = static_captions(looks[frame], config.captions_per_video, generator)
    return _Still(frame=frame, captions=tuple(told))


def _write_annotations(
    folder: Path, split: Split, stills: list[_Still], *, config: CorpusConfig
) -> None:
    train, static = [], []
    for number, (scene, still) in enumerate(zip(split.train, stills, strict=True)):
        video = _video_name("train", number)
        told = captions(scene.meaning, config.captions_per_video, random.Random(scene.seed))
        seconds = (still.frame + 0.5) / config.fps
        train.append({"video": video, "caption": told, **_group(number, split)})
        static.append(
            {
                "video": video,
                "frame": still.frame,
                "time_seconds": seconds,
                "caption": still.captions,
            }
        )
    test = [
        {
            "video": _video_name("test", number),
            "caption": captions(scene.meaning, 1, random.Random(scene.seed))[0],
        }
        for number, scene in enumerate(split.test)
    ]
    pairs = [
        {"kind": pair.kind, "videos": [_video_name("test", n) for n in (pair.first, pair.second)]}
        for pair in split.pairs
    ]
    _write_text(folder / "train.jsonl", "".join(json.dumps(row) + "\n" for row in train))
    _write_text(folder / "train_static.jsonl", "".join(json.dumps(row) + "\n" for row in static))
    _write_text(folder / "test.json", json.dumps(test, indent=1))
    _write_text(folder / "pairs.json", json.dumps(pairs, indent=1))


def _group(number: int, split: Split) -> dict[str, str]:
    """Partners share a group, so that they meet in a batch."""
    return {"group": f"pair {number // 2 + 1}"} if number < 2 * split.train_pairs else {}


def _video_name(part: str, number: int) -> str:
    """Clips are counted from 0 in code and from 1 in names."""
    return f"{part}/{number + 1:06d}.mp4"


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, text.encode())
