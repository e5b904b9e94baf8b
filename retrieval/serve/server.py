"""Listening: the application on a socket, until it is told to stop."""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from reelscan.retrieval.serve.settings import ServeSettings

_KEEP_ALIVE_SECONDS = 10
_SHUTDOWN_SECONDS = 10
_LONGEST_HEADERS = 32 << 10


class ImpatientProtocol(H11Protocol):
    """Hangs up on clients that connect and do not finish saying what they want."""

    header_seconds = 15.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio.Protocol."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio.Protocol."""
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        asked = self.cycle is not None and not self.cycle.response_complete
        if asked:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._hang_up)

    def _hang_up(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def listen(settings: ServeSettings) -> socket.socket:
    """A socket that is bound, so that an address in use is told at once; raises ValueError."""
    try:
        found = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ValueError(
            f"cannot listen at {settings.host} port {settings.port}: {error.strerror}; choose "
            "another --port (0: any free one) or --host"
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """What a person on this machine types to get there."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def make_server(
    app: FastAPI,
    settings: ServeSettings,
    *,
    protocol: type[ImpatientProtocol] = ImpatientProtocol,
) -> uvicorn.Server:
    """A server whose `run(sockets=[...])` returns after Ctrl-C or SIGTERM, or `should_exit`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            log_config=None,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=settings.connections,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            h11_max_incomplete_event_size=_LONGEST_HEADERS,
        )
    )
