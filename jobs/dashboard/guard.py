"""Who may look and who may change: the door that every request passes before anything else sees it.

On loopback everybody on the machine may look, and only whoever has the token, or is the user who serves, may change
anything. On any other address nothing is told without the token. A browser is only believed when it says itself that
one of our own pages sent it: others could use the rights of whoever sits before it.
"""

from __future__ import annotations

import time
from urllib.parse import parse_qsl, urlsplit

import anyio
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.dashboard import audit
from jobs.dashboard.audit import Visitor
from jobs.dashboard.door import door, without_token
from jobs.dashboard.keys import Access, Keys, check_rate
from jobs.dashboard.peers import same_user
from jobs.dashboard.problems import BEARER, Refusal, problem, refusal_of, route_path, wants_page
from jobs.dashboard.rates import Allowance, peer_of

MOST_BODY = 2**20
"""Bytes of a request. A job file is a few thousand."""

BODY_WITHIN_S = 30
"""In which a request has to arrive as a whole."""

CHANGES = (20, 1.0)
"""Changes that a peer may make at once, and after how many seconds it has one more."""

LOGIN = "/login"
ASKING = ("GET", "HEAD")
_OF_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_OF_PROXIES = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


class Guard:
    """Lets through what may pass; what does comes with its ``Visitor``, in the scope's state."""

    def __init__(self, app: ASGIApp, *, access: Access, keys: Keys) -> None:
        self._app = app
        self._access = access
        self._keys = keys
        self._changes = Allowance(*CHANGES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        scope.setdefault("state", {})["visitor"] = Visitor(how="nobody", origin=_peer(scope))
        try:
            answer = await self._admit(scope)
            if answer is None:
                await self._app(scope, _bounded(receive), watched)
        except Exception as error:  # the last border: whatever it is, no trace of it goes out
            if started:
                raise
            refusal = refusal_of(error)
            if scope["method"] not in ASKING:
                audit.tell(visitor_of(scope), f"{scope['method']} {scope['path']}", "", refusal.problem.error)
            answer = self._refused(scope, refusal)
            answer.headers.update(_HANG_UP if _has_body(scope) else {})
        if answer is not None:
            await answer(scope, receive, send)

    async def _admit(self, scope: Scope) -> Response | None:
        """Let it pass, or give the answer that it has in place of that.

        Raises:
            Refusal: it may not.
        """
        headers, origin = Headers(scope=scope), _peer(scope)
        self._check_host(scope, headers)
        _check_length(headers)
        said, by_link = _credentials(scope, headers)
        if said is not None:
            self._keys.check(said, origin)
        if said is not None or self._keys.has_cookie(scope):
            scope["state"]["visitor"] = Visitor(how="token", origin=origin)
        if by_link:
            return self._keys.let_in(scope, without_token(scope))
        # Behind a proxy all the world seems to be here.
        here = self._access.loopback and not any(name in headers for name in _OF_PROXIES)
        at_door = route_path(scope) == LOGIN
        if visitor_of(scope).how == "nobody" and not here and not at_door:
            raise _unknown()
        if scope["method"] not in ASKING:
            _check_sender(scope, headers)
            if not at_door:
                await self._check_change(scope, here=here)
        return None

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        """A name that somebody else made point here is not ours: pages of theirs would count as from here."""
        name = _name(headers.get("host", ""))
        reached = (scope.get("server") or ("",))[0]  # nobody can make a number point elsewhere
        if not name or name not in (*self._access.hosts, str(reached).lower()):
            raise Refusal(400, "it does not go by that name", "start it with --allowed-host and this name")

    async def _check_change(self, scope: Scope, *, here: bool) -> None:
        """Whether whoever asks may change something.

        Raises:
            Refusal: nobody may, they may not, or not so often.
        """
        if self._access.readonly:
            raise Refusal(403, "this dashboard is read-only", "ask whoever serves it, or use the command line there")
        visitor = visitor_of(scope)
        if visitor.how == "nobody":
            client, server = scope.get("client"), scope.get("server")
            if not (here and client and server and await to_thread.run_sync(same_user, tuple(client), tuple(server))):
                raise _unknown()
            scope["state"]["visitor"] = Visitor(how="user", origin=visitor.origin)
        wait = self._changes.take(peer_of(visitor.origin), time.monotonic())
        check_rate(wait, "too many changes came from this address")

    def _refused(self, scope: Scope, refusal: Refusal) -> Response:
        status = refusal.status_code
        if wants_page(scope) and (status == 401 or (status == 429 and visitor_of(scope).how == "nobody")):
            return door(scope, "" if refusal.problem.error == _unknown().problem.error else refusal.problem.error,
                        status=status)  # fmt: skip
        if status == 400:  # whoever comes by a false name gets no page
            scope = {**scope, "headers": []}
        return problem(scope, refusal, readonly=self._access.readonly)


_HANG_UP = {"Connection": "close"}
"""Of a request that is refused, the rest would be read to its end, and it may have none."""


def visitor_of(scope: Scope) -> Visitor:
    """Who asks."""
    found = scope["state"]["visitor"]
    assert isinstance(found, Visitor)
    return found


def _credentials(scope: Scope, headers: Headers) -> tuple[str | None, bool]:
    """The token as it was given, if it was, and whether by a link that a browser was sent to."""
    kind, _, said = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return said.strip(), False
    if scope["method"] in ASKING and wants_page(scope):
        for name, value in parse_qsl(scope["query_string"].decode("latin-1")):
            if name == "token":
                return value, True
    return None, False


def _unknown() -> Refusal:
    return Refusal(
        401, "this needs the token", "send it as `Authorization: Bearer …`, or sign in at /login", headers=BEARER
    )


def _check_sender(scope: Scope, headers: Headers) -> None:
    """Only our own pages, and programs that are no browsers, ask for changes."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    host = headers.get("host", "").lower()
    # Behind a proxy that speaks TLS we are asked by http; https of the same name is ours all the same.
    own = origin is None or origin.lower() in (f"{scope['scheme']}://{host}", f"https://{host}")
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    blind = site is None and origin is None and kind in _OF_FORMS  # a form of an old browser, that says nothing
    if not own or blind or site not in (None, "same-origin", "none"):
        raise Refusal(403, "a page of another site sent this", "do it from the dashboard itself; programs send JSON")


def _check_length(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()) or len(length) > 12 or int(length) > MOST_BODY:
        raise _too_large()


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _too_large() -> Refusal:
    what, fix = f"a request has at most {MOST_BODY:,} bytes", "a job file names its inputs, it holds none"
    return Refusal(413, what, fix, headers=_HANG_UP)


def _bounded(receive: Receive) -> Receive:
    """The request's body, counted as it comes, and not waited for without end."""
    came, done, until = 0, False, time.monotonic() + BODY_WITHIN_S

    async def bounded() -> Message:
        nonlocal came, done
        if done:
            return await receive()
        message: Message | None = None
        with anyio.move_on_after(max(0.0, until - time.monotonic())):
            message = await receive()
        if message is None:
            what = f"a request has to arrive within {BODY_WITHIN_S} s"
            raise Refusal(408, what, "send it again", headers=_HANG_UP)
        came += len(message.get("body", b""))
        done = not message.get("more_body", False)
        if came > MOST_BODY:
            raise _too_large()
        return message

    return bounded


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
