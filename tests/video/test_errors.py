import copy

from reelscan.video.errors import VideoError


def test_the_message_is_one_line_with_name_and_reason() -> None:
    error = VideoError("a\nb.mp4", "is\n broken")
    assert (error.name, error.reason, str(error)) == ("a b.mp4", "is broken", "a b.mp4: is broken")
    assert isinstance(error, ValueError)


def test_it_travels_between_processes() -> None:
    # Copying rebuilds it from the same parts as pickling does.
    twin = copy.copy(VideoError("a.mp4", "is broken"))
    assert (twin.name, twin.reason) == ("a.mp4", "is broken")
