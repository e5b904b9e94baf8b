"""The tar files of shards, written through webdataset."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

TAR_BLOCK_BYTES = 512


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


def _webdataset() -> ModuleType:
    # The switch is read at import: it forbids pickles and shells, also if it should be read with.
    os.environ["WDS_SECURE"] = "1"
    import webdataset

    module: ModuleType = webdataset
    return module
