"""Which collection a name means: a folder, or `milvus:ADDRESS#NAME`."""

import os
from dataclasses import dataclass
from pathlib import Path

from reelscan.index.collection import Collection
from reelscan.index.manifest import Manifest
from reelscan.index.milvus_collection import MilvusCollection

MILVUS = "milvus:"
TOKEN_VARIABLE = "REELSCAN_MILVUS_TOKEN"
"""What logs in to a cluster, as user:password."""


@dataclass(frozen=True, kw_only=True)
class MilvusPlace:
    """Where a collection lies in Milvus."""

    address: str
    """A file that ends in .db, or http://host:19530."""
    collection: str

    def open(self) -> MilvusCollection:
        """Raises CollectionError if it is not there."""
        return MilvusCollection.open(
            self.address, collection=self.collection, token=os.environ.get(TOKEN_VARIABLE, "")
        )

    def create(self, manifest: Manifest) -> MilvusCollection:
        """Raises FileExistsError if it is there."""
        return MilvusCollection.create(
            self.address,
            collection=self.collection,
            manifest=manifest,
            token=os.environ.get(TOKEN_VARIABLE, ""),
        )


def milvus_place(name: str) -> MilvusPlace | None:
    """What `milvus:films.db#films` or `milvus:http://host:19530#films` means; None for a folder."""
    if not name.startswith(MILVUS):
        return None
    address, _, collection = name.removeprefix(MILVUS).partition("#")
    if not address or not collection.isidentifier():
        raise ValueError(
            f"{name!r} should be milvus:ADDRESS#NAME, such as milvus:films.db#films or "
            "milvus:http://host:19530#films; NAME has letters, digits and _"
        )
    return MilvusPlace(address=address, collection=collection)


def open_searchable(name: str) -> Collection | MilvusCollection:
    """The collection of this name, for searching; raises CollectionError if there is none."""
    place = milvus_place(name)
    return Collection.open(Path(name), read_only=True) if place is None else place.open()
