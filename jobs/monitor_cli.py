"""``resmap monitor``: jobs that look for new imagery by themselves, map what is new and say what changed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs.run_cli import Address, Gpus, InsecureRay, JobFile, Local
from jobs.terminal import AsJson, plain, print_json
from mapper.errors import MosaicError, QuestionError, SpecError

if TYPE_CHECKING:
    from jobs.monitors.loop import Scheduler
    from jobs.monitors.rows import MonitorRow, TickRow
    from jobs.monitors.store import Monitors

FAILED, GIVEN_UP, INTERRUPTED = 1, 4, 130
"""How ``run`` ends where a tick failed, one gave tiles up, or somebody ended it."""

PIPED_WIDTH = 160

app = typer.Typer(
    help="Look for new imagery on a schedule, map just what is new, say what changed, tell people.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="As `resmap monitor list` names it.", show_default=False)]
MaybeName = Annotated[str | None, typer.Argument(metavar="[NAME]", help="All monitors where left out.")]


@app.command()
def add(
    job: JobFile,
    name: Annotated[
        str | None, typer.Option(help="What it is called; the job's name where left out.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a monitor of a job with a monitor section. Nothing is searched or mapped until a tick is due."""
    from jobs.job import Job
    from jobs.monitors.door import admitted

    entry = admitted(Job.from_file(job), name=name)
    row = _store().add(entry.name, job=entry.job, mosaic=entry.mosaic)
    first = entry.schedule.after(row.created)
    if as_json:
        print_json({"name": row.name, "mosaic": row.mosaic, "schedule": entry.schedule.says, "next_at": first,
                    "notes": entry.notes})  # fmt: skip
        return
    print(
        f"monitor {plain(row.name)} looks {plain(entry.schedule.says)}; first {_when(first, entry.schedule.timezone)}"
    )
    print(f"mosaic {plain(row.mosaic)}")
    for note in entry.notes:
        print(f"note: {plain(note)}", file=sys.stderr)
    print("`resmap monitor serve` runs what is due; `resmap monitor run --once --now` looks at once")


@app.command("list")
def list_monitors(as_json: AsJson = False) -> None:
    """All monitors: when they look next, how the last tick went, what is wrong."""
    from jobs.dashboard.monitor_book import MonitorBook
    from jobs.monitor_tables import monitors_table
    from jobs.registry import Registry

    lines = MonitorBook(Registry()).lines()
    if as_json:
        print_json([asdict(line) for line in lines])
    elif lines:
        _console().print(monitors_table(lines, datetime.now(UTC)))
    else:
        print("no monitor yet; `resmap monitor add JOB` makes one")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """One monitor: state, next look, what it has seen of the catalog, changes, alerts, trouble."""
    from jobs.dashboard.monitor_book import MonitorBook
    from jobs.monitor_tables import monitor_table
    from jobs.registry import Registry

    registry = Registry()
    page = MonitorBook(registry).page(_known(_store(), name).name)
    if as_json:
        print_json(asdict(page))
    else:
        _console().print(monitor_table(page))


@app.command()
def history(
    name: Name,
    last: Annotated[int, typer.Option(min=1, max=10_000, help="So many ticks.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Its latest ticks, the last first: what each found, mapped and said."""
    from jobs.dashboard.monitor_book import tick_line
    from jobs.monitor_tables import ticks_table

    store = _store()
    row = _known(store, name)
    ticks = [tick_line(tick, row.mosaic) for tick in store.history(row.name, last=last)]
    if as_json:
        print_json([asdict(tick) for tick in ticks])
    elif ticks:
        _console().print(ticks_table(ticks, row.schedule.timezone))
    else:
        print("it has not looked yet")


@app.command()
def run(
    name: MaybeName = None,
    once: Annotated[
        bool, typer.Option("--once", help="What is due now, then end: for cron and the like. It is so without it too.")
    ] = True,
    now: Annotated[bool, typer.Option("--now", help="Look although nothing is due; of one monitor.")] = False,
    address: Address = None,
    gpus: Gpus = None,
    local: Local = False,
    insecure_ray: InsecureRay = False,
    as_json: AsJson = False,
) -> None:
    """Run what is due now, wherever it is asked: a tick is run once, however many ask."""
    from jobs.progress import watcher

    store = _store()
    if name is not None:
        name = _known(store, name).name
    if now:
        store.ask(_one(store, name).name)
    watching = watcher()
    scheduler = _scheduler(store, address, gpus, local, insecure_ray, tell=watching.say, watcher=watching)
    with _stopping() as stopped:
        ended = scheduler.once(name, stopped=stopped)
    if as_json:
        print_json([_tick_json(store, tick) for tick in ended])
    elif not ended:
        print("nothing is due")
    for tick in [] if as_json else ended:
        print(f"monitor {plain(tick.monitor)}, due {tick.due:%Y-%m-%d %H:%M:%S}Z: {tick.state}; {plain(tick.said)}")
    raise typer.Exit(_exit_status(store, ended, stopped.is_set()))


@app.command()
def serve(address: Address = None, gpus: Gpus = None, local: Local = False, insecure_ray: InsecureRay = False) -> None:
    """Run what is due when it is due, until Ctrl-C. Several may serve one registry: one acts, the others stand by."""
    scheduler = _scheduler(_store(), address, gpus, local, insecure_ray, tell=_say)
    with _stopping() as stopped:
        scheduler.serve(stopped)


@app.command()
def pause(name: Name) -> None:
    """Begin no more ticks of it; one at work goes on."""
    store = _store()
    row = store.pause(_known(store, name).name)
    print(f"monitor {plain(row.name)} is paused; `resmap monitor resume {plain(row.name)}` has it look again")


@app.command()
def resume(name: Name) -> None:
    """Have it look again. What was missed meanwhile is caught up with by one tick."""
    store = _store()
    row = store.resume(_known(store, name).name)
    following = row.schedule.after(datetime.now(UTC))
    print(f"monitor {plain(row.name)} is active; next {_when(following, row.schedule.timezone)}")


@app.command()
def remove(name: Name) -> None:
    """Forget a monitor, its history and its alerts. The mosaic and its changes stay."""
    store = _store()
    row = _known(store, name)
    at_work = store.remove(row.name)
    print(f"monitor {plain(row.name)} is removed; its mosaic stays at {plain(row.mosaic)}")
    if at_work:
        print("a tick of it is at work, and ends with the tiles in hand")


@app.command()
def changes(
    name: Annotated[str, typer.Argument(metavar="NAME|MOSAIC", help="A monitor, or a mosaic's path or URL.")],
    since: Annotated[
        str | None, typer.Option(help="Steps that begin on this date or later: 2024, 2024-06, 2024-06-30.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What appeared and vanished from each time step to the next, per prompt. A gap is never a change."""
    from jobs.dashboard.monitor_book import read_changes
    from jobs.monitor_tables import changes_table
    from mapper.changes.raster import changes_folder

    mosaic = _mosaic_of(_store(), name)
    from_on = _moment(since) if since is not None else None
    lines, unread = read_changes(mosaic, last=sys.maxsize)
    if unread:
        raise MosaicError(unread, fix="see that the folder can be read", folder=changes_folder(mosaic))
    shown = [line for line in lines if from_on is None or line.time >= from_on]
    polygons = f"{changes_folder(mosaic)}/polygons"
    if as_json:
        print_json({"mosaic": mosaic, "polygons": polygons, "changes": [asdict(line) for line in shown]})
    elif shown:
        _console().print(changes_table(shown))
        _console().print(f"Outlines {plain(polygons)}", soft_wrap=True)
    else:
        print("nothing has been compared" + (f" since {plain(since)}" if since else "; a monitor's tick does it"))


@app.command()
def export(name: Name) -> None:
    """All that the registry holds of a monitor, as JSON: its job, ticks, alerts."""
    store = _store()
    print_json(store.export(_known(store, name).name))


# Behind the commands -------------------------------------------------------------------------------------------------


def _store() -> Monitors:
    from jobs.monitors.store import Monitors
    from jobs.registry import Registry

    return Monitors(Registry())


def _console() -> Console:
    """As wide as the terminal; into a file or a pipe as wide as tables like to be."""
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)


def _known(store: Monitors, name: str) -> MonitorRow:
    """The monitor of this name.

    Raises:
        QuestionError: there is none; with the nearest that is.
    """
    from mapper.questions.places import did_you_mean

    found = store.find(name)
    if found is None:
        names = [row.name for row in store.all()]
        fix = did_you_mean(name, names) if names else "`resmap monitor add JOB` makes one"
        raise QuestionError(f"no monitor is named {name[:100]!r}", fix=fix)
    return found


def _one(store: Monitors, name: str | None) -> MonitorRow:
    """The monitor that is to look now: the named one, or the only one there is."""
    rows = store.all() if name is None else [store.get(name)]
    if len(rows) != 1:
        names = ", ".join(row.name for row in rows[:12])
        fix = f"name one: {names}" if rows else "`resmap monitor add JOB` makes one"
        raise QuestionError(f"--now is of one monitor, and there are {len(rows):,}", fix=fix)
    if rows[0].state == "paused":
        raise QuestionError(f"monitor {rows[0].name} is paused", fix=f"`resmap monitor resume {rows[0].name}` first")
    return rows[0]


def _scheduler(
    store: Monitors,
    address: str | None,
    gpus: int | None,
    local: bool,
    insecure_ray: bool,
    *,
    tell: Any,
    watcher: Any = None,
) -> Scheduler:
    """Whatever runs ticks and sends alerts."""
    from jobs.monitors.delivery import deliver, sinks_of_jobs
    from jobs.monitors.loop import Scheduler
    from jobs.monitors.tick import Where, job_of, run_tick

    where = Where(gpus=gpus, address=address, local=local, insecure_ray=insecure_ray)

    def send(moment: datetime) -> int:
        return deliver(store, sinks_of_jobs({row.name: job_of(row).spec for row in store.all()}), moment)

    return Scheduler(
        store,
        lambda row, due, stopped: run_tick(row, due, stopped, store=store, where=where, watcher=watcher),
        deliver=send,
        tell=tell,
    )


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C or SIGTERM: tiles in hand are finished, and the rest is left for the next. The second
    Ctrl-C leaves at once."""
    stopped = threading.Event()

    def heard(number: int, frame: Any) -> None:
        if stopped.is_set() and number == signal.SIGINT:
            os._exit(INTERRUPTED)
        print("finishing what is in hand; once more to leave at once", file=sys.stderr, flush=True)
        stopped.set()

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_status(store: Monitors, ended: Sequence[TickRow], stopped: bool) -> int:
    from jobs.ledger import RunFolder

    if stopped:
        return INTERRUPTED
    if any(tick.state == "failed" for tick in ended):
        return FAILED
    for tick in ended:
        row = store.find(tick.monitor)
        if tick.run and row is not None and RunFolder(row.mosaic, tick.run).facts().get("state") == "quarantined":
            return GIVEN_UP
    return 0


def _tick_json(store: Monitors, tick: TickRow) -> dict[str, Any]:
    from jobs.dashboard.monitor_book import tick_line

    row = store.find(tick.monitor)
    return {"monitor": tick.monitor} | asdict(tick_line(tick, row.mosaic if row is not None else ""))


def _mosaic_of(store: Monitors, named: str) -> str:
    """Of a monitor, or the mosaic itself.

    Raises:
        QuestionError: there is neither.
    """
    from jobs.job import absolute
    from mapper.mosaic import Mosaic
    from mapper.questions.places import did_you_mean

    if (row := store.find(named)) is not None:
        return row.mosaic
    place = absolute(named)
    if not Mosaic.exists(place):
        fix = did_you_mean(named, [known.name for known in store.all()])
        raise QuestionError(f"{named[:200]!r} is no monitor, and no mosaic is there", fix=fix)
    return place


def _moment(text: str) -> datetime:
    from catalogs.conditions import interval_of

    try:
        return interval_of(text).first
    except SpecError as error:
        raise QuestionError(
            f"--since {text[:60]!r} is no date", fix="write it as 2024, 2024-06 or 2024-06-30"
        ) from error


def _when(moment: datetime, zone: str) -> str:
    from jobs.dashboard.words import away, zoned

    return f"{away(moment, datetime.now(UTC))}, {zoned(moment, zone)}".replace("\u00a0", " ")


def _say(text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {plain(text)}", flush=True)
