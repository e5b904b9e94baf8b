"""When the FAISS file of a collection is made again, and the thread that does it beside writing."""

import threading
from collections.abc import Callable
from pathlib import Path

from reelscan.index.compaction import compact
from reelscan.index.derived_file import IndexStamp, read_stamp
from reelscan.index.index_build import Cancelled, OnProgress
from reelscan.index.index_settings import IndexSettings
from reelscan.index.stored_vectors import StoredVectors

_CHANGES_AT_LEAST = 16_384
_CHANGES_SHARE = 0.04
"""Changed rows, of those in the file, that make it due: comparing this many fresh vectors takes a
few milliseconds a query, and writing a file this seldom costs little beside embedding."""


class Compactor:
    """Makes the index file of a collection whose lock is held; one at a time."""

    def __init__(
        self,
        folder: Path,
        vectors: StoredVectors,
        *,
        settings: IndexSettings,
        on_notice: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._vectors = vectors
        self._settings = settings
        self._on_notice = on_notice
        self._running = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._changed_rows = 0

    def run(self, *, anew: bool = False, on_progress: OnProgress | None = None) -> IndexStamp:
        """Make the file now; waits for one under way. Raises as `compact` does."""
        with self._running:
            return self._compact(anew=anew, on_progress=on_progress)

    def note(self, changed_rows: int) -> None:
        """Count rows that were added or deleted; starts a thread once the file is due."""
        self._changed_rows += changed_rows
        if not self._settings.compact_in_background or self._changed_rows < _CHANGES_AT_LEAST:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        recorded = read_stamp(self._vectors.database)
        vectors = 0 if recorded is None else recorded[0].vectors
        if self._changed_rows >= _CHANGES_SHARE * vectors:
            self._thread = threading.Thread(target=self._run_quietly, name="compact")
            self._thread.start()

    def stop(self) -> None:
        """Have a thread under way give up, and wait for it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def wait(self) -> None:
        """Wait until a thread under way is done."""
        if self._thread is not None:
            self._thread.join()

    def _compact(self, *, anew: bool, on_progress: OnProgress | None) -> IndexStamp:
        def check(what: str, done: int, total: int) -> None:
            if self._stop.is_set():
                raise Cancelled
            if on_progress is not None:
                on_progress(what, done, total)

        self._changed_rows = 0
        return compact(
            self._folder,
            self._vectors,
            settings=self._settings,
            anew=anew,
            on_progress=check,
        )

    def _run_quietly(self) -> None:
        try:
            self.run()
        except Cancelled:
            return
        except (ValueError, OSError) as error:
            # Searching goes on with the old file and more fresh rows.
            self._on_notice(f"the index file was not made again: {error}")
