"""The API: search, embed, videos, uploads, and what watches over the service."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import PlainTextResponse, Response

from reelscan import __version__
from reelscan.retrieval.serve.api_types import (
    CollectionAnswer,
    EmbedAnswer,
    EmbedRequest,
    HealthAnswer,
    SearchAnswer,
    SearchRequest,
    UploadAnswer,
    VideoAnswer,
    VideosAnswer,
)
from reelscan.retrieval.serve.desk import Desk
from reelscan.retrieval.serve.problems import problem, request_id_of

_BINARY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def api_routes(desk: Desk) -> APIRouter:
    """The routes, answered by one desk."""
    router = APIRouter()
    _search_routes(router, desk)
    _video_routes(router, desk)
    _watching_routes(router, desk)
    return router


def _search_routes(router: APIRouter, desk: Desk) -> None:
    service = desk.service

    async def search(request: Request, wanted: SearchRequest) -> SearchAnswer:
        run = desk.slow if wanted.rerank else desk.quick
        return await run(request, partial(service.search, wanted))

    @router.post("/search", summary="Find moments or videos", tags=["search"])
    async def search_with_parts(request: Request, wanted: SearchRequest) -> SearchAnswer:
        return await search(request, wanted)

    @router.get("/search", summary="Find moments of a sentence", tags=["search"])
    async def search_text(
        request: Request,
        text: Annotated[str, Query(min_length=1, max_length=2000, examples=["a red circle"])],
        top: Annotated[int, Query(ge=1, le=200)] = 24,
        where: Annotated[str | None, Query(max_length=2000)] = None,
    ) -> SearchAnswer:
        return await search(request, SearchRequest(text=text, top=top, where=where))

    @router.post("/embed", summary="Vectors of sentences and examples", tags=["search"])
    async def embed(request: Request, wanted: EmbedRequest) -> EmbedAnswer:
        return await desk.quick(request, partial(service.embed, wanted))

    @router.post(
        "/uploads",
        summary="Embed a picture or clip to search by; the file is not kept",
        tags=["search"],
        openapi_extra=_BINARY,
    )
    async def upload(request: Request) -> UploadAnswer:
        content = await request.body()
        if not content:
            raise ValueError("the upload is empty: send the file's bytes as the body")
        return await desk.slow(request, partial(service.upload, content))


def _video_routes(router: APIRouter, desk: Desk) -> None:
    service = desk.service

    @router.get("/collection", summary="What is searched", tags=["videos"])
    async def collection(request: Request) -> CollectionAnswer:
        return await desk.quick(request, service.about)

    @router.get("/videos", summary="Videos by name", tags=["videos"])
    async def videos(
        request: Request,
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        contains: Annotated[str, Query(max_length=200)] = "",
    ) -> VideosAnswer:
        work = partial(service.videos, offset=offset, limit=limit, contains=contains)
        return await desk.quick(request, work)

    @router.get("/videos/{video:path}", summary="One video with its segments", tags=["videos"])
    async def video(
        request: Request, video: Annotated[str, Path(examples=["films/harbour.mp4"])]
    ) -> VideoAnswer:
        return await desk.quick(request, partial(service.video, video))


def _watching_routes(router: APIRouter, desk: Desk) -> None:
    @router.get("/health", summary="Whether the service runs", tags=["watching"])
    async def health() -> HealthAnswer:
        return HealthAnswer(status="ok", version=__version__)

    @router.get(
        "/ready",
        summary="Whether it can answer searches",
        tags=["watching"],
        response_model=HealthAnswer,
    )
    async def ready(request: Request) -> Response | HealthAnswer:
        if await desk.quick(request, desk.service.is_ready):
            return HealthAnswer(status="ready", version=__version__)
        return problem(
            "the collection holds no segments yet, or the service is being shut down",
            status=503,
            request_id=request_id_of(request),
        )

    @router.get(
        "/metrics",
        summary="Counters for Prometheus",
        tags=["watching"],
        response_class=PlainTextResponse,
    )
    async def metrics(request: Request) -> PlainTextResponse:
        text = await desk.quick(request, desk.metrics_text)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")
