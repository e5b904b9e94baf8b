import json
from dataclasses import replace

import pytest

from reelscan.index.manifest import (
    CollectionError,
    Manifest,
    Windowing,
    read_manifest,
    write_manifest,
)

MANIFEST = Manifest(
    fingerprint="abc",
    embed_dim=4,
    videos_root="/videos",
    windowing=Windowing(window_seconds=2.0, stride_seconds=1.0),
    preprocessing={"frames": 8, "mean": [0.5, 0.5, 0.5]},
)


def edit(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_read_again(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    assert read_manifest(tmp_path) == MANIFEST


def test_a_newer_version_is_refused_with_the_remedy(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    edit(tmp_path, format_version=3, windowing="of a form nobody knows yet")
    with pytest.raises(CollectionError, match=r"format_version 3.*up to 2.*upgrade"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format_version": "1"},
        {"format": "something else"},
        {"windowing": None},
        {"windowing": {"window_seconds": -1, "stride_seconds": None}},
        {"embed_dim": "wide"},
        {"embed_dim": 0},
    ],
)
def test_a_damaged_manifest_is_one_clear_error(tmp_path, changes):
    write_manifest(tmp_path, MANIFEST)
    edit(tmp_path, **changes)
    with pytest.raises(CollectionError, match="manifest"):
        read_manifest(tmp_path)


def test_half_a_manifest_is_damaged(tmp_path):
    write_manifest(tmp_path, MANIFEST)
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CollectionError, match="damaged"):
        read_manifest(tmp_path)


def test_any_other_folder_is_no_collection(tmp_path):
    with pytest.raises(CollectionError, match="not a collection"):
        read_manifest(tmp_path)
    with pytest.raises(CollectionError, match="not a collection"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "bad",
    [
        {"window_seconds": 0.0},
        {"window_seconds": float("nan")},
        {"window_seconds": 2.0, "stride_seconds": -1.0},
        {"window_seconds": None, "stride_seconds": 1.0},
    ],
)
def test_impossible_windows_are_refused(bad):
    with pytest.raises(ValueError, match="seconds"):
        Windowing(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"segments": "scenes"},
        {"segments": "shots", "stride_seconds": 1.0},
        {"segments": "shots", "window_seconds": 0.5},
        {"segments": "long-clip", "clip_frames": 1},
        {"segments": "long-clip", "change_penalty": 0.0},
        {"segments": "long-clip", "moment_vectors": "both"},
    ],
)
def test_impossible_cuts_are_refused(bad):
    with pytest.raises(ValueError, match=r"is|longest"):
        Windowing(**bad)


@pytest.mark.parametrize(
    "windowing",
    [
        Windowing(window_seconds=None),
        Windowing(segments="shots", shot_threshold=3.0),
        Windowing(segments="long-clip", frames_per_second=4.0, window_seconds=None),
    ],
)
def test_every_cut_survives_the_manifest(tmp_path, windowing):
    write_manifest(tmp_path, replace(MANIFEST, windowing=windowing))
    assert read_manifest(tmp_path).windowing == windowing
