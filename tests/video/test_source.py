"""What is turned away before decoding, and that no file can make others be opened."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reelscan.video.decode import read_clip
from reelscan.video.errors import VideoError

Encode = Callable[..., bytes]


def reason_for(source: Path | bytes | str, *, decoder: str = "auto") -> str:
    with pytest.raises(VideoError) as error:
        read_clip(source, decoder=decoder)  # type: ignore[arg-type]
    assert str(error.value) == f"{error.value.name}: {error.value.reason}"
    assert "\n" not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("decoder", ["auto", "pyav", "opencv"])
def test_what_is_no_file_is_named_with_the_reason(tmp_path: Path, decoder: str) -> None:
    missing = tmp_path / "missing.mp4"
    with pytest.raises(VideoError, match=r"missing\.mp4: there is no such file"):
        read_clip(missing, decoder=decoder)  # type: ignore[arg-type]
    assert reason_for(tmp_path, decoder=decoder) == "is a directory; give a video file"
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert reason_for(empty, decoder=decoder) == "is empty (0 bytes)"
    assert reason_for(b"", decoder=decoder) == "is empty (0 bytes)"


def test_a_pipe_without_writer_does_not_block(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert reason_for(pipe) == "is no regular file; give a video file"
    assert reason_for("/dev/zero") == "is no regular file; give a video file"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("reelscan.video.source.os.open", refuse)
    assert reason_for(tmp_path / "a.mp4") == "permission denied; make the file readable"


def test_addresses_and_odd_paths_are_files_or_nothing() -> None:
    assert reason_for("http://localhost:9/a.mp4").startswith("is an address; download it first")
    assert reason_for("file:///etc/hostname").startswith("is an address")
    assert reason_for("concat:a.mp4|b.mp4") == "there is no such file"
    assert reason_for("a\0b.mp4").startswith("is no path")


def test_the_given_name_is_used(tmp_path: Path) -> None:
    with pytest.raises(VideoError) as error:
        read_clip(b"garbage", name="shard-000001.tar: 17.mp4")
    assert error.value.name == "shard-000001.tar: 17.mp4"
    with pytest.raises(VideoError, match=r"^<7 bytes>: "):
        read_clip(b"garbage")


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:6,\n{path}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile {path}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet><Representation '
    'id="1" mimeType="video/mp4" bandwidth="1" width="64" height="48"><BaseURL>{path}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "smil": '<smil><body><video src="{path}"/></body></smil>',
    "dash behind a container's first bytes": 'RIFF<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><BaseURL>{path}</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("decoder", ["auto", "opencv"])
@pytest.mark.parametrize("suffix", [".m3u8", ".ffconcat", ".mpd", ".mp4", ".png", ".sdp"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_open_no_other_file(
    encode: Encode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    suffix: str,
    decoder: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "target.mp4"
    target.write_bytes(encode(4))
    for path in ("target.mp4", str(target), target.as_uri()):
        playlist = tmp_path / f"list{suffix}"
        playlist.write_text(PLAYLISTS[kind].format(path=path))
        reason_for(playlist, decoder=decoder)
        reason_for(playlist.read_bytes(), decoder=decoder)


def test_a_numbering_pattern_in_a_name_is_just_a_name(encode: Encode, tmp_path: Path) -> None:
    picture = encode(1, codec="png", container="image2pipe", pixel_format="rgb24")
    (tmp_path / "1.png").write_bytes(picture)
    assert reason_for(tmp_path / "%d.png") == "there is no such file"
    assert reason_for(tmp_path / "?.png") == "there is no such file"
    odd = tmp_path / "100% #{1..2}?*.png"
    odd.write_bytes(picture)
    assert read_clip(odd, frames=1).frames_uint8.shape == (1, 3, 48, 64)
