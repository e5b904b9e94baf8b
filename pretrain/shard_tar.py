"""The tar files of shards, written and read through webdataset, whose risks end here.

webdataset would run code in `.pyd`, `.pickle` and `.pth` members, shells in addresses, and gives
special meaning to signs in file names. So it never gets a name: it is handed open files, and it
hands back raw bytes. Names of members are taken for keys alone, never for paths.
"""

import os
import struct
import tarfile
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from types import ModuleType

from reelscan.pretrain.media_kind import MEDIA_SUFFIXES
from reelscan.pretrain.shard_sample import (
    DESCRIPTION_SUFFIX,
    MEMBER_SUFFIXES,
    RawSample,
    parse_description,
)
from reelscan.pretrain.skip_log import Skipped

TAR_BLOCK_BYTES = 512
COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
# What tarfile and webdataset raise for bad bytes. Errors of the disk are not among them.
DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, struct.error)


class ShardTar:
    """A shard being written. It gets its name when finished; equal content gives equal bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sample_count = 0
        self._partial = path.with_name(f".{path.name}.partial")
        self._file = self._partial.open("wb")
        self._tar = _webdataset().TarWriter(self._file, encoder=False, compress=False, mtime=0)
        self._bytes = 0

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Appends a sample. Its members are stored in the order of their suffixes."""
        self._bytes = self.size_with(members)
        self._tar.write({"__key__": key, **members})
        self.sample_count += 1

    def size_with(self, members: Mapping[str, bytes]) -> int:
        """Bytes of the shard if these members were added, without padding at its end."""
        blocks = sum(1 + -(-len(data) // TAR_BLOCK_BYTES) for data in members.values())
        return self._bytes + blocks * TAR_BLOCK_BYTES

    def finish(self) -> None:
        """Puts the shard in its place."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self.path)

    def abandon(self) -> None:
        """Deletes what was written."""
        try:
            self._tar.close()
            self._file.close()
        finally:
            self._partial.unlink(missing_ok=True)


def read_samples(
    stream: BufferedReader, *, shard: str, on_skip: Callable[[Skipped], None]
) -> Iterator[RawSample]:
    """The complete samples of an open tar file, in order; what is left out goes to `on_skip`.

    `shard`: its name for messages. Members of other kinds than ours are passed over unread. A
    damaged shard gives what comes before the damage, as far as that can be told.
    """
    if stream.peek(8).startswith(COMPRESSED_STARTS):
        on_skip(
            Skipped(reason="shard", source=shard, detail="is compressed: unpack it to plain tar")
        )
        return

    def stop_at_damage(error: Exception) -> bool:
        return _note_damage(error, go_on=False)

    def pass_over(error: Exception) -> bool:
        return _note_damage(error, go_on=True)

    def _note_damage(error: Exception, *, go_on: bool) -> bool:
        if not isinstance(error, DAMAGE):
            raise error
        # webdataset appends the open file to the message.
        detail = str(error.args[0]).partition(" @ ")[0] if error.args else type(error).__name__
        on_skip(Skipped(reason="shard", source=shard, detail=detail))
        return go_on

    reader = _webdataset().tariterators
    members = reader.tar_file_expander(
        [{"url": shard, "stream": stream}], handler=stop_at_damage, select_files=_is_ours
    )
    for sample in reader.group_by_keys(members, handler=pass_over):
        raw = _raw_sample(sample, shard, on_skip)
        if raw is not None:
            yield raw


def sample_source(shard: str, key: str, suffix: str) -> str:
    """How messages name a sample: "train-000000.tar/000000007.mp4"; harmless for any key."""
    return f"{shard}/{key.encode('unicode_escape').decode('ascii')}.{suffix}"


def _raw_sample(
    sample: Mapping[str, object], shard: str, on_skip: Callable[[Skipped], None]
) -> RawSample | None:
    key = str(sample["__key__"])
    found = {
        suffix: data for suffix in MEMBER_SUFFIXES if isinstance(data := sample.get(suffix), bytes)
    }
    media = [suffix for suffix in found if suffix in MEDIA_SUFFIXES]
    if len(media) != 1 or DESCRIPTION_SUFFIX not in found:
        detail = f"has {' and '.join(found) or 'nothing'}, but needs json and one video or image"
        source = sample_source(shard, key, "*")
        on_skip(Skipped(reason="members", source=source, detail=detail))
        return None
    try:
        description = parse_description(found[DESCRIPTION_SUFFIX])
    except ValueError as error:
        source = sample_source(shard, key, DESCRIPTION_SUFFIX)
        on_skip(Skipped(reason="json", source=source, detail=str(error)))
        return None
    return RawSample(key=key, suffix=media[0], media=found[media[0]], description=description)


def _is_ours(member: str) -> bool:
    return member.rpartition("/")[2].partition(".")[2].lower() in MEMBER_SUFFIXES


def _webdataset() -> ModuleType:
    # The switch is read at import: it forbids pickles, shells and names even if we forget.
    os.environ["WDS_SECURE"] = "1"
    import webdataset

    module: ModuleType = webdataset
    return module
