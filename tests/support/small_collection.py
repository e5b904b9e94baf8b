"""Collections of a few vectors, for tests of the store."""

import numpy as np

from reelscan.index.manifest import Manifest, Windowing
from reelscan.index.segments import NewSegment
from reelscan.index.video_files import VideoFile

WIDTH = 3
MANIFEST = Manifest(
    fingerprint="model-a", embed_dim=WIDTH, videos_root="/videos", windowing=Windowing()
)


def file(name):
    return VideoFile(path=name, size_bytes=1, mtime_ns=1)


def segments(*vectors):
    return [
        NewSegment(
            start_seconds=float(place),
            end_seconds=place + 1.0,
            vector=np.array(vector, np.float32),
            metadata={"place": place},
        )
        for place, vector in enumerate(vectors)
    ]


def query(*vector):
    return np.array([vector], np.float32)


def places(hits):
    return [(hit.video, hit.start_seconds) for hit in hits]


def index_file(path):
    (found,) = path.glob("vectors-*.faiss")
    return found
