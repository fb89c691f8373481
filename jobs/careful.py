"""What every answer tells a browser, so that nobody can turn it against its owner."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost")
"""The names under which a browser on this machine finds it."""

_CLOSED = "base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
VIEW_POLICY = f"default-src 'self'; form-action 'none'; {_CLOSED}"
"""For pages that show and ask nothing."""

FORM_POLICY = (
    "default-src 'self'; style-src 'self'; img-src 'self' data: blob:; worker-src 'self'; form-action 'self'; "
    + _CLOSED
)
"""For pages with forms, and pictures that our scripts draw. Nothing inline runs, and no other host is asked."""

_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), camera=(), microphone=()",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers say of our own forms that nobody sent them
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Careful:
    """Adds the headers to every answer; one that has a policy of its own keeps it."""

    def __init__(self, app: ASGIApp, *, policy: str) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does, carefully."""

        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", self._policy)
                headers.update(_HEADERS)
            await send(message)

        await self._app(scope, receive, careful)


def style_too(policy: str, digest: str) -> str:
    """The policy, with one style in the page itself: the one of this digest, as ``sha256-…``, and no other."""
    return policy.replace("style-src 'self'", f"style-src 'self' '{digest}'")
