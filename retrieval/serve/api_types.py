"""What the API takes and gives; the Python client has the same types."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

_TEXT = 2000
_PARTS = 16
_TEXTS = 64


class _Taken(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Given(BaseModel):
    model_config = ConfigDict(frozen=True)


class QueryPart(_Taken):
    """One thing that moments should be like: a sentence, a moment of a video, or an upload."""

    text: str | None = Field(default=None, min_length=1, max_length=_TEXT)
    video: str | None = Field(
        default=None, max_length=4096, description="A video of the collection."
    )
    start_seconds: float | None = Field(
        default=None, ge=0, description="Where the moment begins in it."
    )
    end_seconds: float | None = Field(default=None, gt=0)
    upload: str | None = Field(default=None, max_length=64, description="What /uploads gave.")
    weight: float = Field(default=1.0, ge=-100, le=100, description="Below 0: unlike it.")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if sum(one is not None for one in (self.text, self.video, self.upload)) != 1:
            raise ValueError("a part has one of text, video and upload")
        return self


class SearchRequest(_Taken):
    """A query and how its answer is put together."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "a red square moves left, then stops", "top": 10},
                {
                    "parts": [
                        {"text": "a dog"},
                        {"video": "park.mp4", "start_seconds": 12, "end_seconds": 20, "weight": 2},
                        {"text": "indoors", "weight": -0.5},
                    ],
                    "group": "video",
                    "where": "camera = 'north' and start >= 3600",
                },
            ]
        }
    )

    text: str | None = Field(
        default=None, min_length=1, max_length=_TEXT, description="A sentence."
    )
    parts: tuple[QueryPart, ...] = Field(default=(), max_length=_PARTS)
    top: int = Field(default=24, ge=1, le=200, description="Moments, or with group video, videos.")
    group: Literal["none", "video"] = "none"
    moments_per_video: int | None = Field(default=None, ge=1, le=200)
    where: str | None = Field(
        default=None, max_length=_TEXT, description="As in `reelscan search`."
    )
    video: str | None = Field(
        default=None, max_length=4096, description="Only moments of this video."
    )
    join: bool = Field(default=True, description="Make one moment of neighbours that both answer.")
    fold_duplicates: bool = Field(default=False, description="Show what looks the same once.")
    min_score: float | None = Field(default=None, ge=0, le=1, description="Least probability.")
    rerank: bool = Field(
        default=False, description="Read the best again with the matching head: slower."
    )

    @model_validator(mode="after")
    def _has_a_query(self) -> Self:
        if self.text is None and not self.parts:
            raise ValueError("give text or parts")
        return self

    def all_parts(self) -> tuple[QueryPart, ...]:
        """The sentence, if there is one, and the parts."""
        return (*([QueryPart(text=self.text)] if self.text is not None else []), *self.parts)


class PlaceAnswer(_Given):
    """A stretch of a video."""

    video: str
    start_seconds: float
    end_seconds: float


class MomentAnswer(PlaceAnswer):
    """A moment that answers."""

    title: str
    score: float
    probability: float | None
    best_frame_seconds: float
    duplicates: tuple[PlaceAnswer, ...]
    metadata: dict[str, Any]
    segment_ids: tuple[int, ...]
    frame: str
    """Address of a picture of the best frame."""
    media: str
    """Address of the video's file."""


class VideoMoments(_Given):
    """A video and its moments that answer, best first."""

    video: str
    title: str
    score: float
    moments: tuple[MomentAnswer, ...]


class SearchAnswer(_Given):
    """What was found, best first."""

    moments: tuple[MomentAnswer, ...] = ()
    videos: tuple[VideoMoments, ...] = ()
    """In place of `moments` with group video."""
    milliseconds: float


class EmbedRequest(_Taken):
    """Sentences, moments and uploads to embed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["a red circle"]}]})

    texts: tuple[str, ...] = Field(default=(), max_length=_TEXTS)
    parts: tuple[QueryPart, ...] = Field(default=(), max_length=_TEXTS)


class EmbedAnswer(_Given):
    """A vector of length 1 for each text, then each part."""

    fingerprint: str
    """Names the encoder; vectors of others cannot be compared."""
    embed_dim: int
    vectors: tuple[tuple[float, ...], ...]


class UploadAnswer(_Given):
    """What a query part may name; only a vector is kept, in memory."""

    upload: str
    frames: int


class SegmentAnswer(_Given):
    """A stored stretch of a video."""

    segment_id: int
    start_seconds: float
    end_seconds: float
    metadata: dict[str, Any]


class VideoSummary(_Given):
    """A video of the collection."""

    video: str
    title: str
    size_bytes: int
    frame: str
    media: str


class VideoAnswer(VideoSummary):
    """A video with all that is stored of it."""

    end_seconds: float
    """Of its last segment."""
    metadata: dict[str, Any]
    segments: tuple[SegmentAnswer, ...]


class VideosAnswer(_Given):
    """One page of the videos, by name."""

    videos: tuple[VideoSummary, ...]
    total: int
    offset: int


class MetadataField(_Given):
    """A key of the videos' metadata, for filters."""

    name: str
    values: tuple[str | float | bool, ...]
    """The most frequent ones of the videos looked at."""


class CollectionAnswer(_Given):
    """What is searched."""

    name: str
    videos: int
    segments: int
    can_rerank: bool
    has_probabilities: bool
    fields: tuple[MetadataField, ...]


class HealthAnswer(_Given):
    """Whether the service is there, or can answer."""

    status: Literal["ok", "ready"]
    version: str


class Problem(_Given):
    """What went wrong, in one line."""

    message: str
    request_id: str


class ProblemAnswer(_Given):
    """Body of every answer that is an error."""

    error: Problem


class SessionRequest(_Taken):
    """The token, in return for a cookie."""

    token: str = Field(max_length=1000)
