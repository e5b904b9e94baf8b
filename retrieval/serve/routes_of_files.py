"""The page, the videos' files with ranges, pictures of frames, and signing in."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from reelscan.retrieval.serve.api_types import SessionRequest
from reelscan.retrieval.serve.desk import Desk
from reelscan.retrieval.serve.guards import COOKIE, Tokens
from reelscan.retrieval.serve.problems import problem, request_id_of
from reelscan.retrieval.serve.thumbnails import HEIGHTS
from reelscan.retrieval.serve.video_access import media_type

_AFTER_A_WRONG_TOKEN_SECONDS = 0.5
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {}}, "description": "The frame"}
}


def file_routes(desk: Desk, *, page: Path, tokens: Tokens | None) -> APIRouter:
    """The routes, answered by one desk."""
    router = APIRouter()
    _page_routes(router, page)
    _picture_routes(router, desk)
    _session_route(router, tokens)
    return router


def _page_routes(router: APIRouter, page: Path) -> None:
    @router.get("/", include_in_schema=False)
    @router.get("/watch", include_in_schema=False)
    async def search_page() -> FileResponse:
        return FileResponse(page / "index.html", headers={"cache-control": "no-cache"})


def _picture_routes(router: APIRouter, desk: Desk) -> None:
    service = desk.service

    @router.head("/media/{video:path}", include_in_schema=False)
    @router.get(
        "/media/{video:path}",
        summary="A video's file; ranges are answered",
        tags=["videos"],
        response_class=FileResponse,
    )
    async def media(request: Request, video: str) -> FileResponse:
        path = await desk.quick(request, partial(service.file, video))
        return FileResponse(
            path, media_type=media_type(path), headers={"cache-control": "private, no-cache"}
        )

    @router.get("/frame", summary="A frame as JPEG", tags=["videos"], responses=_JPEG)
    async def frame(
        request: Request,
        video: Annotated[str, Query(max_length=4096, examples=["films/harbour.mp4"])],
        seconds: Annotated[float, Query(ge=0, le=1e7, allow_inf_nan=False)] = 0.0,
        height: Annotated[int, Query(description=f"One of {HEIGHTS}")] = 180,
    ) -> Response:
        if height not in HEIGHTS:
            raise ValueError(f"height is {height}; choose one of {HEIGHTS}")
        work = partial(service.frame, video, seconds=seconds, height=height)
        picture = await desk.slow(request, work)
        return Response(
            picture,
            media_type="image/jpeg",
            headers={"cache-control": "private, max-age=3600"},
        )


def _session_route(router: APIRouter, tokens: Tokens | None) -> None:
    @router.post("/session", summary="Sign a browser in", tags=["watching"], status_code=204)
    async def session(request: Request, given: SessionRequest) -> Response:
        if tokens is None:
            return Response(status_code=204)
        if not tokens.fits(given.token):
            await asyncio.sleep(_AFTER_A_WRONG_TOKEN_SECONDS)
            return problem("this is not the token", status=401, request_id=request_id_of(request))
        answer = Response(status_code=204)
        answer.set_cookie(
            COOKIE,
            tokens.cookie,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer
