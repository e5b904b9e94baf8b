"""What the API says of videos and moments."""

from pathlib import PurePosixPath
from urllib.parse import quote, urlencode

from reelscan.index.segments import Segment
from reelscan.index.video_files import VideoFile
from reelscan.retrieval.moments import SearchHit, VideoHit
from reelscan.retrieval.serve.api_types import (
    MomentAnswer,
    PlaceAnswer,
    SegmentAnswer,
    VideoMoments,
    VideoSummary,
)


def title_of(video: str) -> str:
    """A video's name for people: that of its file, without extension and underscores."""
    name = PurePosixPath(video)
    return " ".join((name.stem or name.name).replace("_", " ").split()) or video


def media_address(video: str) -> str:
    """Where its file is served."""
    return f"/media/{quote(video)}"


def frame_address(video: str, seconds: float, *, height: int = 180) -> str:
    """Where a picture of one frame is served."""
    wanted = {"video": video, "seconds": f"{seconds:.2f}", "height": height}
    return f"/frame?{urlencode(wanted)}"


def moment_answer(hit: SearchHit) -> MomentAnswer:
    """A moment as the API tells it; where the file lies on disk stays here."""
    best = hit.best_frame_seconds
    if best is None:
        best = (hit.start_seconds + hit.end_seconds) / 2
    return MomentAnswer(
        video=hit.video,
        title=title_of(hit.video),
        start_seconds=hit.start_seconds,
        end_seconds=hit.end_seconds,
        score=hit.score,
        probability=hit.probability,
        best_frame_seconds=best,
        duplicates=tuple(
            PlaceAnswer(
                video=one.video, start_seconds=one.start_seconds, end_seconds=one.end_seconds
            )
            for one in hit.duplicates
        ),
        metadata=dict(hit.metadata),
        segment_ids=hit.segment_ids,
        frame=frame_address(hit.video, best),
        media=media_address(hit.video),
    )


def video_moments(hit: VideoHit) -> VideoMoments:
    """A video with its moments."""
    return VideoMoments(
        video=hit.video,
        title=title_of(hit.video),
        score=hit.score,
        moments=tuple(moment_answer(one) for one in hit.moments),
    )


def segment_answer(segment: Segment) -> SegmentAnswer:
    """A stored segment."""
    return SegmentAnswer(
        segment_id=segment.segment_id,
        start_seconds=segment.start_seconds,
        end_seconds=segment.end_seconds,
        metadata=dict(segment.metadata),
    )


def video_summary(file: VideoFile, *, seconds: float = 1.0) -> VideoSummary:
    """A video with the picture at `seconds`."""
    return VideoSummary(
        video=file.path,
        title=title_of(file.path),
        size_bytes=file.size_bytes,
        frame=frame_address(file.path, seconds),
        media=media_address(file.path),
    )
