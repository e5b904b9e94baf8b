"""Renders the demo corpus at full difficulty into arrays that a GPU can hold, without any codec.

    python -m benchmarks.proof.clips --to /tmp/proof-clips --clips 60000
    python -m benchmarks.proof.clips --to /tmp/proof-clips --tiny

    train.u8, test.u8       uint8 [N, T, 3, S, S], the odd ones of a clip's frames
    train.npz               of clip N as played and mirrored: token ids, whether it exists, meaning
    stills.json             for a teacher: a frame of each clip, and a caption of it alone
    test.json               captions of the test clips, and pairs that only time tells apart
    vocabulary.txt          what the captions are made of
    clips.json              shapes and configuration; written last

A folder that is complete is left alone. Axes: N clips, T frames, S pixels, P playbacks, M mirrored
or not, K captions, L tokens.
"""

import argparse
import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.proof.variants import PLAYBACKS, mirrored, played
from numpy.typing import NDArray

from reelscan.models.atomic_file import write_atomically
from reelscan.models.tokenizer import Tokenizer
from reelscan.pretrain.demo_corpus.captions import captions, static_captions
from reelscan.pretrain.demo_corpus.config import CorpusConfig, full_corpus
from reelscan.pretrain.demo_corpus.motion import frame_order, tracks, visible_looks
from reelscan.pretrain.demo_corpus.render import render
from reelscan.pretrain.demo_corpus.scene import Composition, Meaning, Scene
from reelscan.pretrain.demo_corpus.split import Split, draw_train, split_scenes

CLIPS_FILE, MAX_TOKENS = "clips.json", 64


@dataclass(frozen=True, kw_only=True)
class Part:
    """The scenes that one job draws and renders."""

    number: int
    first_row: int
    """Of its clips in the file."""
    config: CorpusConfig
    """train_videos counts partners too, which are not rendered: they are the same frames."""
    held_out: frozenset[Composition]
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is said about the clips of a part."""

    tokens: NDArray[np.int16]
    """[N, P, M, K, L], ids of the full vocabulary."""
    exists: NDArray[np.bool_]
    """[N, P]"""
    meanings: NDArray[np.int64]
    """[N, P, M], equal for equal meanings."""
    stills: list[tuple[int, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=60_000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--tiny", action="store_true", help="a few clips: to see that it runs")
    given = parser.parse_args()
    started = time.perf_counter()
    clips, test = (70, 20) if given.tiny else (given.clips, given.test)
    write_clips(given.to, clips=clips, test=test, seed=given.seed, workers=given.workers)
    content = json.loads((given.to / CLIPS_FILE).read_text())
    print(json.dumps({**content, "seconds": round(time.perf_counter() - started, 1)}))


def write_clips(folder: Path, *, clips: int, test: int, seed: int, workers: int) -> None:
    """Makes about `clips` training clips (whole jobs of them) and `test` held-out ones.

    Raises ValueError if the folder holds clips of another configuration.
    """
    config = replace(full_corpus(seed=seed, test_videos=test), train_videos=min(1000, clips))
    per_part = config.train_videos - _pairs(config)
    parts_count = -(-clips // per_part)
    content: dict[str, Any] = {
        "train": parts_count * per_part,
        "test": test,
        "frames": config.frames // 2,
        "size": config.width,
        "config": asdict(config),
    }
    if (folder / CLIPS_FILE).is_file():
        found = json.loads((folder / CLIPS_FILE).read_text())
        if found != content:
            raise ValueError(f"{folder} holds other clips ({found['train']}); delete it")
        return
    folder.mkdir(parents=True, exist_ok=True)
    split = split_scenes(replace(config, train_videos=1))
    _create(folder / "train.u8", content["train"], config)
    parts = [
        Part(
            number=number + 1,
            first_row=number * per_part,
            config=config,
            held_out=split.held_out,
            folder=folder,
        )
        for number in range(parts_count)
    ]
    _write_test(folder, split, config)
    _write_train(folder, list(_run(parts, workers=workers)))
    write_atomically(folder / CLIPS_FILE, json.dumps(content).encode())


def _pairs(config: CorpusConfig) -> int:
    return round(config.train_videos * config.train_paired_fraction / 2)


def _forward(scenes: tuple[Scene, ...]) -> list[Scene]:
    return [scene for scene in scenes if scene.playback == "forward"]


def _run(parts: list[Part], *, workers: int) -> Iterator[Told]:
    if workers == 1:
        yield from map(_make_part, parts)
        return
    # Each process is one of many: it must not start threads of its own for products.
    os.environ |= dict.fromkeys(
        ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"
    )
    with ProcessPoolExecutor(
        min(workers, len(parts)),
        mp_context=get_context("spawn"),
        initializer=partial(torch.set_num_threads, 1),
    ) as pool:
        for number, told in enumerate(pool.map(_make_part, parts)):
            if number % 20 == 19:
                print(f"{number + 1} of {len(parts)} parts rendered", flush=True)
            yield told


def _make_part(part: Part) -> Told:
    config = part.config
    scenes = _forward(draw_train(config, part.held_out, pairs=_pairs(config), part=part.number))
    pixels = open_pixels(part.folder / "train.u8", config=config, mode="r+")
    count = len(scenes)
    sentences: dict[tuple[int, int, int], list[str]] = {}
    told = Told(
        tokens=np.zeros(
            (count, len(PLAYBACKS), 2, config.captions_per_video, MAX_TOKENS), dtype=np.int16
        ),
        exists=np.zeros((count, len(PLAYBACKS)), dtype=np.bool_),
        meanings=np.zeros((count, len(PLAYBACKS), 2), dtype=np.int64),
        stills=[_still(scene, config) for scene in scenes],
    )
    for row, scene in enumerate(scenes):
        pixels[part.first_row + row] = kept_frames(render(scene, config=config))
        for playback, meaning in enumerate(played(scene)):
            if meaning is None:
                continue
            told.exists[row, playback] = True
            for mirror, shown in enumerate((meaning, mirrored(meaning))):
                told.meanings[row, playback, mirror] = _number_of(shown)
                sentences[row, playback, mirror] = _sentences(shown, scene.seed, config)
    every = [sentence for some in sentences.values() for sentence in some]
    ids = Tokenizer.bert_uncased()(every, max_tokens=MAX_TOKENS).input_ids.numpy()
    places = tuple(np.array(list(sentences)).T)
    told.tokens[places] = ids.reshape(len(sentences), -1, MAX_TOKENS)
    return told


def kept_frames(frames_uint8: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frames [T, ...] that the encoders see: the middle one of each two, as in evaluation."""
    return frames_uint8[1::2]


def _sentences(meaning: Meaning, seed: int, config: CorpusConfig) -> list[str]:
    """K; they come again where the meaning allows fewer."""
    told = captions(meaning, config.captions_per_video, random.Random(seed))
    return [told[number % len(told)] for number in range(config.captions_per_video)]


def _number_of(meaning: Meaning) -> int:
    return int.from_bytes(hashlib.sha256(repr(meaning).encode()).digest()[:8], "big") >> 1


def _still(scene: Scene, config: CorpusConfig) -> tuple[int, str]:
    """A kept frame in which something is seen, and a sentence about it."""
    generator = random.Random(f"{scene.seed} still")
    placed = tracks(scene, config=config)
    looks = [visible_looks(placed, frame) for frame in range(1, config.frames, 2)]
    seen = [number for number, shown in enumerate(looks) if shown]
    if not seen:
        return 0, "nothing"
    frame = generator.choice(seen)
    return frame, static_captions(looks[frame], 1, generator)[0]


def _write_train(folder: Path, parts: list[Told]) -> None:
    full = Tokenizer.bert_uncased()
    tokens = np.concatenate([part.tokens for part in parts])
    used = [full.vocabulary[number] for number in np.unique(tokens)]
    tests = json.loads((folder / "test.json").read_text())["captions"]
    tokenizer = full.restricted_to([*used, *tests])
    place = {token: number for number, token in enumerate(tokenizer.vocabulary)}
    renumbered = np.zeros(full.vocab_size, dtype=np.int16)
    for token in used:
        renumbered[full.vocabulary.index(token)] = place[token]
    tokenizer.save(folder / "vocabulary.txt")
    np.savez(
        folder / "train.npz",
        tokens=renumbered[tokens],
        exists=np.concatenate([part.exists for part in parts]),
        meanings=np.concatenate([part.meanings for part in parts]),
    )
    stills = [still for part in parts for still in part.stills]
    write_atomically(folder / "stills.json", json.dumps(stills).encode())


def _write_test(folder: Path, split: Split, config: CorpusConfig) -> None:
    _create(folder / "test.u8", len(split.test), config)
    pixels = open_pixels(folder / "test.u8", config=config, mode="r+")
    for row, scene in enumerate(split.test):
        kept = kept_frames(render(replace(scene, playback="forward"), config=config))
        # Ordered afterwards, so that both of a pair have the very same frames.
        pixels[row] = kept[frame_order(scene, frames=len(kept))]
    content = {
        "captions": [
            captions(scene.meaning, 1, random.Random(scene.seed))[0] for scene in split.test
        ],
        "pairs": [(pair.kind, pair.first, pair.second) for pair in split.pairs],
    }
    write_atomically(folder / "test.json", json.dumps(content).encode())


def _clip_shape(config: CorpusConfig) -> tuple[int, int, int, int]:
    return config.frames // 2, 3, config.height, config.width


def _create(path: Path, count: int, config: CorpusConfig) -> None:
    with path.open("wb") as file:
        file.truncate(count * int(np.prod(_clip_shape(config))))


def open_pixels(
    path: Path, *, config: CorpusConfig, mode: str = "r"
) -> "np.memmap[tuple[int, ...], np.dtype[np.uint8]]":
    """uint8 [N, T, 3, S, S] of a file of `write_clips`, not read yet."""
    shape = _clip_shape(config)
    count = path.stat().st_size // int(np.prod(shape))
    assert mode in ("r", "r+")
    return np.memmap(path, dtype=np.uint8, mode=mode, shape=(count, *shape))  # type: ignore[call-overload,no-any-return]


if __name__ == "__main__":
    main()
