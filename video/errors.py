"""The one error that unreadable videos raise."""


class VideoError(ValueError):
    """A video that cannot be read: `name` says which one, `reason` why. Its text is one line."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = " ".join(name.split())
        self.reason = " ".join(reason.split())
        # Both arguments reach ValueError, so that the error survives pickling between processes.
        super().__init__(self.name, self.reason)

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class UnsupportedVideoError(VideoError):
    """A decoder that does not know this codec; another decoder may."""
