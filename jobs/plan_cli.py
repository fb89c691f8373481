"""``resmap plan``: a job is searched, tiled and priced, here and on fleets, and nothing is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from jobs.deadline import parse_deadline
from jobs.gpu_prices import read_prices
from jobs.run_cli import print_problems
from jobs.settings import prices_file
from jobs.terminal import print_json

if TYPE_CHECKING:
    from jobs.pricing import Priced


def say_plan(job: Path, *, pilot: int | None, fleet: bool, by: str | None, prices: Path | None, as_json: bool) -> int:
    """Plan and price a job, and print it.

    Returns:
        The exit status.

    Raises:
        MapperError: of the job, the hour or the price table.
    """
    from jobs.job import Job
    from jobs.prepare import prepare
    from jobs.pricing import price, with_fleets
    from jobs.progress import watcher

    watching = watcher()
    # What is wrong with an option is told before minutes of searching.
    deadline = None if by is None else parse_deadline(by, now=datetime.now(UTC))
    fleet = fleet or by is not None or prices is not None
    table = read_prices(prices or prices_file()) if fleet else None
    prepared = prepare(Job.from_file(job), tell=watching.say)
    priced = price(prepared, pilot=pilot, watcher=watching)
    if table is not None:
        priced = with_fleets(priced, table, by=deadline, watcher=watching)
    if as_json:
        print_json(priced.as_json())
    else:
        _print(Console(), priced)
    return priced.exit_status


def _print(console: Console, priced: Priced) -> None:
    from jobs.fleet_tables import fleets_table, says_table
    from jobs.tables import pilot_table, plan_table

    console.print(plan_table(priced.prepared, priced.cost, priced.device, measured=priced.pilot is not None))
    if priced.pilot is not None:
        console.print()
        console.print(pilot_table(priced.pilot))
        print_problems(console, priced.pilot.problems)
    if priced.fleets is not None:
        console.print()
        if (table := fleets_table(priced.fleets)) is not None:
            console.print(table)
            console.print()
        console.print(says_table(priced.fleets), highlight=False)
