"""``resmap submit``, ``logs`` and ``cancel``; and ``status`` and ``retry`` where they are asked of a server.

Where a Ray cluster answers at the address, ``jobs/ray_cli.py`` does it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.console import Console
from rich.table import Table

from jobs.run_cli import (
    DriverLabel,
    Gpus,
    Image,
    Insecure,
    InsecureRay,
    JobFile,
    Local,
    RuntimeEnvFile,
    SameFiles,
    TokenFile,
    Wait,
)
from jobs.terminal import AsJson, plain, print_json
from mapper.errors import QuestionError

if TYPE_CHECKING:
    from jobs.client import Client
    from jobs.dashboard.control import Submitted
    from jobs.dashboard.views import RunLine, RunPage

FOLLOW_EVERY_S = 1.0

EXIT = {"done": 0, "quarantined": 4, "cancelled": 6, "out-of-budget": 6, "interrupted": 130}
"""State in which a run ended → how a command that waited for it ends; any other: 1."""

Server = Annotated[
    str,
    typer.Option(
        "--address",
        help="A resmap server, or the dashboard of a Ray cluster: https://host, or http:// on this machine.",
        show_default=True,
    ),
]
MaybeServer = Annotated[
    str | None,
    typer.Option(
        "--address", help="A resmap server, or a Ray cluster; this machine where left out.", show_default=False
    ),
]
Run = Annotated[str, typer.Argument(metavar="RUN", help="As `resmap status` names it.", show_default=False)]


class _HasLogs(Protocol):
    """Who has logs: a server, or this machine."""

    def log(self, key: str, *, after: int = 0) -> tuple[str, int]: ...


def submit(
    job: JobFile,
    address: Server = "http://127.0.0.1:8765",
    gpus: Gpus = None,
    local: Local = False,
    wait: Wait = False,
    same_files: SameFiles = False,
    image: Image = None,
    runtime_env: RuntimeEnvFile = None,
    driver_label: DriverLabel = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
    insecure_ray: InsecureRay = False,
    as_json: AsJson = False,
) -> None:
    """Send a job to a server or a Ray cluster, which runs it. Sending it twice is one run."""
    if _is_head(address, token_file):
        from jobs.ray_cli import submit_there
        from jobs.ray_submit import Manner

        manner = Manner(
            gpus=gpus,
            local=local,
            insecure_ray=insecure_ray,
            same_files=same_files,
            image=image,
            runtime_env=runtime_env,
            driver_labels=driver_label or (),
        )
        raise typer.Exit(submit_there(job, address, manner, wait=wait, insecure=insecure, as_json=as_json))
    if image or runtime_env or driver_label:
        raise QuestionError(
            "--image, --runtime-env and --driver-label are for a Ray cluster, and here answers a resmap server",
            fix="leave them out: the server runs jobs by the Python that it has",
            address=address,
        )
    with connected(address, token_file, insecure=insecure) as client:
        submitted = client.submit(job, gpus=gpus, local=local, same_files=same_files)
        raise typer.Exit(_sent_off(client, submitted, wait=wait, as_json=as_json))


def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run has ended.")] = False,
    address: MaybeServer = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
    insecure_ray: InsecureRay = False,
) -> None:
    """What a submitted run has said."""
    if address is None:
        from jobs.executor import Executor

        executor = Executor()
        key = executor.key_of(run)

        def under_way() -> bool:
            known = executor.submission(key)
            return known is not None and known.run_state in ("queued", "running")

        _print_log(executor, key, under_way if follow else lambda: False)
        return
    if _is_head(address, token_file):
        from jobs.ray_cli import logs_there

        logs_there(run, address, follow=follow, insecure=insecure, insecure_ray=insecure_ray)
        return
    with connected(address, token_file, insecure=insecure) as client:
        from jobs.client import UNDER_WAY

        key = client.find(run).id
        _print_log(client, key, (lambda: client.run(key).line.state in UNDER_WAY) if follow else lambda: False)


def cancel(
    run: Run,
    address: MaybeServer = None,
    token_file: TokenFile = None,
    insecure: Insecure = False,
    insecure_ray: InsecureRay = False,
    as_json: AsJson = False,
) -> None:
    """End a run after the tiles in hand; one that waits never begins."""
    state: str
    if address is None:
        from jobs.executor import Executor

        executor = Executor()
        key = executor.key_of(run)
        state = executor.cancel(key, by="command line")
    elif _is_head(address, token_file):
        from jobs.ray_cli import cancel_there

        key, state = cancel_there(run, address, insecure=insecure, insecure_ray=insecure_ray)
    else:
        with connected(address, token_file, insecure=insecure) as client:
            key = client.find(run).id
            state = client.cancel(key)
    if as_json:
        print_json({"key": key, "state": state})
    elif state == "running":
        print(f"run {plain(key)} finishes the tiles in hand, then ends")
    else:
        print(f"run {plain(key)} is {plain(state)}")


def retry_there(
    run: str,
    address: str,
    *,
    gpus: int | None = None,
    local: bool = False,
    wait: bool = False,
    token_file: Path | None = None,
    insecure: bool = False,
    insecure_ray: bool = False,
    as_json: bool = False,
) -> int:
    """As ``resmap retry``, by a server or a Ray cluster. Gives the exit status."""
    if _is_head(address, token_file):
        from jobs import ray_cli
        from jobs.ray_submit import Manner

        manner = Manner(gpus=gpus, local=local, insecure_ray=insecure_ray)
        return ray_cli.retry_there(run, address, manner, wait=wait, insecure=insecure, as_json=as_json)
    with connected(address, token_file, insecure=insecure) as client:
        return _sent_off(client, client.retry(client.find(run).id), wait=wait, as_json=as_json)


def status_there(
    run: str | None,
    address: str,
    *,
    token_file: Path | None = None,
    insecure: bool = False,
    insecure_ray: bool = False,
    as_json: bool = False,
) -> None:
    """As ``resmap status``, of the runs of a server or a Ray cluster."""
    if _is_head(address, token_file):
        from jobs import ray_cli

        ray_cli.status_there(run, address, insecure=insecure, insecure_ray=insecure_ray, as_json=as_json)
        return
    with connected(address, token_file, insecure=insecure) as client:
        if run is not None:
            page = client.run(client.find(run).id)
            print_json(asdict(page)) if as_json else _tell_page(page)
            return
        lines = client.runs()
    if as_json:
        print_json([asdict(line) for line in lines])
    elif lines:
        Console().print(_lines_table(lines))
    else:
        print("no runs there yet; `resmap submit` sends a job")


def connected(address: str, token_file: Path | None, *, insecure: bool) -> Client:
    """A server, with the token that a file has.

    Raises:
        MapperError: as ``Client`` says.
    """
    from jobs.client import Client

    token = token_file.read_text(errors="replace").strip() if token_file is not None else None
    return Client(address, token, insecure=insecure)


def tell_submitted(submitted: Submitted) -> None:
    """What became of a submission, for people."""
    news = "" if submitted.created else " (it was sent before)"
    print(f"run {plain(submitted.key)} is {plain(submitted.state)}{news}")
    print(f"mosaic {plain(submitted.mosaic)}")


def printable(text: str) -> str:
    """Lines of strangers, that a terminal may be given: what steers it is left out."""
    return "".join(mark if mark.isprintable() or mark in "\n\t" else "�" for mark in text)


def _sent_off(client: Client, submitted: Submitted, *, wait: bool, as_json: bool) -> int:
    """Tell of a submission, and of its end where that is waited for; the exit status."""
    if not wait:
        print_json(asdict(submitted)) if as_json else tell_submitted(submitted)
        return 0
    if not as_json:
        tell_submitted(submitted)
    page = client.wait(submitted.key)
    print_json(asdict(page)) if as_json else _tell_page(page)
    return EXIT.get(page.line.state, 1)


def _is_head(address: str, token_file: Path | None) -> bool:
    from jobs.ray_cli import is_head

    return is_head(address, token_file=token_file)


def _print_log(source: _HasLogs, key: str, under_way: Callable[[], bool]) -> None:
    """All there is; while it is under way, what comes."""
    end = 0
    while True:
        goes_on = under_way()  # asked first: what is said up to its end is there after it
        while True:
            text, now = source.log(key, after=end)
            sys.stdout.write(printable(text))
            if now == end:
                break
            end = now
        sys.stdout.flush()
        if not goes_on:
            return
        time.sleep(FOLLOW_EVERY_S)


def _tell_page(page: RunPage) -> None:
    counts = page.progress
    print(
        f"run {plain(page.line.id)} is {page.line.state}: {counts.planned:,} planned, {counts.done:,} done, "
        f"{counts.nodata:,} nodata, {counts.failed + counts.quarantined:,} given up"
    )
    for group in page.failures:
        print(f"  {group.count:,} × {plain(group.cause)}: {plain(group.first_error)}")
    print(f"mosaic {plain(page.line.mosaic)}")


def _lines_table(lines: tuple[RunLine, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "tiles", "given up"):
        table.add_column(heading, no_wrap=True)
    table.add_column("mosaic", overflow="fold")
    for line in lines:
        tiles = f"{line.finished:,} of {line.planned:,}" if line.planned else "–"
        table.add_row(plain(line.id), line.state, tiles, f"{line.given_up:,}", plain(line.mosaic))
    return table
