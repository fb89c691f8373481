"""The commands where they are asked of a Ray cluster: a run is one of its jobs, followed here to its end."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from cluster.ray_jobs import RayHead
from jobs import ray_driver, ray_follow, ray_submit
from jobs.connection import kind_of
from jobs.interrupts import INTERRUPTED, draining
from jobs.ray_follow import Ended, Stopping
from jobs.ray_submit import Manner, Sent, There
from jobs.run_cli import print_ending, print_workers
from jobs.submit_cli import EXIT, printable, tell_submitted
from jobs.summary import Summary
from jobs.terminal import plain, print_json
from mapper.errors import QuestionError


def is_head(address: str, *, token_file: Path | None = None) -> bool:
    """Whether a Ray head answers at an address, and no resmap server.

    Raises:
        QuestionError: it is no address, or a file is named for it that holds the token of a resmap server.
        AwayError: nobody answers.
    """
    if not address.lower().startswith("ray://") and kind_of(address) == "resmap":
        return False
    if token_file is not None:
        raise QuestionError(
            "--token-file is for a resmap server, and here answers a Ray cluster",
            fix="name the file of its token in RAY_AUTH_TOKEN_PATH",
            address=address,
        )
    return True


def run_there(job: Path, address: str, manner: Manner, *, insecure: bool, as_json: bool) -> int:
    """As ``resmap run``: the driver is a job of the cluster; its log and its end are told here. Gives the exit status.

    Raises:
        QuestionError: a resmap server answers there.
        MapperError: as ``ray_submit.submit`` and ``ray_follow.follow``.
    """
    if not is_head(address):
        raise QuestionError(
            "this is a resmap server, and no Ray cluster", fix="`resmap submit --wait` sends it a job", address=address
        )
    with RayHead(address, insecure=insecure, insecure_ray=manner.insecure_ray) as head:
        return _followed(head, ray_submit.submit(head, job, manner), as_json=as_json)


def submit_there(
    job: Path, address: str, manner: Manner, *, wait: bool, insecure: bool = False, as_json: bool = False
) -> int:
    """As ``resmap submit``. Gives the exit status."""
    with RayHead(address, insecure=insecure, insecure_ray=manner.insecure_ray) as head:
        return _sent_off(head, ray_submit.submit(head, job, manner), wait=wait, as_json=as_json)


def retry_there(
    run: str, address: str, manner: Manner, *, wait: bool, insecure: bool = False, as_json: bool = False
) -> int:
    """As ``resmap retry``, by the cluster. Gives the exit status."""
    with RayHead(address, insecure=insecure, insecure_ray=manner.insecure_ray) as head:
        return _sent_off(head, ray_submit.retry(head, run, manner), wait=wait, as_json=as_json)


def status_there(
    run: str | None, address: str, *, insecure: bool = False, insecure_ray: bool = False, as_json: bool = False
) -> None:
    """As ``resmap status``, of the runs that are jobs of a cluster."""
    with RayHead(address, insecure=insecure, insecure_ray=insecure_ray) as head:
        if run is not None:
            there = ray_submit.closer(head, ray_submit.find(head, run))
            print_json(asdict(there)) if as_json else _tell(there)
            return
        lines = ray_submit.runs(head)
    if as_json:
        print_json([asdict(line) for line in lines])
    elif lines:
        Console().print(_table(lines))
    else:
        print("no runs there yet; `resmap submit` sends a job")


def logs_there(
    run: str, address: str, *, follow: bool = False, insecure: bool = False, insecure_ray: bool = False
) -> None:
    """As ``resmap logs``: what the driver has said, but for what is for programs."""
    with RayHead(address, insecure=insecure, insecure_ray=insecure_ray) as head:
        key = ray_submit.submission_of(head, run)
        lines = ray_follow.heard(head, key) if follow else head.log(key).splitlines()
        for line in lines:
            if ray_driver.told(line) is None:
                print(printable(line), flush=True)


def cancel_there(run: str, address: str, *, insecure: bool = False, insecure_ray: bool = False) -> tuple[str, str]:
    """As ``resmap cancel``: the key of a run, and its state then."""
    with RayHead(address, insecure=insecure, insecure_ray=insecure_ray) as head:
        there, state = ray_submit.cancel(head, run)
    return there.key, state


def _sent_off(head: RayHead, sent: Sent, *, wait: bool, as_json: bool) -> int:
    """Tell of a submission, and of its end where that is waited for; the exit status."""
    if not wait:
        print_json(asdict(sent.submitted)) if as_json else tell_submitted(sent.submitted)
        return 0
    if not as_json:
        tell_submitted(sent.submitted)
    ended = ray_follow.follow(head, sent.submitted.key, tell=lambda _: None, stopping=Stopping())
    if as_json:
        print_json(asdict(ended.there) | {"summary": ended.answer})
    else:
        _print_summary(ended)
    return EXIT.get(ended.there.state, ended.exit_status or 1)


def _followed(head: RayHead, sent: Sent, *, as_json: bool) -> int:
    key = sent.submitted.key
    if sent.attached:
        _say(f"run {sent.submitted.run} is under way in job {key} of {head.address}; following it")
        try:
            return _told(ray_follow.follow(head, key, tell=_say, stopping=Stopping()), as_json=as_json)
        except KeyboardInterrupt:
            _say(f"this was only following it: the run goes on; `resmap cancel {key} --address {head.address}` ends it")
            return INTERRUPTED
    _say(f"run {sent.submitted.run} is job {key} of {head.address}, with Ray {head.ray}")
    with draining(left=f"the run finishes its tiles there; `resmap logs {key} -f --address {head.address}`") as drained:
        ended = ray_follow.follow(head, key, tell=_say, stopping=drained(Stopping()))
        return drained.status(_told(ended, as_json=as_json))


def _told(ended: Ended, *, as_json: bool) -> int:
    """The end of a run, as ``resmap run`` tells it; its exit status."""
    if as_json:
        if ended.answer is not None:
            print_json(ended.answer)
    elif ended.answer is not None:
        _print_summary(ended)
    if ended.answer is None and ended.there.state == "cancelled":
        _say(f"run {ended.there.run} was ended before it could say how far it is")
    return ended.exit_status


def _print_summary(ended: Ended) -> None:
    if ended.answer == []:
        print("no tile was given up; there is nothing to take again")
        return
    summary = _summary(ended.answer)
    if summary is None:
        _tell(ended.there)
        return
    console = Console()
    if summary.worked_tiles:
        print_workers(console, summary)
    print_ending(console, summary)


def _summary(answer: Any) -> Summary | None:
    try:
        return TypeAdapter(Summary).validate_python(answer)
    except ValidationError:
        return None


def _tell(there: There) -> None:
    turns = f", submitted {there.turn} times" if there.turn > 1 else ""
    print(f"run {plain(there.run)} is {there.state}: job {plain(there.key)}{turns}")
    if there.says:
        print(f"  {plain(there.says)}")
    print(f"mosaic {plain(there.mosaic)}")


def _table(lines: tuple[There, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "begun", "turns"):
        table.add_column(heading, no_wrap=True)
    table.add_column("mosaic", overflow="fold")
    for line in lines:
        table.add_row(
            plain(line.run), line.state, line.begun[:16].replace("T", " "), str(line.turn), plain(line.mosaic)
        )
    return table


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)
