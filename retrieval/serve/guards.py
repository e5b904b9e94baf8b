"""What turns requests away before they cost anything: who asks, from which page, how much."""

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reelscan.retrieval.serve.problems import problem, request_id_of
from reelscan.retrieval.serve.settings import ServeSettings

COOKIE = "reelscan_session"
_OPEN_PATHS = ("/", "/watch", "/health", "/ready", "/session")
"""What is answered without a token: nothing of it tells what the collection holds."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class PageGuard:
    """Refuses names that are not ours (DNS rebinding) and changes that other pages ask for."""

    def __init__(self, app: ASGIApp, *, settings: ServeSettings) -> None:
        self._app = app
        self._names = {
            "localhost",
            socket.gethostname().lower(),
            settings.host.lower(),
            *(name.lower() for name in settings.allowed_hosts),
        }
        self._origins = {origin.lower() for origin in settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return problem(
                "this service does not go by that name: use its address, or start it with "
                "--allow-host NAME",
                status=400,
                request_id=request_id_of(scope),
            )
        origin = headers.get("origin")
        if origin is None or scope["method"] in _SAFE_METHODS:
            return None
        own = {f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"}
        if origin.lower() in own | self._origins:
            return None
        return problem(
            "another web page asked for this: allow it with --allow-origin",
            status=403,
            request_id=request_id_of(scope),
        )

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host.lower())
        if name is None:
            return False
        try:
            # An address cannot be made to point elsewhere, as a name can.
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name in self._names
        return True


def _without_port(host: str) -> str | None:
    """`name:80` -> `name`, `[::1]:80` -> `[::1]`; None for what is no host."""
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, ""
    if (colon and not port.isdecimal()) or not name or (":" in name and name[0] != "["):
        return None
    return name


class Tokens:
    """The token, and the cookie that stands for it in browsers until the service stops."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self.cookie = hashlib.blake2b(
            self._token, key=secrets.token_bytes(32), digest_size=32
        ).hexdigest()

    def fits(self, token: str) -> bool:
        """Compared in a time that tells nothing."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._token)

    def allow(self, headers: Headers) -> bool:
        """Whether a request may pass."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.fits(token.strip()):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        given = "" if morsel is None else morsel.value
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.cookie.encode())


class TokenGuard:
    """Lets nobody through without the token, but to the empty page that asks for it."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and not self._passes(scope):
            refusal = problem(
                "a token is needed: send `Authorization: Bearer TOKEN`",
                status=401,
                request_id=request_id_of(scope),
                headers={"www-authenticate": "Bearer"},
            )
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in _OPEN_PATHS or path.startswith("/static/"):
            return True
        return self._tokens.allow(Headers(scope=scope))


class BodyLimit:
    """Refuses bodies that are too large, as soon as that is known, or arrive too slowly."""

    def __init__(self, app: ASGIApp, *, settings: ServeSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        settings = self._settings
        most = settings.upload_bytes if scope["path"] == "/uploads" else settings.body_bytes
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared[:20]) > most:
            refusal = problem(_too_large(most), status=413, request_id=request_id_of(scope))
            await refusal(scope, receive, send)
            return
        deadline = time.monotonic() + settings.body_seconds
        taken, complete = 0, False

        async def receive_some() -> Message:
            nonlocal taken, complete
            if complete:
                return await receive()
            left = deadline - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), max(left, 0.001))
            except TimeoutError:
                raise HTTPException(
                    408, f"the request did not arrive within {settings.body_seconds:g} s"
                ) from None
            taken += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if taken > most:
                raise HTTPException(413, _too_large(most))
            return message

        await self._app(scope, receive_some, send)


def _too_large(most: int) -> str:
    return f"the request is too large: at most {most} bytes are taken (--upload-limit)"
