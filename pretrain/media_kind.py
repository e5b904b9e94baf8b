"""The kind of a video or image file, told by its first bytes: names lie, bytes less so."""

VIDEO_SUFFIXES = ("mp4", "webm", "mkv", "avi", "mov")
IMAGE_SUFFIXES = ("jpg", "png", "webp")
MEDIA_SUFFIXES = VIDEO_SUFFIXES + IMAGE_SUFFIXES

_STARTS = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}
_RIFF_FORMS = {b"AVI ": "avi", b"WEBP": "webp"}
# ISO files of stills share the box layout of mp4; their brands tell them apart.
_STILL_BRANDS = {b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1"}
_OLD_QUICKTIME_BOXES = {b"moov", b"mdat", b"wide", b"free", b"skip"}
_MATROSKA_START = b"\x1aE\xdf\xa3"
_MATROSKA_HEADER_BYTES = 128


def media_suffix(data: bytes) -> str | None:
    """One of `MEDIA_SUFFIXES`, or None if the bytes start like none of them."""
    for start, suffix in _STARTS.items():
        if data.startswith(start):
            return suffix
    if data.startswith(b"RIFF"):
        return _RIFF_FORMS.get(data[8:12])
    if data.startswith(_MATROSKA_START):
        return "webm" if b"webm" in data[:_MATROSKA_HEADER_BYTES] else "mkv"
    box, brand = data[4:8], data[8:12]
    if box == b"ftyp" and brand not in _STILL_BRANDS:
        return "mov" if brand == b"qt  " else "mp4"
    return "mov" if box in _OLD_QUICKTIME_BOXES else None
