from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from reelscan.pretrain.media_kind import IMAGE_SUFFIXES, media_suffix
from reelscan.video.encode import write_video


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_images(suffix: str) -> None:
    _, data = cv2.imencode(f".{suffix}", np.zeros((8, 8, 3), np.uint8))
    assert media_suffix(data.tobytes()) == suffix


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "libx264"),
        ("mov", "libx264"),
        ("mkv", "libx264"),
        ("avi", "mpeg4"),
        ("webm", "libvpx"),
    ],
)
def test_videos(suffix: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"v.{suffix}"
    write_video(path, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), fps=8, codec=codec)
    assert media_suffix(path.read_bytes()) == suffix


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a text",
        b"\x00\x00\x00\x18ftypheic" + bytes(20),
        b"\x00\x00\x00\x1cftypavif" + bytes(20),
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"GIF89a" + bytes(20),
        b"#EXTM3U\nhttp://x/a.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD></MPD>",
    ],
)
def test_all_else_is_none_of_them(data: bytes) -> None:
    assert media_suffix(data) is None
