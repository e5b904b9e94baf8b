import threading
import time

import pytest
import torch

from reelscan.index.decode_ahead import decode_ahead
from reelscan.video.decode import Clip
from reelscan.video.errors import VideoError
from reelscan.video.windows import Window


def windows(count):
    clip = Clip(frames_uint8=torch.zeros(1, 3, 2, 2, dtype=torch.uint8), times_seconds=(0.0,))
    for number in range(count):
        yield Window(clip=clip, start_seconds=float(number), end_seconds=number + 1.0)


@pytest.mark.parametrize("workers", [1, 3])
def test_each_video_s_windows_come_in_order_and_then_its_end(workers):
    events = list(
        decode_ahead(["a", "b", "c"], read=lambda _: windows(4), workers=workers, waiting=2)
    )
    for video in "abc":
        own = [event.window for event in events if event.video == video]
        assert [window and window.start_seconds for window in own] == [0.0, 1.0, 2.0, 3.0, None]


def test_a_broken_video_does_not_stop_the_others():
    def read(video):
        yield from windows(1)
        if video == "a":
            raise VideoError(video, "odd")
        if video == "b":
            raise PermissionError(13, "Permission denied")

    events = decode_ahead("abc", read=read, workers=1, waiting=2)
    last = {event.video: event.failure for event in events}
    assert last == {"a": "odd", "b": "Permission denied", "c": None}


def test_a_mistake_in_the_code_is_raised():
    def read(video):
        yield from windows(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(decode_ahead("ab", read=read, workers=2, waiting=2))


def test_decoding_waits_for_the_taker_and_stops_with_it():
    taken = []

    def read(_):
        for window in windows(1000):
            taken.append(window)
            yield window

    events = decode_ahead("a", read=read, workers=1, waiting=3)
    next(events)
    time.sleep(0.2)
    assert len(taken) <= 5
    events.close()
    assert not [one for one in threading.enumerate() if one.name.startswith("decode")]
