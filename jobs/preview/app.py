"""The map in the browser as a web application: pages, tiles and values of a few mosaics, by id.

    /                                                        the one map, or a list of them
    /<id>/                                                   the page         /<id>/mosaic.json   the same as JSON
    /<id>/tiles/<mask|score>/<prompt>/<time>/<z>/<x>/<y>.png tiles            /<id>/tiles.json    TileJSON
    /<id>/value?lon=&lat=&time=                              what the mosaic says of a place

It reads and never writes. Ids are chosen by whoever starts it: no address names a file or a URL. Pages of other sites
can neither reach it by a name of their own (the Host header is checked) nor show or read what it answers; other people
who are logged in on the same machine can look, as they can at any port of it, which is why no token is asked for:
it would not keep them from the mosaic's files, and would make an address that QGIS forgets.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from jobs.careful import LOOPBACK, VIEW_POLICY, Careful
from jobs.preview.shown import Shown
from mapper.errors import MapperError, QuestionError
from mapper.web.webtiles import Layer

AT_ONCE = 4
"""Tiles and values that are worked out at one time; the others wait."""

_HERE = Path(__file__).parent
_DIGITS = 9
"""A number in an address has so many at most."""

T = TypeVar("T")


def app(mosaics: Mapping[str, str], *, hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """The application over these mosaics; it can be mounted in another one.

    Args:
        mosaics: id → path or URL. An id is what stands in addresses: letters, digits, hyphens.
        hosts: names it may be asked for by, without a port.

    Raises:
        MosaicError: one of them is no mosaic.
    """
    pages = Pages({name: Shown(url) for name, url in mosaics.items()})
    routes = [
        Route("/", pages.index),
        Mount("/static", StaticFiles(directory=_HERE / "static"), name="static"),
        Route("/{mosaic}/", pages.page),
        Route("/{mosaic}/mosaic.json", pages.document),
        Route("/{mosaic}/tiles.json", pages.tilejson),
        Route("/{mosaic}/tiles/{layer}/{prompt}/{time}/{z}/{x}/{y}.png", pages.tile),
        Route("/{mosaic}/value", pages.value),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(Careful, policy=VIEW_POLICY),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
        ],
        exception_handlers={MapperError: _refused, HTTPException: _no_such},
    )


class Pages:
    """The answers, each worked out in a thread."""

    def __init__(self, shown: Mapping[str, Shown]) -> None:
        self._shown = dict(shown)
        self._limiter = CapacityLimiter(AT_ONCE)
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
        )

    async def index(self, request: Request) -> Response:
        """The one map, or a list of them."""
        if len(self._shown) == 1:
            (only,) = self._shown
            return RedirectResponse(f"{request.scope.get('root_path', '')}/{only}/")
        return self._html("index.html", mosaics={name: shown.url for name, shown in self._shown.items()})

    async def page(self, request: Request) -> Response:
        """The map."""
        return self._html("map.html", **await self._work(self._of(request).document))

    async def document(self, request: Request) -> Response:
        """What the page says, as JSON."""
        return JSONResponse(await self._work(self._of(request).document))

    async def tilejson(self, request: Request) -> Response:
        """Where the tiles are, for QGIS and other maps."""
        asked = request.query_params
        shown, layer = self._of(request), _layer(asked.get("layer", "mask"))
        prompt, time = _number(asked.get("prompt", "0")), await self._time(request)
        here = str(request.url.replace(query="")).removesuffix("tiles.json")
        address = f"{here}tiles/{layer}/{prompt}/{time}/{{z}}/{{x}}/{{y}}.png"
        return JSONResponse(await self._work(lambda: shown.tilejson(address, prompt=prompt, step=time)))

    async def tile(self, request: Request) -> Response:
        """One tile; nothing is sent again that the browser has."""
        shown, layer = self._of(request), _layer(request.path_params["layer"])
        prompt, time, z, x, y = (_number(request.path_params[name]) for name in ("prompt", "time", "z", "x", "y"))
        picture = await self._work(lambda: shown.tile(layer, prompt, time, z, x, y))
        headers = {"ETag": f'"{zlib.crc32(picture):08x}"', "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(picture, media_type="image/png", headers=headers)

    async def value(self, request: Request) -> Response:
        """What the mosaic says of a place."""
        asked, shown = request.query_params, self._of(request)
        longitude, latitude = _degrees(asked.get("lon", "")), _degrees(asked.get("lat", ""))
        time = await self._time(request)
        found = await self._work(lambda: shown.value(longitude, latitude, step=time))
        return JSONResponse(found, headers={"Cache-Control": "no-cache"})

    def _of(self, request: Request) -> Shown:
        name = request.path_params["mosaic"]
        if name not in self._shown:
            raise HTTPException(404)
        return self._shown[name]

    async def _time(self, request: Request) -> int:
        """The time step asked for; the latest where none is."""
        asked, shown = request.query_params.get("time"), self._of(request)
        return await self._work(lambda: shown.latest) if asked is None else _number(asked)

    async def _work(self, work: Callable[[], T]) -> T:
        return await to_thread.run_sync(work, limiter=self._limiter)

    def _html(self, template: str, **values: Any) -> Response:
        return HTMLResponse(
            self._templates.get_template(template).render(values), headers={"Cache-Control": "no-cache"}
        )


def _layer(text: str) -> Layer:
    if text == "mask":
        return "mask"
    if text == "score":
        return "score"
    raise QuestionError("there is no such layer", fix="ask for mask or score")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise QuestionError("this is no number of a prompt, a time step or a tile", fix="give a whole number")
    return int(text)


def _degrees(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 540:
        raise QuestionError("this is no place on Earth", fix="give lon and lat in degrees")
    return value


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, MapperError)
    status = 404 if isinstance(error, QuestionError) else 503
    return JSONResponse({"error": error.what, "fix": error.fix}, status_code=status)


async def _no_such(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)
