"""``resmap serve``: the dashboard and its API."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.serving import at, listening, open_browser, serve
from jobs.terminal import AsJson, plain, print_json
from mapper.errors import QuestionError

if TYPE_CHECKING:
    from jobs.dashboard.keys import Access

MOST_CONNECTIONS = 512
"""More at a time are told to come again."""

_EVERYWHERE = ("0.0.0.0", "::")
_LEAVE_WITHIN_S = 0.2


def serve_dashboard(
    host: Annotated[str, typer.Option(help="On any but this machine's own, all is refused without the token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token; made where it is not there. Yours alone, or it is refused."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Nothing can be submitted, cancelled, retried.")] = (
        False
    ),
    mosaic: Annotated[
        list[str] | None, typer.Option(help="Show the runs beside this mosaic too. As often as you like.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A name it is reached by, through a proxy say; the token is asked for then. Repeatable."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate in PEM, for https.", exists=True, dir_okay=False)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key in PEM.", exists=True, dir_okay=False)] = None,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    as_json: AsJson = False,
) -> None:
    """Watch runs in the browser, and take jobs by the API, until Ctrl-C. Runs go on without it."""
    from jobs.dashboard.app import app
    from jobs.dashboard.queries import Queries
    from jobs.executor import Executor
    from jobs.registry import Registry
    from jobs.settings import token_file as own_token_file
    from jobs.token_file import kept_token

    if (tls_cert is None) != (tls_key is None):
        raise QuestionError("TLS needs a certificate and its key", fix="name both: --tls-cert and --tls-key")
    kept = (token_file or own_token_file()).expanduser()
    access = access_of(kept_token(kept), host=host, names=allowed_host or (), readonly=read_only)
    registry = Registry()
    executor = Executor(registry)
    pages = app(Queries(registry, mosaics=mosaic or ()), executor, access=access)
    fix = "another server has it, perhaps one of yours: open it, or choose another with --port"
    with listening(host, port, what="the dashboard", fix=fix) as listener:
        shown = socket.gethostname() if host in _EVERYWHERE else host
        root = f"{'https' if tls_cert else 'http'}://{at(shown, listener.getsockname()[1])}/"
        _audit_to_stderr()
        _tell(root, kept, access, plain_text=not (access.loopback or tls_cert), as_json=as_json)
        if open_it:
            open_browser(root)
        if not read_only:
            executor.start()
        try:
            serve(
                pages,
                listener,
                connections=MOST_CONNECTIONS,
                stop=pages.state.streams.stop,
                certificate=tls_cert,
                key=tls_key,
            )
        finally:
            executor.close()
    _leave()


def access_of(token: str, *, host: str, names: Sequence[str], readonly: bool) -> Access:
    """Who may do what, where it is served on ``host`` and others know it by ``names`` too."""
    from cluster.http import is_loopback
    from jobs.careful import LOOPBACK
    from jobs.dashboard.keys import Access

    here = is_loopback(host)
    known = (host, *names) if here else (host, socket.gethostname(), *names)
    return Access(
        token=token,
        loopback=here and not names,  # who has another name for it is not on this machine
        readonly=readonly,
        hosts=(*LOOPBACK, *(name.lower() for name in known)),
    )


def _tell(root: str, kept: Path, access: Access, *, plain_text: bool, as_json: bool) -> None:
    """Where it is, and where the token lies; the token itself only to a person at a terminal, in a link to follow."""
    if as_json:
        print_json(
            {"url": root, "api": f"{root}api/v1/", "token_file": str(kept), "token_needed": not access.loopback,
             "read_only": access.readonly}
        )  # fmt: skip
        sys.stdout.flush()  # into a pipe it would wait there until the end
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"Dashboard  {plain(root)}{'  [dim](read-only)[/]' if access.readonly else ''}")
    if not access.loopback and sys.stdout.isatty():
        console.print(f"Sign in    {plain(root)}?token={plain(access.token)}")
    console.print(f"Token      in {plain(str(kept))}")
    if plain_text:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            "[yellow]note:[/] the token crosses the network in plain text; --tls-cert and --tls-key make it https"
        )
    console.print("Ctrl-C stops it; runs go on.", style="dim")
    sys.stdout.flush()


def _audit_to_stderr() -> None:
    """Each change in a line on stderr, whoever asked for it."""
    logger = logging.getLogger("resmap.audit")
    line = logging.Formatter("%(asctime)sZ audit %(message)s", "%Y-%m-%dT%H:%M:%S")
    line.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(line)
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _leave() -> None:
    """End now: a thread that still waits for a store only reads, and would hold the process up."""
    until = time.monotonic() + _LEAVE_WITHIN_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, until - time.monotonic()))
            if thread.is_alive():
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(0)
