"""The outermost layer: ids, one line of JSON for each request, counts, and headers for safety."""

import json
import logging
import re
import secrets
import time
from datetime import UTC, datetime

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelscan.retrieval.serve.metrics import Metrics
from reelscan.retrieval.serve.problems import problem

LOG = logging.getLogger("reelscan.serve")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SAFETY = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


class RequestLog:
    """What people search for is theirs: neither queries nor names of videos are logged."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _SAFETY.items():
                    headers.setdefault(name, value)
            await send(message)

        failure: Exception | None = None
        try:
            await self._app(scope, receive, send_on)
        except Exception as error:  # noqa: BLE001 - the last place that can answer
            failure = error
            if status == 0:
                answer = problem(
                    "the service failed; its log names the reason by this request_id",
                    status=500,
                    request_id=request_id,
                )
                await answer(scope, receive, send_on)
        self._tell(scope, request_id, status, time.perf_counter() - started, failure)

    def _tell(
        self, scope: Scope, request_id: str, status: int, seconds: float, failure: Exception | None
    ) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
        self._metrics.count_request(method=method, route=route, status=status, seconds=seconds)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "client": (scope.get("client") or ("",))[0],
            "method": method,
            "route": route,
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
        }
        if failure is not None:
            line["error"] = f"{type(failure).__name__}: {failure}"
        level = logging.ERROR if status >= 500 and status != 503 else logging.INFO
        LOG.log(level, json.dumps(line), exc_info=failure)
