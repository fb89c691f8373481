"""A web application on a port of this machine, from its beginning to Ctrl-C; and the browser before it."""

from __future__ import annotations

import contextlib
import socket
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path, PurePath
from types import FrameType
from typing import TYPE_CHECKING

from mapper.errors import QuestionError

if TYPE_CHECKING:
    from starlette.applications import Starlette

LAST_ANSWERS_S = 1
"""How long Ctrl-C waits for answers that are on their way."""

_IN_THE_TERMINAL = frozenset(("www-browser", "links", "elinks", "lynx", "w3m"))
"""Browsers that would take this terminal over."""


def listening(host: str, port: int, *, what: str, fix: str) -> socket.socket:
    """A socket that takes connections.

    Args:
        host: name or address of this machine.
        port: 0 for any that is free.
        what: how it is called in a sentence, as ``the preview``.
        fix: what to do where the port is taken.

    Raises:
        QuestionError: the port is taken, or the address is none of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "this is no name of a machine"
        raise QuestionError(f"{what} cannot listen at {at(host, port)}: {why}", fix=fix) from error


def at(host: str, port: int) -> str:
    """Both as an address has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def serve(
    pages: Starlette,
    listener: socket.socket,
    *,
    connections: int,
    stop: Callable[[], None] | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Answer until Ctrl-C, or until whoever looks after it asks it to end.

    Args:
        pages: the application.
        listener: where.
        connections: more at a time are told to come again.
        stop: is called when the end begins, in a handler of signals: it ends answers that would go on.
        certificate, key: files in PEM, for TLS.

    Raises:
        QuestionError: they cannot be used.
    """
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if stop is not None:
                stop()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        pages,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # whoever connects is who it is, whatever a header says
        limit_concurrency=connections,
        timeout_graceful_shutdown=LAST_ANSWERS_S,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    try:
        config.load()
    except OSError as error:  # of which errors of TLS are some
        why = error.strerror or "they are no certificate and key in PEM, or do not belong together"
        raise QuestionError(
            f"the certificate and its key cannot be used: {why}", fix="name both files with --tls-cert and --tls-key"
        ) from error
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listener])


def open_browser(address: str) -> None:
    """Open the browser, where there is one with a window of its own."""
    with contextlib.suppress(webbrowser.Error):
        browser = webbrowser.get()
        if PurePath(getattr(browser, "name", "")).name not in _IN_THE_TERMINAL:
            # Some browsers return when they are closed, and the pages have to be served meanwhile.
            threading.Thread(target=browser.open, args=[address], daemon=True).start()
