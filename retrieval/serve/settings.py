"""How a service listens and what it refuses."""

import ipaddress
import math
from dataclasses import dataclass

_SHORTEST_TOKEN = 8


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Limits of one service; those of memory and time hold for each request."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for every network of this machine."""
    port: int = 8000
    """0: any free one."""
    token: str | None = None
    """What requests have to bring; None: nothing."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which browsers may call the service, besides addresses and this machine's name."""
    allowed_origins: tuple[str, ...] = ()
    """Web pages, as https://host, that may use the API from a browser."""
    upload_bytes: int = 64 << 20
    """Largest example picture or clip."""
    body_bytes: int = 256 << 10
    """Largest other request."""
    body_seconds: float = 30.0
    """Time in which a request has to arrive."""
    answer_seconds: float = 30.0
    """Time after which an answer is given up."""
    searching: int = 4
    """Searches at work at once."""
    waiting: int = 128
    """Requests that may wait for their turn; more are told to come again (503)."""
    waiting_per_client: int = 64
    """Of these, so many from one address (429)."""
    connections: int = 512
    """Open connections; further ones get 503."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}; give a number from 0 to 65535")
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise ValueError(
                f"the token has {len(self.token)} characters, which is soon guessed: give at least "
                f"{_SHORTEST_TOKEN}, such as those of `openssl rand -hex 16`"
            )
        for name in ("upload_bytes", "body_bytes", "searching", "waiting", "waiting_per_client"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number of at least 1")
        for name in ("body_seconds", "answer_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; give seconds above 0")
        for origin in self.allowed_origins:
            scheme, _, rest = origin.partition("://")
            if scheme not in ("http", "https") or not rest or "/" in rest or "*" in rest:
                raise ValueError(
                    f"{origin!r} is no origin of a web page: give https://host or http://host:port"
                )

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines can reach it."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True
