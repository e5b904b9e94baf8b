"""One sample of a shard: the bytes of a video or image (`KEY.mp4`) and what is known of it
(`KEY.json`)."""

import json
from dataclasses import asdict, dataclass

from reelscan.pretrain.media_kind import MEDIA_SUFFIXES

DESCRIPTION_SUFFIX = "json"
MEMBER_SUFFIXES = (DESCRIPTION_SUFFIX, *MEDIA_SUFFIXES)
_OPTIONAL_FIELDS: dict[str, tuple[type, ...]] = {
    "video": (str,),
    "sha256": (str,),
    "group": (str,),
    "width": (int,),
    "height": (int,),
    "duration_seconds": (float, int),
}


@dataclass(frozen=True, kw_only=True)
class Description:
    """What `KEY.json` says."""

    captions: tuple[str, ...]
    """At least one, none empty."""
    video: str | None = None
    """Path of the file below the folder the shards were made from."""
    sha256: str | None = None
    """Of the original file, before any re-encoding."""
    group: str | None = None
    """Neighbouring samples of one group stay together when shuffled."""
    width: int | None = None
    """Pixels, as shown."""
    height: int | None = None
    """Pixels, as shown."""
    duration_seconds: float | None = None
    """None for an image, or if unknown."""


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """A sample as it lies in a shard, its media not decoded."""

    key: str
    """Name of the sample in its shard. Foreign shards may hold anything here: never a path."""
    suffix: str
    """Kind of the media, one of `MEDIA_SUFFIXES`."""
    media: bytes
    """The encoded video or image."""
    description: Description


def description_bytes(description: Description) -> bytes:
    """The content of `KEY.json`; equal descriptions give equal bytes."""
    known = {name: value for name, value in asdict(description).items() if value is not None}
    return json.dumps(known, ensure_ascii=False, sort_keys=True).encode("utf-8")


def parse_description(data: bytes) -> Description:
    """Reads a `KEY.json`. Only `captions` must be there; of what is there, types are checked.

    Raises ValueError with the reason.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"holds {type(values).__name__}, but must hold an object")
    captions = values.get("captions")
    if not isinstance(captions, list) or not captions:
        raise ValueError('"captions" must be a list with at least one text')
    if not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise ValueError('"captions" must hold texts that are not empty')
    "".join(captions).encode("utf-8")  # half a surrogate pair would fail much later
    for name, kinds in _OPTIONAL_FIELDS.items():
        if not isinstance(values.get(name), (*kinds, type(None))):
            raise ValueError(f'"{name}" is {type(values[name]).__name__}, not {kinds[0].__name__}')
    return Description(
        captions=tuple(captions),
        video=values.get("video"),
        sha256=values.get("sha256"),
        group=values.get("group"),
        width=values.get("width"),
        height=values.get("height"),
        duration_seconds=values.get("duration_seconds"),
    )


def sample_source(shard: str, key: str, suffix: str) -> str:
    """How messages name a sample: "train-000000.tar/000000007.mp4"; harmless for any key."""
    return f"{shard}/{key.encode('unicode_escape').decode('ascii')}.{suffix}"
