"""A process that changes a collection at random until it is killed, and reports what it did.

Each operation is announced on a pipe before it starts and acknowledged once it returned; both sides
compute the same content from its number. Run as a program it forks a writer for each line
`PATH SEED` that it reads, so that a writer starts in milliseconds. Imports neither torch nor
anything that decodes.
"""

import json
import os
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from reelscan.index.collection import Collection
from reelscan.index.index_settings import IndexSettings
from reelscan.index.segments import NewSegment
from reelscan.index.video_files import VideoFile

WIDTH = 16
NAMES = tuple(f"{letter}.mp4" for letter in "abcdefgh")
Contents = dict[str, tuple[int, object]]
"""By video: the number of the operation that wrote it, and its `tag`."""


@dataclass(frozen=True)
class Operation:
    """What is done with which video; `number` determines the content."""

    number: int
    kind: str
    video: str

    def on(self, contents: Contents) -> Contents:
        """What a collection holds after it."""
        after = dict(contents)
        if self.kind == "put":
            after[self.video] = (self.number, contents.get(self.video, (0, None))[1])
        elif self.kind == "forget":
            after.pop(self.video, None)
        elif self.kind == "tag" and self.video in after:
            after[self.video] = (after[self.video][0], self.number)
        return after

    def run(self, collection: Collection) -> None:
        """Do it."""
        if self.kind == "put":
            file = VideoFile(path=self.video, size_bytes=self.number, mtime_ns=1)
            collection.add_video(file, segments_of(self.number))
        elif self.kind == "forget":
            collection.forget_videos([self.video])
        elif self.kind == "tag":
            if collection.metadata_of(self.video) is not None:
                collection.edit_metadata([self.video], {"tag": self.number})
        elif self.kind == "compact":
            collection.compact()
        else:
            collection.compact(anew=True)


def segments_of(number: int) -> list[NewSegment]:
    """What operation `number` stores: 1 to 40 segments."""
    rng = np.random.default_rng(number)
    vectors = rng.standard_normal((1 + number % 40, WIDTH), dtype=np.float32)
    return [
        NewSegment(start_seconds=float(place), end_seconds=place + 1.0, vector=vector)
        for place, vector in enumerate(vectors)
    ]


def small_lists() -> IndexSettings:
    """Lists from the hundredth vector on, so that they are written and killed as well."""
    return IndexSettings(exact_bytes=100 * WIDTH * 4)


def write_until_killed(path: Path, seed: int) -> None:
    """Change the collection at `path`, telling on standard output."""
    rng = random.Random(seed)
    number = 1000 * seed
    with Collection.open(path, settings=small_lists()) as collection:
        while True:
            number += 1
            kind = rng.choice(("put", "put", "put", "forget", "tag", "compact", "rebuild"))
            operation = Operation(number, kind, rng.choice(NAMES))
            tell("begun", operation)
            operation.run(collection)
            tell("done", operation)


def tell(state: str, operation: Operation) -> None:
    """One line, written at once."""
    os.write(1, json.dumps({"state": state, **asdict(operation)}).encode() + b"\n")


def serve() -> None:
    """Fork a writer for each line of standard input; tells its id, and when it has died."""
    for line in sys.stdin:
        path, seed = line.rsplit(" ", 1)
        writer = os.fork()
        if writer == 0:
            write_until_killed(Path(path), int(seed))
        os.write(1, json.dumps({"writer": writer}).encode() + b"\n")
        _, status = os.waitpid(writer, 0)
        os.write(1, json.dumps({"died": status}).encode() + b"\n")


if __name__ == "__main__":
    serve()
