"""A picture of several searches: a row a query, a thumbnail a hit, with score and time range."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from reelscan.models.atomic_file import write_atomically
from reelscan.retrieval.searcher import SearchHit
from reelscan.video.decode import read_frame
from reelscan.video.errors import VideoError

# Sizes in pixels of the finished picture.
_DPI = 100
_MARGIN = 24
_GAP = 12
_TITLE = 40
_LABEL = 40
_TITLE_POINTS = 13
_LABEL_POINTS = 8.5
_PIXELS_PER_LETTER = 7


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A query and what it found."""

    title: str
    """The query's words, or the name of the example video."""
    hits: Sequence[SearchHit]


def write_contact_sheet(
    path: str | os.PathLike[str],
    rows: Sequence[SheetRow],
    *,
    columns: int = 5,
    thumbnail_width: int = 256,
    frames_per_hit: int = 1,
) -> None:
    """Write a PNG with up to `columns` hits a query, each shown by the middle frame of its segment,
    or by `frames_per_hit` frames side by side in the order of time.

    A frame that cannot be read is shown as a tile that says so. Widths are in pixels; thumbnails
    are 16:9 tiles (squares for several frames), a video of another shape has bars. Atomic.

    Raises:
        ValueError: no rows, `columns` or `frames_per_hit` below 1, or a `thumbnail_width` below 64.
    """
    if not rows:
        raise ValueError("there are no searches to show; give at least one row")
    if columns < 1 or thumbnail_width < 64 or frames_per_hit < 1:
        raise ValueError(
            f"columns is {columns}, thumbnail_width {thumbnail_width} and frames_per_hit "
            f"{frames_per_hit}; give at least 1, 64 pixels and 1"
        )
    thumbnail_height = (
        thumbnail_width * 9 // 16 if frames_per_hit == 1 else thumbnail_width // frames_per_hit
    )
    row_height = _TITLE + thumbnail_height + _LABEL + _GAP
    width = 2 * _MARGIN + columns * thumbnail_width + (columns - 1) * _GAP
    height = 2 * _MARGIN + len(rows) * row_height - _GAP
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")
    for number, row in enumerate(rows):
        top = height - _MARGIN - number * row_height
        title = _shortened(row.title, letters=(width - 2 * _MARGIN) // 11)
        figure.text(
            _MARGIN / width,
            (top - _TITLE / 2) / height,
            title,
            fontsize=_TITLE_POINTS,
            fontweight="bold",
            color="#1b2733",
            va="center",
            parse_math=False,
        )
        for column, hit in enumerate(row.hits[:columns]):
            left = _MARGIN + column * (thumbnail_width + _GAP)
            bottom = top - _TITLE - thumbnail_height
            tile = figure.add_axes(
                (
                    left / width,
                    bottom / height,
                    thumbnail_width / width,
                    thumbnail_height / height,
                )
            )
            letters = thumbnail_width // _PIXELS_PER_LETTER
            _draw_hit(tile, hit, letters=letters, frames=frames_per_hit)
        if not row.hits:
            figure.text(
                _MARGIN / width,
                (top - _TITLE - thumbnail_height / 2) / height,
                "nothing found",
                fontsize=_LABEL_POINTS,
                color="#6b7785",
            )
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(Path(path), picture.getvalue())


def _draw_hit(tile: Axes, hit: SearchHit, *, letters: int, frames: int) -> None:
    tile.set_facecolor("#eef1f4")
    tile.set_xticks([])
    tile.set_yticks([])
    for side in tile.spines.values():
        side.set_visible(False)
    try:
        frame = _film_strip(hit, frames)
    except (VideoError, OSError) as error:
        reason = error.reason if isinstance(error, VideoError) else str(error.strerror)
        tile.text(
            0.5,
            0.5,
            "not readable:\n" + _shortened(reason, letters=letters),
            transform=tile.transAxes,
            fontsize=_LABEL_POINTS,
            color="#a33a2a",
            ha="center",
            va="center",
            parse_math=False,
        )
    else:
        image = frame.permute(1, 2, 0).numpy()
        tile.imshow(image, aspect="equal", interpolation="antialiased")
        # imshow shrinks the axes to the picture; the tile keeps its place and shows bars instead.
        tile.set_adjustable("datalim")
    time_range = f"{_clock(hit.start_seconds)} – {_clock(hit.end_seconds)}"
    tile.annotate(
        f"{hit.score:.3f}   {time_range}\n{_shortened(hit.video, letters=letters, keep_end=True)}",
        (0, 0),
        xycoords="axes fraction",
        xytext=(0, -4),
        textcoords="offset points",
        fontsize=_LABEL_POINTS,
        color="#3d4955",
        va="top",
        linespacing=1.35,
        parse_math=False,
    )


def _film_strip(hit: SearchHit, frames: int) -> Tensor:
    """The middle frames of equal parts of the segment, side by side: uint8 [3, H, frames * W]."""
    step = (hit.end_seconds - hit.start_seconds) / frames
    times = [hit.start_seconds + (number + 0.5) * step for number in range(frames)]
    return torch.cat([read_frame(hit.path, seconds) for seconds in times], dim=2)


def _clock(seconds: float) -> str:
    tenths = round(seconds * 10)
    hours, minutes = divmod(tenths // 600, 60)
    rest = (
        f"{minutes:02d}:{tenths % 600 / 10:04.1f}"
        if hours
        else f"{minutes}:{tenths % 600 / 10:04.1f}"
    )
    return f"{hours}:{rest}" if hours else rest


def _shortened(text: str, *, letters: int, keep_end: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) <= letters:
        return text
    return "…" + text[1 - letters :] if keep_end else text[: letters - 1] + "…"
