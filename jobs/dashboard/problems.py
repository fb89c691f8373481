"""What a refusal looks like: one JSON shape for programs, a page for people. Never a trace of the code."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Scope

from jobs.dashboard.pages import environment
from mapper.errors import BusyError, MapperError, MosaicError, QuestionError, SpecError, told

LOGGER = logging.getLogger("resmap.serve")

BEARER = {"WWW-Authenticate": 'Bearer realm="resmap"'}
"""What an answer says with 401."""

_STATUS: tuple[tuple[type[MapperError], int], ...] = (
    (QuestionError, 404),
    (BusyError, 409),
    (MosaicError, 503),  # a file of a run is damaged: nothing that whoever asks could ask otherwise
    (SpecError, 422),
)
_SENTENCES = {
    404: ("there is nothing at this address", "begin at the list of runs"),
    405: ("this address does not take that method", "the API's document says which it takes"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why something was not done."""

    error: str
    """What happened, in a sentence."""

    fix: str
    """What to do about it; empty where nobody can."""


class Refusal(HTTPException):
    """An answer that is no."""

    def __init__(self, status: int, error: str, fix: str = "", *, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, error, headers)
        self.problem = Problem(error=error, fix=fix)


def route_path(scope: Scope) -> str:
    """The address below whatever the application is mounted under."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] or "/" if root and path.startswith(root + "/") else path


def wants_page(scope: Scope) -> bool:
    """Whether a person asks: a browser that goes to an address, not a program and not the API."""
    accept = Headers(scope=scope).get("accept", "")
    return "text/html" in accept and not route_path(scope).startswith("/api/")


def problem(scope: Scope, refusal: Refusal, *, readonly: bool = True) -> Response:
    """The refusal, as whoever asks can read it."""
    status, headers = refusal.status_code, {"Cache-Control": "no-store", **(refusal.headers or {})}
    said = refusal.problem
    if not wants_page(scope):
        return JSONResponse({"error": said.error, "fix": said.fix}, status_code=status, headers=headers)
    values = {"base": scope.get("root_path", ""), "readonly": readonly, "view": said}
    page = environment().get_template("problem.html").render(values, what=said.error, fix=said.fix, status=status)
    return HTMLResponse(page, status_code=status, headers=headers)


def refusal_of(error: Exception) -> Refusal:
    """Any error as a refusal; one that nobody foresaw is logged, and its words stay here."""
    match error:
        case Refusal():
            return error
        case HTTPException(status_code=status):
            what, fix = _SENTENCES.get(status, (str(error.detail), ""))
            return Refusal(status, what, fix, headers=dict(error.headers or {}))
        case RequestValidationError():
            return Refusal(422, _invalid(error), "the API's document says what it takes")
        case MapperError():
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 503)
            return Refusal(status, told(error.what, 2000), told(error.fix, 2000))
    LOGGER.error("an answer failed", exc_info=error)
    return Refusal(500, "something went wrong here, and it is not what you asked", "the server's own log says what")


async def answer(request: Request, error: Exception) -> Response:
    """For the application: what it says to an error."""
    return problem(request.scope, refusal_of(error))


def _invalid(error: RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    return f"{told(where, 100)}: {told(str(first['msg']), 300)}"
