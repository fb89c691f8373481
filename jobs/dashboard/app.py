"""The dashboard as a web application: pages for people, the same as JSON, and what can be done.

    /  /compare  /login  /runs/{key}  …/map  …/failures  …/tiles/{n}  …/log  …/report.html    pages of runs
    /monitors  /monitors/{name}                                                               pages of monitors
    /api/v1/…                                                                                 JSON
    /metrics  /healthz                                                                        for machines

A page asked for as ``application/json`` answers as its address in the API does, which its Link header names.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from jobs.careful import FORM_POLICY, Careful
from jobs.dashboard import audit, problems, report
from jobs.dashboard.answers import Answers, Source, as_json, checked_key
from jobs.dashboard.api import MOST_NUMBER, PREFIX, api
from jobs.dashboard.control import Control
from jobs.dashboard.door import door, own_address
from jobs.dashboard.guard import LOGIN, Guard, visitor_of
from jobs.dashboard.keys import Access, Keys
from jobs.dashboard.monitor_views import Asked, MonitorLine, MonitorPage
from jobs.dashboard.pages import STATIC, environment
from jobs.dashboard.problems import Refusal, wants_page
from jobs.dashboard.prometheus import Exporter
from jobs.dashboard.stream import Streams
from jobs.dashboard.views import Comparison, FailureGroup, MapInfo, RunLine, RunPage, TileDetail
from mapper.errors import MapperError, QuestionError

DESCRIPTION = (
    "Runs of resmap: how they stand, where they are held up, what failed; submit, cancel and retry them. "
    "Monitors: what they found, what changed, whom they told; pause, resume and hurry them."
)


def app(queries: Source, control: Control, *, access: Access, base: str = "") -> FastAPI:
    """The application; it can be mounted in another one.

    Args:
        queries, control: threads ask them.
        access: who may do what.
        base: the path that it is known under where something before it takes that off; no slash at its end.

    Returns:
        Its ``state.streams.stop()`` ends what would go on: whoever stops the server calls it.
    """
    answers, keys = Answers(queries, control), Keys(access.token)
    streams = Streams(answers)
    pages, signs = Pages(answers, readonly=access.readonly), SignIn(keys)
    made = FastAPI(
        title="resmap",
        description=DESCRIPTION,
        version=version("resmap"),
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        root_path=base,
        middleware=[
            Middleware(Careful, policy=FORM_POLICY),
            Middleware(Guard, access=access, keys=keys),
        ],
        exception_handlers=dict.fromkeys((MapperError, HTTPException, RequestValidationError), problems.answer),
    )
    made.include_router(api(answers, streams))
    made.router.routes += [*pages.routes(), *signs.routes(), *_for_machines(answers)]
    made.state.streams = streams
    return made


class Pages:
    """What people see. All of it is there without JavaScript."""

    def __init__(self, answers: Answers, *, readonly: bool) -> None:
        self._answers = answers
        self._source = answers.source
        self._readonly = readonly

    def routes(self) -> list[BaseRoute]:
        """Their addresses."""
        run = "/runs/{key}"
        return [
            Route("/", self.runs),
            Route(run, self.run),
            Route(f"{run}/map", self.map),
            Route(f"{run}/failures", self.failures),
            Route(f"{run}/tiles/{{n:int}}", self.tile),
            Route(f"{run}/log", self.log),
            Route(f"{run}/report.html", self.report),
            Route(f"{run}/retry", self.retry, methods=["POST"]),
            Route(f"{run}/cancel", self.cancel, methods=["POST"]),
            Route("/compare", self.compare),
            Route("/monitors", self.monitors),
            Route("/monitors/{name}", self.monitor),
            Route("/monitors/{name}/pause", self.pause, methods=["POST"]),
            Route("/monitors/{name}/resume", self.resume, methods=["POST"]),
            Route("/monitors/{name}/run", self.run_now, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC), name="static"),
        ]

    async def runs(self, request: Request) -> Response:
        """All runs."""
        return await self._page(request, "runs.html", tuple[RunLine, ...], self._source.runs, "/runs")

    async def run(self, request: Request) -> Response:
        """All panels of one."""
        key = _key(request)
        return await self._page(request, "run.html", RunPage, lambda: self._source.page(key), f"/runs/{quote(key)}")

    async def map(self, request: Request) -> Response:
        """Its map."""
        key = _key(request)
        address = f"/runs/{quote(key)}/map"
        return await self._page(request, "map.html", MapInfo, lambda: self._source.map(key), address, self._of(key))

    async def failures(self, request: Request) -> Response:
        """What was given up, by cause."""
        key = _key(request)
        kind, address = tuple[FailureGroup, ...], f"/runs/{quote(key)}/failures"
        return await self._page(
            request, "failures.html", kind, lambda: self._source.failures(key), address, self._of(key)
        )

    async def tile(self, request: Request) -> Response:
        """One tile."""
        key, n = _key(request), request.path_params["n"]
        if n > MOST_NUMBER:
            raise QuestionError("this run has no such tile", fix="its map has all it has")
        address = f"/runs/{quote(key)}/tiles/{n}"
        return await self._page(
            request, "tile.html", TileDetail, lambda: self._source.tile(key, n), address, self._of(key)
        )

    async def log(self, request: Request) -> Response:
        """The last of what its process has said."""
        key = _key(request)
        said = await self._answers.log_tail(key)
        if wants_json(request):
            return _json(as_json(str, said))
        return await self._page(request, "log.html", str, lambda: said, f"/runs/{quote(key)}/log", self._of(key))

    async def report(self, request: Request) -> Response:
        """All of it as one file for keeping. Nothing in it runs, wherever it is opened."""
        key = _key(request)
        page = await self._answers.work(lambda: report.html(self._source, key))
        headers = {"Content-Security-Policy": f"{report.POLICY}; frame-ancestors 'none'; sandbox"}
        return HTMLResponse(page, headers=headers | _links(request, f"/runs/{quote(key)}"))

    async def compare(self, request: Request) -> Response:
        """Two runs side by side; without both, which there are."""
        asked = {side: request.query_params.get(side, "") for side in ("a", "b")}
        both = all(asked.values())
        if wants_json(request) and not both:
            raise Refusal(422, "two runs are compared, and two were not named", "add ?a= and &b= with their keys")
        keys = [checked_key(key) for key in asked.values() if key]
        return await self._page(
            request,
            "compare.html",
            Comparison | None,
            lambda: self._source.compare(*keys) if both else None,
            f"/compare?{urlencode(asked)}",
            lambda: {"runs": self._source.runs(), "asked": asked},
        )

    async def monitors(self, request: Request) -> Response:
        """What looks for new imagery on a schedule."""
        kind = tuple[MonitorLine, ...]
        return await self._page(
            request, "monitors.html", kind, self._source.monitors, "/monitors", lambda: {"now": datetime.now(UTC)}
        )

    async def monitor(self, request: Request) -> Response:
        """All panels of one monitor."""
        name = _name(request)
        address = f"/monitors/{quote(name)}"
        return await self._page(request, "monitor.html", MonitorPage, lambda: self._source.monitor(name), address)

    async def retry(self, request: Request) -> Response:
        """The button of that name."""
        key = _key(request)
        await self._answers.change(request, "retry", key, lambda by: self._answers.control.retry(key, by=by))
        return _back(request, key)

    async def cancel(self, request: Request) -> Response:
        """The button of that name."""
        key = _key(request)
        await self._answers.change(request, "cancel", key, lambda by: self._answers.control.cancel(key, by=by))
        return _back(request, key)

    async def pause(self, request: Request) -> Response:
        """The button of that name, of a monitor."""
        name = _name(request)
        return await self._steer(request, "pause", lambda by: self._answers.control.pause_monitor(name, by=by))

    async def resume(self, request: Request) -> Response:
        """The button of that name."""
        name = _name(request)
        return await self._steer(request, "resume", lambda by: self._answers.control.resume_monitor(name, by=by))

    async def run_now(self, request: Request) -> Response:
        """The button that says Look now."""
        name = _name(request)
        return await self._steer(request, "look now", lambda by: self._answers.control.run_monitor(name, by=by))

    async def _steer(self, request: Request, act: str, do: Callable[[str], Asked]) -> Response:
        name = _name(request)
        await self._answers.change(request, act, name, do, lambda: self._source.monitor(name))
        return RedirectResponse(f"{request.scope.get('root_path', '')}/monitors/{quote(name)}", status_code=303)

    def _of(self, key: str) -> Callable[[], dict[str, Any]]:
        return lambda: {"key": key, "line": self._source.page(key).line}

    async def _page(
        self,
        request: Request,
        template: str,
        kind: Any,
        ask: Callable[[], Any],
        address: str,
        more: Callable[[], dict[str, Any]] = dict,
    ) -> Response:
        """A page of one value, or the value itself as the API has it at ``address``."""
        if wants_json(request):
            return _json(await self._answers.work(lambda: as_json(kind, ask())))

        def drawn() -> str:
            base = str(request.scope.get("root_path", ""))
            return (
                environment()
                .get_template(template)
                .render(
                    view=ask(),
                    query=request.query_params,
                    readonly=self._readonly,
                    base=base,
                    api=base + PREFIX + address,
                    **more(),
                )
            )

        return HTMLResponse(await self._answers.work(drawn), headers=_links(request, address))


class SignIn:
    """The page that takes the token."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def routes(self) -> list[BaseRoute]:
        """Its one address."""
        return [Route(LOGIN, self.ask), Route(LOGIN, self.take, methods=["POST"])]

    async def ask(self, request: Request) -> Response:
        """The form."""
        return door(request.scope, "", to=request.query_params.get("next", ""))

    async def take(self, request: Request) -> Response:
        """The form, filled in."""
        asked = dict(parse_qsl((await request.body()).decode("utf-8", "replace")))
        to, visitor = own_address(request.scope, asked.get("next", "")), visitor_of(request.scope)
        try:
            self._keys.check(asked.get("token", ""), visitor.origin)
        except Refusal as refusal:
            audit.tell(visitor, "sign in", "", f"refused: {refusal.problem.error}")
            if not wants_page(request.scope):
                raise
            return door(request.scope, refusal.problem.error, to=to, status=refusal.status_code)
        audit.tell(visitor, "sign in", "", "done")
        return self._keys.let_in(request.scope, to)


def _for_machines(answers: Answers) -> list[BaseRoute]:
    exporter = Exporter(answers.source)

    async def metrics(request: Request) -> Response:
        content, kind = await answers.work(lambda: exporter.answer(request.headers.get("accept", "")))
        return Response(content, headers={"Content-Type": kind, "Cache-Control": "no-store"})

    async def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})

    return [Route("/metrics", metrics), Route("/healthz", healthz)]


def wants_json(request: Request) -> bool:
    """Whether a page is asked for as its value."""
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


def _key(request: Request) -> str:
    return checked_key(request.path_params["key"])


def _name(request: Request) -> str:
    return checked_key(request.path_params["name"], "monitor")


def _links(request: Request, address: str) -> dict[str, str]:
    root = request.scope.get("root_path", "")
    link = f'<{root}{PREFIX}{address}>; rel="alternate"; type="application/json"'
    return {"Link": link, "Cache-Control": "no-cache", "Vary": "Accept"}


def _json(content: bytes) -> Response:
    headers = {"Cache-Control": "no-cache", "Vary": "Accept"}
    return Response(content, media_type="application/json", headers=headers)


def _back(request: Request, key: str) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/runs/{quote(key)}", status_code=303)
