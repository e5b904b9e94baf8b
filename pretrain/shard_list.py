"""Which shards a corpus consists of, and how each is opened: local files, or commands if allowed.

Names are opened as they are: `#`, `?`, `*` and braces in them mean nothing special.
"""

import hashlib
import os
import re
import shlex
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from reelscan.pretrain.shard_index import INDEX_ENDING, read_index

PIPE = "pipe:"
SHELL_SIGPIPE = 128 + signal.SIGPIPE
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file, or one command that prints one."""

    name: str
    """For messages and seeds: the file's name without its folder, or the command."""
    samples: int | None
    """How many it should hold; None without an index."""
    path: Path | None
    """The file; None for a command."""
    command: tuple[str, ...] = ()
    """Program and arguments, run without a shell."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A set of shards with a name of its own."""

    name: str
    """Part of every sample id, so that corpora do not share any."""
    shards: tuple[Shard, ...]


def list_shards(
    shards: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    corpus: str | None,
    allow_pipe: bool,
) -> Corpus:
    """`shards`: a `NAME.index.json`, or tar files as paths, `file:` addresses or, if allowed,
    `pipe:COMMAND`.

    An indexed corpus is by default named after its name and content; a list of shards must be
    given a name. Raises ValueError or FileNotFoundError.
    """
    if isinstance(shards, str | os.PathLike):
        return _indexed_corpus(Path(shards), corpus)
    if corpus is None:
        raise ValueError("shards without an index need a name: give corpus")
    listed = tuple(_listed_shard(shard, allow_pipe) for shard in shards)
    return _checked(Corpus(name=corpus, shards=listed))


@contextmanager
def open_shard(shard: Shard) -> Iterator[BufferedReader]:
    """The shard's bytes. Raises OSError if a command failed."""
    if shard.path is not None:
        with shard.path.open("rb") as file:
            yield file
        return
    with subprocess.Popen(shard.command, stdout=subprocess.PIPE) as process:
        stream = cast(BufferedReader, process.stdout)
        try:
            yield stream
        finally:
            stream.close()  # ends a command that has more to say than is read
    if process.returncode not in (0, -signal.SIGPIPE, SHELL_SIGPIPE):
        raise OSError(f"{PIPE}{shard.name} ended with status {process.returncode}")


def _indexed_corpus(path: Path, corpus: str | None) -> Corpus:
    if not path.name.endswith(INDEX_ENDING):
        raise ValueError(
            f"{path} does not end in {INDEX_ENDING}: give an index, or the shards as a list"
        )
    index = read_index(path)
    content = hashlib.sha256("".join(shard.sha256 for shard in index.shards).encode("ascii"))
    return _checked(
        Corpus(
            name=corpus if corpus is not None else f"{index.name}-{content.hexdigest()}",
            shards=tuple(
                Shard(name=entry.file, samples=len(entry.samples), path=path.parent / entry.file)
                for entry in index.shards
            ),
        )
    )


def _listed_shard(given: str | os.PathLike[str], allow_pipe: bool) -> Shard:
    if isinstance(given, str) and given.startswith(PIPE):
        if not allow_pipe:
            raise ValueError(
                f"{given!r} would run a command: fetch the shard first, "
                "or say allow_pipe=True if you trust it"
            )
        command = given.removeprefix(PIPE).strip()
        return Shard(name=command, samples=None, path=None, command=tuple(shlex.split(command)))
    if isinstance(given, str) and _SCHEME.match(given):
        address = urlsplit(given)
        if address.scheme.lower() != "file" or address.netloc not in ("", "localhost"):
            raise ValueError(f"{given!r} is not a local file: fetch the shard first")
        given = url2pathname(given.partition("://")[2].removeprefix("localhost"))
    path = Path(given)
    return Shard(name=path.name, samples=None, path=path)


def _checked(corpus: Corpus) -> Corpus:
    if not corpus.shards:
        raise ValueError(f"corpus {corpus.name} has no shards")
    names = Counter(shard.name for shard in corpus.shards)
    ((name, times),) = names.most_common(1)
    if times > 1:
        # Names tell samples of different shards apart.
        raise ValueError(f"{times} shards are called {name}: read them as corpora of their own")
    for shard in corpus.shards:
        if shard.path is not None and not shard.path.is_file():
            raise FileNotFoundError(f"shard {shard.path} is not there")
    return corpus
