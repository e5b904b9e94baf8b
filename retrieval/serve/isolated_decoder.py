"""Decoding of strangers' files in a process of its own, with little memory and little time.

T frames, S side of a frame in pixels.
"""

import contextlib
import multiprocessing
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import torch
from torch import Tensor

from reelscan.models.preprocessing import Preprocessing
from reelscan.video.decode import read_clip
from reelscan.video.errors import VideoError

_MEMORY_BYTES = 3 << 30
_NAME = "the upload"
_PICTURES = (
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"\xff\xd8\xff"),
    (0, b"BM"),
    (8, b"WEBP"),
    (0, b"II*\0"),
    (0, b"MM\0*"),
)


class IsolatedDecoder:
    """A process that is started when first needed, and again after it was ended."""

    def __init__(self, preprocessing: Preprocessing, *, seconds: float = 20.0) -> None:
        """`seconds`: after which a file is given up and the process ended."""
        self._preprocessing = preprocessing
        self._seconds = seconds
        self._pool: ProcessPoolExecutor | None = None
        self._using = threading.Lock()

    def frames_of(self, content: bytes) -> Tensor:
        """uint8 [T, 3, S, S] of a picture (T = 1) or a video; raises VideoError."""
        with self._using:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    max_workers=1,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_prepare,
                )
            future = self._pool.submit(_decode, content, self._preprocessing)
            try:
                shape, pixels = future.result(timeout=self._seconds)
            except TimeoutError:
                self._end()
                reason = f"took more than {self._seconds:g} s to decode: give a shorter clip"
                raise VideoError(_NAME, reason) from None
            except (BrokenProcessPool, MemoryError):
                self._end()
                raise VideoError(
                    _NAME, "makes the decoder fail: it is damaged or too large"
                ) from None
        return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(shape)

    def close(self) -> None:
        """End the process."""
        with self._using:
            self._end()

    def _end(self) -> None:
        if self._pool is None:
            return
        for process in list((self._pool._processes or {}).values()):
            with contextlib.suppress(OSError, ValueError):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def _prepare() -> None:
    # Ctrl-C reaches the whole group; the service ends this process itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on every system

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, most))


def _decode(content: bytes, preprocessing: Preprocessing) -> tuple[list[int], bytes]:
    is_picture = any(content[at : at + len(sign)] == sign for at, sign in _PICTURES)
    clip = read_clip(
        content,
        frames=1 if is_picture else preprocessing.frames,
        sampling=preprocessing.sampling,
        frame_size=preprocessing.size,
        interpolation=preprocessing.interpolation,
        antialias=preprocessing.antialias,
        name=_NAME,
    )
    frames = clip.frames_uint8.contiguous()
    return list(frames.shape), frames.numpy().tobytes()
