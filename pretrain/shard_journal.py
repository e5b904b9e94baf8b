"""The diary of a run that writes shards, so that an interrupted one goes on where it stopped.

`NAME.progress.jsonl`, one line a finished shard after a first line that names the inputs. It is
deleted once the index is there. A torn last line stands for a shard that was not finished.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from reelscan.models.atomic_file import write_atomically
from reelscan.pretrain.shard_index import file_sha256
from reelscan.pretrain.video_check import Rejected

JOURNAL_ENDING = ".progress.jsonl"
JOURNAL_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class FinishedShard:
    """One line: a shard, and how far in the list of videos it leads."""

    file: str
    sha256: str
    samples: int
    """Number of samples in it."""
    next_video: int
    """Position in the list of videos at which the next shard starts."""
    rejected: tuple[Rejected, ...]
    """Videos left out since the shard before."""


class ShardJournal:
    """The diary of one set. `finished` are the shards to be kept, in order.

    Opening it checks the SHA-256 of each shard; from the first that does not fit, all are redone.
    Raises ValueError if the diary tells of other inputs.
    """

    def __init__(self, path: Path, *, inputs_sha256: str) -> None:
        self._path = path
        self._first_line = {"format_version": JOURNAL_VERSION, "inputs_sha256": inputs_sha256}
        self.finished: list[FinishedShard] = []
        if path.exists():
            self.finished = self._shards_to_keep()
        lines = [self._first_line, *(asdict(shard) for shard in self.finished)]
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode("utf-8"))

    def add(self, shard: FinishedShard) -> None:
        """Notes a shard that lies complete under its final name."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(shard)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished.append(shard)

    def delete(self) -> None:
        self._path.unlink()

    def _shards_to_keep(self) -> list[FinishedShard]:
        lines = self._path.read_bytes().split(b"\n")[:-1]
        if not lines or lines[0] != json.dumps(self._first_line).encode("utf-8"):
            raise ValueError(
                f"{self._path} is what an interrupted run with other videos, captions or settings "
                "left behind: repeat that run, choose another name or folder, or delete this file "
                "and the shards beside it"
            )
        kept = []
        for line in lines[1:]:
            shard = _parse_line(line)
            if shard is None or not self._is_whole(shard):
                break
            kept.append(shard)
        return kept

    def _is_whole(self, shard: FinishedShard) -> bool:
        path = self._path.with_name(shard.file)
        return path.is_file() and file_sha256(path) == shard.sha256


def _parse_line(line: bytes) -> FinishedShard | None:
    try:
        values = json.loads(line)
        return FinishedShard(
            file=values["file"],
            sha256=values["sha256"],
            samples=values["samples"],
            next_video=values["next_video"],
            rejected=tuple(
                Rejected(video=entry["video"], reason=entry["reason"])
                for entry in values["rejected"]
            ),
        )
    except (ValueError, KeyError, TypeError):
        return None
