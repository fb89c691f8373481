"""The token, and what a browser keeps in its place."""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from jobs.careful import LOOPBACK
from jobs.dashboard.problems import BEARER, Refusal
from jobs.dashboard.rates import MOST_PEERS, Allowance, peer_of

GUESSES = (8, 10.0)
"""Wrong tokens that a peer may send at once, and after how many seconds one more.

While it has none left, even the right one does not open.
"""

COOKIE_S = 14 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may do what."""

    token: str = ""
    """Whoever has it may do all; empty where there is none."""

    loopback: bool = True
    """Whether only this machine reaches it: looking is open then, and the user who serves may change things."""

    readonly: bool = False
    hosts: tuple[str, ...] = LOOPBACK
    """Names that it may be asked for by, in small letters and without a port."""


class Keys:
    """Tells who has the token. Wrong ones are counted, for each peer."""

    def __init__(self, token: str) -> None:
        self._token = token
        # From the cookie nobody learns the token, which programs send and people keep.
        self._kept = hmac.new(token.encode(), b"resmap: what a browser keeps", hashlib.sha256).hexdigest()
        self._guesses = Allowance(*GUESSES)
        self._last_wrong: OrderedDict[str, bytes] = OrderedDict()

    def check(self, said: str, origin: str) -> None:
        """Whether this is the token; it takes as long whatever is said.

        Raises:
            Refusal: it is wrong, or too many were from there.
        """
        now, peer = time.monotonic(), peer_of(origin)
        check_rate(self._guesses.wait_s(peer, now), "too many wrong tokens came from this address")
        if self._token and same(said, self._token):
            return
        wrong = _digest(said)
        if self._last_wrong.get(peer) != wrong:  # a client that says the same again does not guess
            self._guesses.take(peer, now)
            self._last_wrong[peer] = wrong
            if len(self._last_wrong) > MOST_PEERS:
                self._last_wrong.popitem(last=False)
        where = "the file with it is named where the server was started"
        raise Refusal(401, "this is not the token", where, headers=BEARER)

    def has_cookie(self, scope: Scope) -> bool:
        """Whether a browser has been let in before. A wrong cookie is an old one and no guess: it is a digest."""
        kept = cookie_parser(Headers(scope=scope).get("cookie", "")).get(_cookie(scope), "")
        return bool(self._token) and same(kept, self._kept)

    def let_in(self, scope: Scope, to: str) -> Response:
        """Send a browser on, with the cookie that opens from now on."""
        answer = RedirectResponse(to, status_code=303, headers={"Cache-Control": "no-store"})
        answer.set_cookie(
            _cookie(scope),
            self._kept,
            max_age=COOKIE_S,
            path=scope.get("root_path", "") or "/",
            secure="https" in (scope["scheme"], Headers(scope=scope).get("x-forwarded-proto")),
            httponly=True,
            samesite="strict",
        )
        return answer


def same(said: str, meant: str) -> bool:
    """Whether two secrets are one; how long it takes tells nothing of either."""
    return hmac.compare_digest(_digest(said), _digest(meant))


def check_rate(wait_s: float, error: str) -> None:
    """Refuse whoever has to wait.

    Raises:
        Refusal: they have to; it says how long.
    """
    if wait_s:
        after = math.ceil(wait_s)
        raise Refusal(429, error, f"come again in {after} s", headers={"Retry-After": str(after)})


def _cookie(scope: Scope) -> str:
    """Cookies know no ports, and two servers of one machine have two tokens."""
    server = scope.get("server")
    return f"resmap-{server[1]}" if server else "resmap"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
