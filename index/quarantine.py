"""Videos that could not be read: set aside with the reason, tried again only once they change."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from reelscan.index.video_files import VideoFile
from reelscan.models.atomic_file import write_atomically

REPORT_NAME = "quarantine.jsonl"


@dataclass(frozen=True, kw_only=True)
class QuarantinedVideo:
    """A video of which nothing is searchable, and why."""

    file: VideoFile
    """The file as it was when it failed."""
    reason: str
    """One line: what went wrong."""
    quarantined_at: str
    """UTC time, ISO 8601."""

    @property
    def video(self) -> str:
        """Relative to the videos' root."""
        return self.file.path


def quarantined_now(file: VideoFile, reason: str) -> QuarantinedVideo:
    """A quarantine entry of this moment."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return QuarantinedVideo(file=file, reason=" ".join(reason.split()), quarantined_at=now)


def write_quarantine_report(folder: Path, entries: Iterable[QuarantinedVideo]) -> None:
    """Write the entries for people to read, one JSON object a line, atomically.

    The report is derived: the collection's database decides.
    """
    lines = [
        json.dumps(
            {**asdict(entry.file), "reason": entry.reason, "quarantined_at": entry.quarantined_at},
            ensure_ascii=False,
        )
        for entry in entries
    ]
    write_atomically(folder / REPORT_NAME, "".join(line + "\n" for line in lines).encode())
