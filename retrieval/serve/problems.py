"""Errors as answers: a status, one line for a person, and the request's id."""

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from reelscan.retrieval.serve.api_types import Problem, ProblemAnswer

_LONGEST = 1000


def problem(
    message: str, *, status: int, request_id: str, headers: dict[str, str] | None = None
) -> Response:
    """An answer that says what went wrong."""
    line = " ".join(message.split())
    shown = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
    answer = ProblemAnswer(error=Problem(message=shown, request_id=request_id))
    # Plain ASCII, for a message may repeat half a surrogate pair that a request brought.
    return Response(
        json.dumps(answer.model_dump()),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )


def request_id_of(request: Request | Scope) -> str:
    """The id that `RequestLog` gave to a request."""
    scope = request.scope if isinstance(request, Request) else request
    return str(scope.get("state", {}).get("request_id", ""))
