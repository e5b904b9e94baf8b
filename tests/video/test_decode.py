"""Which frames are read, and that they are those of plain sequential decoding."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from torch import Tensor

from reelscan.video.decode import read_clip, read_frame
from reelscan.video.encode import encode_video
from reelscan.video.errors import VideoError
from reelscan.video.sampling import middle_indices, random_indices
from reelscan.video.transforms import resize

Encode = Callable[..., bytes]
Decode = Callable[[bytes], Tensor]

H264 = "keyint=12:min-keyint=12:scenecut=0:bframes=3:b-adapt=0"
# How each stream is made.
STREAMS: dict[str, dict[str, Any]] = {
    "long gop": {"options": {"x264-params": "keyint=250:scenecut=0"}},
    "short gop": {"options": {"x264-params": "keyint=5:min-keyint=5:scenecut=0:bframes=0"}},
    "b-pyramid": {"options": {"x264-params": f"{H264}:bframes=6:b-pyramid=normal"}},
    "open gop": {"options": {"x264-params": f"{H264}:open-gop=1"}},
    "open gop ts": {"container": "mpegts", "options": {"x264-params": f"{H264}:open-gop=1"}},
    "open gop mkv": {"container": "matroska", "options": {"x264-params": f"{H264}:open-gop=1"}},
    "intra refresh": {"options": {"x264-params": f"{H264}:intra-refresh=1"}},
    "hevc open gop": {
        "codec": "libx265",
        "options": {"x265-params": f"{H264}:open-gop=1:log-level=none:pools=none"},
    },
    "times out of order": {"container": "avi", "options": {"x264-params": H264}},
    "no times": {"container": "h264", "options": {"x264-params": H264}},
    "mpeg-4 avi": {"codec": "mpeg4", "container": "avi", "options": {"bf": "2", "g": "12"}},
    "mpeg-2 ps": {"codec": "mpeg2video", "container": "mpeg", "fps": 25, "options": {"bf": "2"}},
    "mpeg-1 ps": {"codec": "mpeg1video", "container": "mpeg", "fps": 25, "options": {"bf": "2"}},
    "vp9": {"codec": "libvpx-vp9", "container": "webm", "options": {"g": "12", "cpu-used": "8"}},
    "av1": {"codec": "libsvtav1", "options": {"g": "12", "preset": "12"}},
}


@pytest.fixture(scope="module", params=STREAMS)
def stream(request: pytest.FixtureRequest, encode: Encode) -> bytes:
    return encode(48, **STREAMS[request.param])


@pytest.fixture(params=["kept", "read again"])
def storage(request: pytest.FixtureRequest) -> None:
    if request.param == "read again":
        request.getfixturevalue("nothing_kept")


@pytest.mark.usefixtures("storage")
def test_every_frame_alone_and_in_any_set_equals_sequential_decoding(
    stream: bytes, decode_all: Decode
) -> None:
    expected = decode_all(stream)
    assert len(expected) == 48
    everything = read_clip(stream, frames=48)
    assert torch.equal(everything.frames_uint8, expected)
    times = everything.times_seconds
    for index in range(0, 48, 5):
        assert torch.equal(read_frame(stream, times[index]), expected[index])
    for frames in (1, 2, 3, 5, 8):
        clip = read_clip(stream, frames=frames)
        indices = middle_indices(48, frames)
        assert torch.equal(clip.frames_uint8, expected[indices])
        assert clip.times_seconds == tuple(times[index] for index in indices)


def test_the_open_groups_are_open(encode: Encode) -> None:
    for name in ("open gop", "open gop ts", "open gop mkv", "hevc open gop"):
        with av.open(io.BytesIO(encode(48, **STREAMS[name])), "r") as container:
            packets = [(packet.pts, packet.is_keyframe) for packet in container.demux(video=0)]
        timed = [(pts, is_keyframe) for pts, is_keyframe in packets if pts is not None]
        pairs = itertools.pairwise(timed)
        leading = [later < pts for (pts, is_keyframe), (later, _) in pairs if is_keyframe]
        assert sum(leading) >= 2


def test_frames_between_far_keyframes_are_not_decoded(
    encode: Encode, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelscan.video.pyav_stream import PyAVStream

    decoded: list[object] = []
    plain = PyAVStream.decode

    def counted(self: PyAVStream, packet: Any) -> Any:
        decoded.append(packet)
        return plain(self, packet)

    monkeypatch.setattr(PyAVStream, "decode", counted)
    read_clip(encode(60, **STREAMS["short gop"]), frames=4)
    # Frames 7, 22, 37 and 52 are the third of their group, so three packets lead to each.
    assert len(decoded) == 12


def test_a_range_of_a_long_file_is_read_without_the_rest(
    encode: Encode, decode_all: Decode, nothing_kept: None
) -> None:
    for container in ("mp4", "matroska", "mpegts"):
        data = encode(120, container=container, options={"x264-params": H264})
        expected = decode_all(data)
        clip = read_clip(data, frames=4, start_seconds=6.0, end_seconds=8.0)
        assert torch.equal(clip.frames_uint8, expected[[60 + i for i in middle_indices(20, 4)]])
        assert clip.times_seconds == pytest.approx((6.2, 6.7, 7.2, 7.7), abs=2e-3)
        by_time = read_clip(data, frames=4, sampling="seconds", start_seconds=6, end_seconds=8)
        assert torch.equal(by_time.frames_uint8, expected[[62, 67, 72, 77]])
        assert torch.equal(read_frame(data, 999.0), expected[-1])
        with pytest.raises(VideoError, match="start_seconds 50 lies behind its end at 12"):
            read_clip(data, start_seconds=50)


def test_the_last_frame_that_began_is_shown(encode: Encode, decode_all: Decode) -> None:
    times = [0, 40, 1000, 1300, 5000, 5033]
    data = encode(6, times=times, options={"bf": "2"})
    expected = decode_all(data)
    for seconds, index in ((0, 0), (0.039, 0), (0.04, 1), (0.99, 1), (4.999, 3), (5, 4), (99, 5)):
        assert torch.equal(read_frame(data, seconds), expected[index])
    clip = read_clip(data, sampling="seconds", frames=5, start_seconds=0, end_seconds=5)
    assert clip.times_seconds == (0.04, 1.3, 1.3, 1.3, 1.3)
    assert torch.equal(clip.frames_uint8, expected[[1, 3, 3, 3, 3]])


def test_times_count_from_the_first_frame(encode: Encode) -> None:
    for container in ("mp4", "mpegts", "flv"):
        clip = read_clip(encode(12, container=container), frames=12)
        assert clip.times_seconds == pytest.approx([index / 10 for index in range(12)], abs=1e-3)


def test_frames_hidden_by_an_edit_list_do_not_count(encode: Encode, decode_all: Decode) -> None:
    times = [100 * index - 500 for index in range(20)]
    muxing = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    data = encode(20, times=times, muxing=muxing, options={"bf": "2"})
    expected = decode_all(data)
    assert len(expected) == 15
    clip = read_clip(data, frames=15)
    assert torch.equal(clip.frames_uint8, expected)
    assert clip.times_seconds[:2] == (0.0, 0.1)


def test_a_stream_that_begins_between_keyframes(encode: Encode, decode_all: Decode) -> None:
    whole = encode(48, container="mpegts", options={"x264-params": H264})
    cut = whole[188 * (len(whole) // 188 // 3) :]
    expected = decode_all(cut)
    assert 10 < len(expected) < 40
    assert torch.equal(read_clip(cut, frames=len(expected)).frames_uint8, expected)


def test_sampling_by_the_published_names(encode: Encode, decode_all: Decode) -> None:
    data = encode(50)
    expected = decode_all(data)

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    drawn = read_clip(data, sampling="random", generator=seeded())
    assert torch.equal(drawn.frames_uint8, expected[random_indices(50, 8, seeded())])
    two_a_second = read_clip(data, sampling="fps2", frames=6)
    assert two_a_second.times_seconds == (0.2, 0.8, 1.2, 1.8, 2.2, 2.8)
    few = read_clip(data, sampling="fps0.5")
    assert few.times_seconds == (1.0, 3.0)
    with pytest.raises(VideoError, match=r'too short for sampling "fps0\.01"'):
        read_clip(data, sampling="fps0.01")


def test_a_short_video_repeats_its_last_frame(encode: Encode, decode_all: Decode) -> None:
    data = encode(3)
    expected = decode_all(data)
    assert torch.equal(read_clip(data).frames_uint8, expected[[0, 1, 2, 2, 2, 2, 2, 2]])
    one = encode(1)
    assert torch.equal(read_clip(one, frames=4).frames_uint8, decode_all(one)[[0, 0, 0, 0]])


def test_the_range_is_taken_before_sampling(encode: Encode, decode_all: Decode) -> None:
    data = encode(50)
    expected = decode_all(data)
    clip = read_clip(data, frames=4, start_seconds=1.0, end_seconds=3.0)
    assert torch.equal(clip.frames_uint8, expected[[12, 17, 22, 27]])
    between = read_clip(data, frames=2, start_seconds=1.02, end_seconds=1.05)
    assert between.times_seconds == (1.0, 1.0)
    beyond = read_clip(data, frames=2, start_seconds=4.0, end_seconds=99.0)
    assert beyond.times_seconds == (4.2, 4.7)


def test_resizing_at_once_equals_resizing_afterwards(encode: Encode) -> None:
    data = encode(20)
    plain = read_clip(data).frames_uint8
    assert torch.equal(read_clip(data, frame_size=40).frames_uint8, resize(plain, 40))
    smooth = read_clip(data, frame_size=40, interpolation="bilinear", antialias=True)
    assert torch.equal(
        smooth.frames_uint8, resize(plain, 40, interpolation="bilinear", antialias=True)
    )
    assert read_frame(data, 0.3, frame_size=40).shape == (3, 40, 40)


def test_path_and_bytes_give_the_same(encode: Encode, tmp_path: Path) -> None:
    data = encode(20)
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    from_bytes, from_path, from_text = (read_clip(source) for source in (data, path, str(path)))
    assert torch.equal(from_bytes.frames_uint8, from_path.frames_uint8)
    assert torch.equal(from_bytes.frames_uint8, from_text.frames_uint8)


def test_more_threads_give_the_same_frames(encode: Encode) -> None:
    data = encode(30)
    one, two = (read_clip(data, frames=30, thread_count=threads) for threads in (1, 2))
    assert torch.equal(one.frames_uint8, two.frames_uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "frames is 0; give at least 1"),
        ({"sampling": "best"}, 'choose "middle", "random", "seconds" or "fps"'),
        ({"sampling": "fps-1"}, '"fps" with a number'),
        ({"sampling": "random"}, "needs a generator"),
        ({"start_seconds": -1}, "give 0 <= start < end"),
        ({"start_seconds": 2, "end_seconds": 2}, "give 0 <= start < end"),
        ({"end_seconds": float("nan")}, "give 0 <= start < end"),
        ({"frame_size": 0}, "frame_size is 0"),
        ({"decoder": "vlc"}, "decoder is 'vlc'; choose one of"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(
    encode: Encode, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_clip(encode(4), **arguments)
    assert not isinstance(error.value, VideoError)


def test_a_time_must_be_a_time(encode: Encode) -> None:
    for time in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="time_seconds is"):
            read_frame(encode(4), time)


def test_real_videos_are_decoded_exactly(
    sample_videos: dict[str, Path], decode_all: Decode
) -> None:
    frame_counts = {"bikes": 250, "carphone_pristine": 120, "carphone_distorted": 120}
    for name, count in frame_counts.items():
        path = sample_videos[name]
        expected = decode_all(path.read_bytes())
        assert len(expected) == count
        clip = read_clip(path)
        assert torch.equal(clip.frames_uint8, expected[middle_indices(count, 8)])
    clip = read_clip(sample_videos["bigbuckbunny"], frames=2, frame_size=64, end_seconds=1)
    assert clip.frames_uint8.shape == (2, 3, 64, 64)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("width", [160, 162, 166, 168, 170, 180, 184, 190])
def test_every_column_is_decoded_whatever_the_width(width: int, pixel_format: str) -> None:
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, size=(64, width), mode="bilinear")
    frames = (255 * smooth).byte().expand(4, 3, 64, width)
    data = encode_video(frames, fps=8, pixel_format=pixel_format)
    with av.open(io.BytesIO(data)) as container:
        expected = next(container.decode(video=0)).to_ndarray(format="rgb24")
    decoded = read_frame(data, 0.0)
    apart = decoded.permute(1, 2, 0).int() - torch.from_numpy(expected).int()
    assert apart.abs().max() <= 12
