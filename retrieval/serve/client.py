"""A typed client of a service: `ServiceClient("http://127.0.0.1:8000").search(text="a dog")`."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel

from reelscan.retrieval.serve.api_types import (
    CollectionAnswer,
    EmbedAnswer,
    EmbedRequest,
    QueryPart,
    SearchAnswer,
    SearchRequest,
    UploadAnswer,
    VideoAnswer,
    VideosAnswer,
)

Answer = TypeVar("Answer", bound=BaseModel)


class ServiceError(Exception):
    """The service refused, failed, or could not be reached (`status` is None)."""

    def __init__(self, message: str, *, status: int | None, request_id: str) -> None:
        super().__init__(message)
        self.status = status
        self.request_id = request_id
        """Names the request in the service's log."""


class ServiceClient:
    """Asks one service; every method raises ServiceError."""

    def __init__(self, address: str, *, token: str | None = None, seconds: float = 60.0) -> None:
        """`seconds`: how long an answer is waited for."""
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"{address!r} is no address of a service: give http://host:port")
        self._address = address.rstrip("/")
        self._token = token
        self._seconds = seconds

    def search(
        self,
        text: str | None = None,
        *,
        parts: Sequence[QueryPart] = (),
        top: int = 24,
        group: Literal["none", "video"] = "none",
        where: str | None = None,
        rerank: bool = False,
        min_score: float | None = None,
    ) -> SearchAnswer:
        """The moments of a sentence, examples, or both; `search_for` takes every option."""
        return self.search_for(
            SearchRequest(
                text=text,
                parts=tuple(parts),
                top=top,
                group=group,
                where=where,
                rerank=rerank,
                min_score=min_score,
            )
        )

    def search_for(self, request: SearchRequest) -> SearchAnswer:
        """The answer to a request."""
        return self._post("/search", request, SearchAnswer)

    def embed(self, texts: Sequence[str] = (), *, parts: Sequence[QueryPart] = ()) -> EmbedAnswer:
        """The vectors of sentences and examples."""
        wanted = EmbedRequest(texts=tuple(texts), parts=tuple(parts))
        return self._post("/embed", wanted, EmbedAnswer)

    def upload(self, path: str | Path) -> QueryPart:
        """A picture or clip as a part of queries."""
        content = Path(path).read_bytes()
        done = self._ask("/uploads", UploadAnswer, content, "application/octet-stream")
        return QueryPart(upload=done.upload)

    def collection(self) -> CollectionAnswer:
        """What is searched."""
        return self._ask("/collection", CollectionAnswer)

    def videos(self, *, offset: int = 0, limit: int = 50, contains: str = "") -> VideosAnswer:
        """Videos by name."""
        wanted = urllib.parse.urlencode({"offset": offset, "limit": limit, "contains": contains})
        return self._ask(f"/videos?{wanted}", VideosAnswer)

    def video(self, video: str) -> VideoAnswer:
        """One video with its segments."""
        return self._ask(f"/videos/{urllib.parse.quote(video)}", VideoAnswer)

    def _post(self, path: str, body: BaseModel, kind: type[Answer]) -> Answer:
        return self._ask(path, kind, body.model_dump_json().encode(), "application/json")

    def _ask(
        self, path: str, kind: type[Answer], body: bytes | None = None, media_type: str = ""
    ) -> Answer:
        request = urllib.request.Request(self._address + path, data=body)
        if media_type:
            request.add_header("content-type", media_type)
        if self._token is not None:
            request.add_header("authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=self._seconds) as answer:
                return kind.model_validate_json(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise ServiceError(
                f"{self._address} cannot be reached: {reason}", status=None, request_id=""
            ) from error


def _refused(error: urllib.error.HTTPError) -> ServiceError:
    try:
        told = json.loads(error.read())["error"]
        message, request_id = str(told["message"]), str(told["request_id"])
    except (ValueError, KeyError, TypeError):
        message, request_id = str(error.reason), ""
    return ServiceError(message, status=error.code, request_id=request_id)
