"""The API: every page as JSON, and what can be done to runs and monitors. ``/api/v1/openapi.json`` describes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from zlib import crc32

from fastapi import APIRouter, Body, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from jobs.dashboard.answers import Answers, as_json, checked_key
from jobs.dashboard.control import Submitted
from jobs.dashboard.monitor_views import Asked, MonitorLine, MonitorPage
from jobs.dashboard.problems import Problem
from jobs.dashboard.stream import Streams
from jobs.dashboard.views import (
    Comparison,
    FailureGroup,
    MapInfo,
    RunLine,
    RunPage,
    TileDetail,
)

PREFIX = "/api/v1"
MOST_NUMBER = 2**31 - 1
"""Of a tile, a prompt, a step."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Asked for by a name that is not allowed."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    404: {"model": Problem, "description": "There is no such thing."},
    413: {"model": Problem, "description": "The request is too large."},
    422: {"model": Problem, "description": "What is asked makes no sense; the sentence says why."},
    429: {"model": Problem, "description": "Too often; Retry-After says when to come again."},
    500: {"model": Problem, "description": "A defect of the server, which its log tells of."},
    503: {"model": Problem, "description": "A store that it needs does not answer."},
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "Read-only, or sent by a page of another site."},
    409: {"model": Problem, "description": "Not as things stand with it."},
}

_PNG = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
_EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}

Columns = dict[str, list[float | str | None]]
Key = Annotated[str, Path(description="Of a run, as `GET runs` gives it (`id`).")]
Monitor = Annotated[str, Path(description="Name of a monitor.")]
Count = Annotated[int, Path(ge=0, le=MOST_NUMBER)]
Zoom = Annotated[int, Path(ge=0, le=30)]
Name = Annotated[str, Query(max_length=300, description="Key of a run.")]


class Submission(BaseModel):
    """A job to be run."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    job: str
    """Text of a job file; paths in it are absolute."""

    gpus: int | None = Field(default=None, ge=1, le=100_000)
    """Actors with a GPU each; all GPUs of the cluster where left out."""

    local: bool = False
    """In one process, without Ray."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How a run stands."""

    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPart:
    """Some of what a run's process has said."""

    text: str
    """At most 64 KiB."""

    end: int
    """Where it ends, in bytes: ask for what comes after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The tile at a place."""

    tile: int | None
    """None where the run has none there."""


def api(answers: Answers, streams: Streams) -> APIRouter:
    """All routes of the API."""
    routes = APIRouter(prefix=PREFIX, responses=_PROBLEMS)
    _questions(routes, answers)
    _one_tile(routes, answers)
    _monitors(routes, answers)
    _as_it_moves(routes, answers, streams)
    _changes(routes, answers)
    return routes


def _questions(routes: APIRouter, answers: Answers) -> None:
    source = answers.source

    @routes.get("/runs", response_model=tuple[RunLine, ...], summary="All runs")
    async def runs() -> Response:
        return _json(await answers.work(lambda: as_json(tuple[RunLine, ...], source.runs())))

    @routes.get("/runs/{key}", response_model=RunPage, summary="All panels of a run")
    async def run(key: Key) -> Response:
        return _json(await answers.work(lambda: as_json(RunPage, source.page(checked_key(key)))))

    @routes.get("/runs/{key}/failures", response_model=tuple[FailureGroup, ...], summary="Tiles given up, by cause")
    async def failures(key: Key) -> Response:
        found = await answers.work(lambda: source.failures(checked_key(key)))
        return _json(as_json(tuple[FailureGroup, ...], found))

    @routes.get("/runs/{key}/history", response_model=Columns, summary="How it went, in columns")
    async def history(key: Key) -> Response:
        return _json(await answers.work(lambda: as_json(Columns, dict(source.history(checked_key(key))))))

    @routes.get("/compare", response_model=Comparison, summary="Two runs side by side")
    async def compare(a: Name, b: Name) -> Response:
        return _json(as_json(Comparison, await answers.work(lambda: source.compare(checked_key(a), checked_key(b)))))


def _one_tile(routes: APIRouter, answers: Answers) -> None:
    source = answers.source

    @routes.get("/runs/{key}/tiles/{n}", response_model=TileDetail, summary="All that is known of a tile")
    async def tile(key: Key, n: Count) -> Response:
        return _json(as_json(TileDetail, await answers.work(lambda: source.tile(checked_key(key), n))))

    @routes.get("/runs/{key}/tile", response_model=Found, summary="The tile at a place")
    async def tile_at(
        key: Key,
        lon: Annotated[float, Query(ge=-180, le=180, allow_inf_nan=False, description="Degrees.")],
        lat: Annotated[float, Query(ge=-90, le=90, allow_inf_nan=False, description="Degrees.")],
        step: Annotated[int, Query(ge=0, le=MOST_NUMBER, description="Position of the time step.")] = 0,
    ) -> Response:
        found = await answers.work(lambda: source.tile_at(checked_key(key), lon, lat, step))
        return _json(as_json(Found, Found(tile=found)))

    @routes.get("/runs/{key}/map", response_model=MapInfo, summary="What the map shows")
    async def map_info(key: Key) -> Response:
        return _json(as_json(MapInfo, await answers.work(lambda: source.map(checked_key(key)))))

    @routes.get(
        "/runs/{key}/map/{layer}/{prompt}/{step}/{z}/{x}/{y}.png",
        response_class=Response,
        responses={200: {"content": _PNG}, 304: {"description": "As the browser has it."}},
        summary="A piece of the map, 256 × 256 px, web mercator",
    )
    async def picture(
        request: Request, key: Key, layer: str, prompt: Count, step: Count, z: Zoom, x: Count, y: Count
    ) -> Response:
        drawn = await answers.draw(lambda: source.picture(checked_key(key), layer, prompt, step, z, x, y))
        return _png(request, drawn)


def _monitors(routes: APIRouter, answers: Answers) -> None:
    source, control = answers.source, answers.control

    @routes.get("/monitors", response_model=tuple[MonitorLine, ...], summary="All monitors")
    async def monitors() -> Response:
        return _json(as_json(tuple[MonitorLine, ...], await answers.work(source.monitors)))

    @routes.get("/monitors/{name}", response_model=MonitorPage, summary="All panels of a monitor")
    async def monitor(name: Monitor) -> Response:
        return _json(as_json(MonitorPage, await answers.work(lambda: source.monitor(checked_key(name, "monitor")))))

    @routes.get(
        "/monitors/{name}/alerts/{alert}/{side}.png",
        response_class=Response,
        responses={200: {"content": _PNG}, 304: {"description": "As the browser has it."}},
        summary="What an alert is about, before or after the change",
    )
    async def picture(request: Request, name: Monitor, alert: str, side: Literal["before", "after"]) -> Response:
        return _png(
            request,
            await answers.draw(
                lambda: source.alert_picture(checked_key(name, "monitor"), checked_key(alert, "alert"), side)
            ),
        )

    async def changed(request: Request, act: str, name: str, do: Callable[[str], Asked]) -> Response:
        done = await answers.change(request, act, checked_key(name, "monitor"), do, lambda: source.monitor(name))
        return _json(as_json(Asked, done))

    @routes.post("/monitors/{name}/pause", response_model=Asked, responses=_REFUSED, summary="Look no more")
    async def pause(request: Request, name: Monitor) -> Response:
        return await changed(request, "pause", name, lambda by: control.pause_monitor(name, by=by))

    @routes.post("/monitors/{name}/resume", response_model=Asked, responses=_REFUSED, summary="Look again")
    async def resume(request: Request, name: Monitor) -> Response:
        return await changed(request, "resume", name, lambda by: control.resume_monitor(name, by=by))

    @routes.post(
        "/monitors/{name}/run", response_model=Asked, responses=_REFUSED, summary="Look now, though none is due"
    )
    async def run_now(request: Request, name: Monitor) -> Response:
        return await changed(request, "look now", name, lambda by: control.run_monitor(name, by=by))


def _as_it_moves(routes: APIRouter, answers: Answers, streams: Streams) -> None:
    @routes.get(
        "/runs/{key}/events",
        response_class=Response,
        responses={
            200: {"content": _EVENTS, "description": "Events: page, happened, problem, over."},
            204: {"description": "The run is over, and all of it was told."},
        },
        summary="The run as it moves: server-sent events",
    )
    async def events(request: Request, key: Key) -> Response:
        return await streams.answer(request, checked_key(key))

    @routes.get("/runs/{key}/log", response_model=LogPart, summary="What its process has said")
    async def log(key: Key, after: Annotated[int, Query(ge=0, le=2**53, description="In bytes.")] = 0) -> Response:
        text, end = await answers.work(lambda: answers.control.log(checked_key(key), after=after))
        return _json(as_json(LogPart, LogPart(text=text, end=end)))


def _changes(routes: APIRouter, answers: Answers) -> None:
    control = answers.control

    @routes.post(
        "/runs",
        response_model=Submitted,
        responses=_REFUSED | {201: {"model": Submitted, "description": "It was taken on."}},
        summary="Submit a job; the same job is the same run, however often it comes",
    )
    async def submit(request: Request, asked: Annotated[Submission, Body()]) -> Response:
        done = await answers.change(
            request, "submit", "", lambda by: control.submit(asked.job, gpus=asked.gpus, local=asked.local, by=by)
        )
        return _json(as_json(Submitted, done), status=201 if done.created else 200)

    @routes.post("/runs/{key}/cancel", response_model=State, responses=_REFUSED, summary="End it after tiles in hand")
    async def cancel(request: Request, key: Key) -> Response:
        checked_key(key)
        state = await answers.change(request, "cancel", key, lambda by: control.cancel(key, by=by))
        return _json(as_json(State, State(state=state)))

    @routes.post("/runs/{key}/retry", response_model=Submitted, responses=_REFUSED, summary="Take what was given up")
    async def retry(request: Request, key: Key) -> Response:
        checked_key(key)
        return _json(
            as_json(Submitted, await answers.change(request, "retry", key, lambda by: control.retry(key, by=by)))
        )


def _json(content: bytes, *, status: int = 200) -> Response:
    return Response(content, status_code=status, media_type="application/json", headers={"Cache-Control": "no-cache"})


def _png(request: Request, drawn: bytes) -> Response:
    """A picture, unless the browser has it."""
    headers = {"ETag": f'"{crc32(drawn):08x}"', "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(drawn, media_type="image/png", headers=headers)
