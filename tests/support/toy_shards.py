"""Small sets of shards whose samples need no real decoder."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from reelscan.pretrain.shard_index import ShardIndex, write_index
from reelscan.pretrain.shard_sample import Description, description_bytes
from reelscan.pretrain.shard_scan import describe_shard
from reelscan.pretrain.shard_tar import ShardTar
from reelscan.video.errors import VideoError

SIZES = (4, 3, 5)
COUNT = sum(SIZES)
GOOD_JSON = b'{"captions": ["x"]}'


def decode(media: bytes, name: str, generator: torch.Generator) -> Tensor:
    """Stands for a real decoder: the first byte is the brightness."""
    if media.startswith(b"bad"):
        raise VideoError(name, "is broken")
    return torch.full((2, 3, 4, 4), media[0], dtype=torch.uint8)


def write_corpus(
    folder: Path,
    sizes: Sequence[int] = SIZES,
    *,
    broken: Sequence[int] = (),
    group_size: int = 0,
    name: str = "toy",
    media_bytes: int = 1,
) -> Path:
    """The index of a set in which sample n has brightness n and the captions "n" and "n again";
    `broken` ones cannot be decoded. Groups are of neighbours."""
    folder.mkdir(exist_ok=True)
    shards, number = [], 0
    for shard, size in enumerate(sizes):
        tar = ShardTar(folder / f"{name}-{shard:06d}.tar")
        for _ in range(size):
            media = b"bad" if number in broken else bytes([number]) * media_bytes
            group = f"group {number // group_size}" if group_size else None
            captions = (str(number), f"{number} again")
            description = description_bytes(Description(captions=captions, group=group))
            tar.add(f"{number:09d}", {"json": description, "mp4": media})
            number += 1
        tar.finish()
        shards.append(describe_shard(tar.path))
    path = folder / f"{name}.index.json"
    index = ShardIndex(name=name, inputs_sha256="0", rejected=0, shards=tuple(shards))
    write_index(index, path)
    return path


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """A tar file with any members, in the given order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path
