"""The page that asks for the token, and where it leads."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from urllib.parse import parse_qsl, quote, urlencode

from markupsafe import Markup
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from jobs.careful import FORM_POLICY, style_too
from jobs.dashboard.pages import STATIC, environment
from jobs.dashboard.problems import BEARER, route_path


def door(scope: Scope, said: str, *, to: str | None = None, status: int = 401) -> Response:
    """The page that asks for the token.

    It brings its style along, because nothing else is told to whoever has no token; the policy names its digest.

    Args:
        scope: of what was asked for.
        said: what is wrong with the token that was given; empty where none was.
        to: where it leads; to what was asked for, where left out.
        status: of the answer.
    """
    style = _style()
    digest = "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    asked = without_token(scope) if to is None and scope["method"] == "GET" else own_address(scope, to or "")
    page = (
        environment()
        .get_template("login.html")
        .render(base=scope.get("root_path", ""), readonly=True, problem=said, next=asked, style=Markup(style))
    )
    headers = {
        "Content-Security-Policy": style_too(FORM_POLICY, digest),
        "Cache-Control": "no-store",
        **BEARER,
    }
    return HTMLResponse(page, status_code=status, headers=headers)


def without_token(scope: Scope) -> str:
    """What was asked for, less the token in it."""
    kept = [(name, value) for name, value in parse_qsl(scope["query_string"].decode("latin-1")) if name != "token"]
    path = quote(route_path(scope))
    return own_address(scope, str(scope.get("root_path", "")) + path + ("?" + urlencode(kept) if kept else ""))


def own_address(scope: Scope, address: str) -> str:
    """The address if it is one of ours; the list of runs where it leads elsewhere."""
    home = f"{scope.get('root_path', '')}/"
    # Browsers take // and /\ for another host, and drop control characters before they look.
    plain = address.isascii() and address.isprintable() and "\\" not in address and " " not in address
    if not plain or not address.startswith(home) or address.startswith("//"):
        return home
    return home if address.partition("?")[0].endswith("/login") else address


@cache
def _style() -> str:
    return (STATIC / "door.css").read_text()
