"""The HTTP application: a service behind its guards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from reelscan import __version__
from reelscan.retrieval.serve.admission import OverloadedError
from reelscan.retrieval.serve.api_types import ProblemAnswer
from reelscan.retrieval.serve.desk import Desk
from reelscan.retrieval.serve.guards import BodyLimit, PageGuard, TokenGuard, Tokens
from reelscan.retrieval.serve.problems import problem, request_id_of
from reelscan.retrieval.serve.request_log import RequestLog
from reelscan.retrieval.serve.routes import api_routes
from reelscan.retrieval.serve.routes_of_files import file_routes
from reelscan.retrieval.serve.service import SearchService
from reelscan.retrieval.serve.settings import ServeSettings
from reelscan.retrieval.serve.video_access import NoSuchVideoError

PAGE = Path(__file__).parent / "page"
_ERRORS: dict[int | str, dict[str, object]] = {
    400: {"model": ProblemAnswer, "description": "The request makes no sense"},
    401: {"model": ProblemAnswer, "description": "No token, or a wrong one"},
    404: {"model": ProblemAnswer, "description": "No such video"},
    413: {"model": ProblemAnswer, "description": "Too large"},
    422: {"model": ProblemAnswer, "description": "A field is missing, unknown or out of range"},
    429: {"model": ProblemAnswer, "description": "Too many requests of yours at once"},
    503: {"model": ProblemAnswer, "description": "Too many requests at once"},
}


def create_app(service: SearchService, *, settings: ServeSettings) -> FastAPI:
    """The application; it closes the service when it ends."""
    desk = Desk(service, settings=settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(
        title="reelscan",
        version=__version__,
        description="Finds any video, and any moment in it, from a sentence.",
        lifespan=lifespan,
        # FastAPI's pages of documentation load scripts from other servers.
        docs_url=None,
        redoc_url=None,
        responses=_ERRORS,
    )
    tokens = None if settings.token is None else Tokens(settings.token)
    app.include_router(api_routes(desk))
    app.include_router(file_routes(desk, page=PAGE, tokens=tokens))
    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    _answer_errors(app)
    # The last one added sees a request first.
    app.add_middleware(BodyLimit, settings=settings)
    if tokens is not None:
        app.add_middleware(TokenGuard, tokens=tokens)
    if settings.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.allowed_origins),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["authorization", "content-type", "x-request-id"],
            expose_headers=["x-request-id"],
        )
    app.add_middleware(PageGuard, settings=settings)
    app.add_middleware(RequestLog, metrics=service.metrics)
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def of_fields(request: Request, error: RequestValidationError) -> Response:
        wrong = [
            f"{'.'.join(str(one) for one in place['loc'][1:]) or 'request'}: {place['msg']}"
            for place in error.errors()
        ]
        return problem("; ".join(wrong), status=422, request_id=request_id_of(request))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> Response:
        return problem(
            str(error.detail),
            status=error.status_code,
            request_id=request_id_of(request),
            headers=dict(error.headers or {}),
        )

    @app.exception_handler(NoSuchVideoError)
    async def of_videos(request: Request, error: NoSuchVideoError) -> Response:
        return problem(str(error), status=404, request_id=request_id_of(request))

    @app.exception_handler(ValueError)
    async def of_values(request: Request, error: ValueError) -> Response:
        return problem(str(error), status=400, request_id=request_id_of(request))

    @app.exception_handler(OverloadedError)
    async def of_load(request: Request, error: OverloadedError) -> Response:
        return problem(
            str(error),
            status=error.status,
            request_id=request_id_of(request),
            headers={"retry-after": "1"},
        )
