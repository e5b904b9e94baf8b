"""`reelscan serve`: a web page and an API that search a collection."""

import importlib.util
import logging
import os
import sys
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reelscan.index.collection import Collection
from reelscan.models.encoder import VideoTextEncoder
from reelscan.retrieval.calibration import load_calibration
from reelscan.retrieval.cli.arguments import parse_arguments
from reelscan.retrieval.cli.device import best_device
from reelscan.retrieval.cli.index_actions import bytes_of
from reelscan.retrieval.cli.progress import notice
from reelscan.retrieval.collection_choice import milvus_place
from reelscan.retrieval.feature_cache import default_cache
from reelscan.retrieval.model_choice import choose_any_encoder, choose_model
from reelscan.retrieval.serve.settings import ServeSettings
from reelscan.retrieval.token_cache import TokenCache

TOKEN_VARIABLE = "REELSCAN_SERVE_TOKEN"
"""The token, for those who do not want it in the list of processes."""
_NEEDED = ("fastapi", "uvicorn")
_DEFAULTS = ServeSettings()


@dataclass(frozen=True, kw_only=True)
class Command:
    """Serves a web page and an API over HTTP that search a collection.

    Only this machine can reach it unless --host says otherwise; then give --token as well, for it
    shows the collection's videos to everybody who can connect. What is indexed meanwhile is found
    at once. Ctrl-C stops it.

    Examples:
      reelscan serve films.collection
      reelscan serve films.collection --port 9000 --device cuda
      REELSCAN_SERVE_TOKEN=$(openssl rand -hex 16) reelscan serve films.collection --host 0.0.0.0
    """

    collection: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="COLLECTION")]
    """Folder made by `reelscan index`."""
    host: str = _DEFAULTS.host
    """Address to listen at; 0.0.0.0: every network of this machine."""
    port: int = _DEFAULTS.port
    """Port to listen at; 0: any free one."""
    token: str | None = None
    """What requests have to bring; the environment variable REELSCAN_SERVE_TOKEN does the same
    without showing it to other users of this machine."""
    allow_host: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A name by which browsers reach the service, such as films.example. May be given several
    times; addresses and this machine's own name always work."""
    allow_origin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another web page, as https://host, that may use the API. May be given several times."""
    model: str | None = None
    """Model directory, weight file, hub:OWNER/NAME/FILE, demo, or open_clip:MODEL:WEIGHTS; None:
    the model that the collection was made with."""
    device: str = "auto"
    """auto, cpu or cuda."""
    upload_limit: str = "64MiB"
    """Largest picture or clip that may be dropped on the page."""
    searching: int = _DEFAULTS.searching
    """Searches at work at once."""
    waiting: int = _DEFAULTS.waiting
    """Requests that may wait for their turn; more get 503."""
    token_cache: str = "1GiB"
    """Room for what reranking has read, so that it is quick the next time."""
    quiet: bool = False
    """Do not log requests (json lines on stderr)."""


def main(arguments: list[str]) -> int:
    """Serves until it is interrupted."""
    command = parse_arguments(Command, "serve", arguments)
    check_installed()
    settings = settings_of(command)
    if milvus_place(command.collection) is not None:
        raise ValueError(
            "a collection in Milvus cannot be served yet: serve the folder that `reelscan index` "
            "wrote, or search it with `reelscan search`"
        )
    with Collection.open(Path(command.collection), read_only=True) as collection:
        serve(command, settings, collection)
    return 0


def check_installed() -> None:
    """Raise ImportError, saying what to install, unless the extra is there."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"serving needs {' and '.join(missing)}: pip install 'reelscan[serve]'")


def settings_of(command: Command) -> ServeSettings:
    """What the options say; raises ValueError."""
    return ServeSettings(
        host=command.host,
        port=command.port,
        token=command.token or os.environ.get(TOKEN_VARIABLE) or None,
        allowed_hosts=command.allow_host,
        allowed_origins=command.allow_origin,
        upload_bytes=bytes_of(command.upload_limit),
        searching=command.searching,
        waiting=command.waiting,
    )


def serve(command: Command, settings: ServeSettings, collection: Collection) -> None:
    """Load the model, listen, and answer."""
    from reelscan.retrieval.serve.app import create_app
    from reelscan.retrieval.serve.server import address_of, listen, make_server
    from reelscan.retrieval.serve.service import SearchService

    listening = listen(settings)
    model = command.model or collection.model_path()
    encoder = choose_any_encoder(model, device=best_device(command.device), on_notice=notice)
    calibration = None
    if isinstance(encoder, VideoTextEncoder):
        folder = choose_model(model, on_notice=notice)
        calibration = load_calibration(folder, fingerprint=encoder.fingerprint)
    cache = TokenCache(
        default_cache() / "tokens.sqlite", limit_bytes=max(1, bytes_of(command.token_cache))
    )
    with closing(listening), closing(cache):
        service = SearchService(collection, encoder, calibration=calibration, token_cache=cache)
        service.warm_up()
        log_requests(quiet=command.quiet)
        if settings.is_open_to_others and settings.token is None:
            notice(
                f"warning: everybody who reaches {settings.host} can search and watch these "
                f"videos; give --token, or set {TOKEN_VARIABLE}"
            )
        # From here on clients wait, and are not refused, until the server takes over.
        listening.listen()
        videos, segments = len(collection.videos()), len(collection)
        print(
            f"{command.collection}: {videos} videos, {segments} segments at {address_of(listening)}"
            "  (Ctrl-C stops)",
            flush=True,
        )
        server = make_server(create_app(service, settings=settings), settings)
        # Interrupting is how it is stopped; uvicorn has answered what was under way by then.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


def log_requests(*, quiet: bool) -> None:
    """A line of json for each request on stderr, or for failures alone."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("reelscan.serve")
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.ERROR if quiet else logging.INFO)
