"""Monitors as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.table import Table

from jobs.dashboard.monitor_views import ChangeLine, MonitorLine, MonitorPage, TickLine
from jobs.dashboard.words import TICK_WORDS, UNKNOWN, away, count, duration, moment, surface, wall, zoned
from jobs.terminal import plain

ALERTS_TOLD, CHANGES_TOLD, ASIDE_TOLD = 5, 10, 5
"""Of each, what people read of one monitor; ``--json`` has more."""


def monitors_table(lines: Sequence[MonitorLine], now: datetime) -> Table:
    """A row a monitor."""
    table = Table(box=None, pad_edge=False)
    for heading in ("monitor", "state", "next", "last tick"):
        table.add_column(heading, no_wrap=True)
    for heading in ("new items", "tiles", "alerts to send"):
        table.add_column(heading, justify="right")
    table.add_column("", overflow="fold")
    for line in lines:
        table.add_row(
            plain(line.name), line.state, _spaced(away(line.next_at, now)), _last(line.last, now),
            count(line.new_items), count(line.tiles), count(line.alerts_waiting), plain(line.trouble),
        )  # fmt: skip
    return table


def monitor_table(page: MonitorPage) -> Table:
    """One monitor."""
    line, now = page.line, page.as_of
    table = Table(title=f"{plain(line.name)}: {line.state}", title_justify="left", title_style="bold",
                  show_header=False, box=None)  # fmt: skip
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    following = f"{away(line.next_at, now)}, {zoned(line.next_at, line.timezone)}" if line.next_at else "paused"
    rows = [
        ("trouble", line.trouble),
        ("schedule", line.says),
        ("next", following),
        ("asked", f"to look now, {away(line.asked_at, now)}" if line.asked_at else ""),
        ("last tick", f"{_last(line.last, now)}: {line.last.said}" if line.last else "none yet"),
        ("known", f"what the catalog had at {moment(page.watermark)}" if page.watermark else ""),
        ("so far", f"{count(line.new_items)} new items, {count(line.changed_items)} reprocessed, "
                   f"{count(line.gone_items)} gone, {count(line.set_aside)} set aside; {count(line.tiles)} tiles"),
        ("alerts", f"{count(line.alerts_delivered)} delivered, {count(line.alerts_waiting)} to send, "
                   f"{count(line.alerts_given_up)} given up"),
        *(("rule", rule) for rule in page.rules),
        ("sinks", ", ".join(page.sinks)),
        *(("alert", f"{one.created:%Y-%m-%d %H:%M}: {one.prompt} {one.change} in {one.place}: {surface(one.area_m2)}")
          for one in page.alerts[:ALERTS_TOLD]),
        *(("changed", _changed(one)) for one in page.changes[:CHANGES_TOLD]),
        *(("set aside", f"{one.id} ({one.kind}): {one.why}") for one in page.set_aside[:ASIDE_TOLD]),
        ("catalog", page.catalog),
        ("mosaic", line.mosaic),
        ("outlines", page.polygons or page.unread),
    ]  # fmt: skip
    for what, said in rows:
        if said:
            table.add_row(what, plain(_spaced(said)))
    return table


def ticks_table(ticks: Sequence[TickLine], zone: str) -> Table:
    """A row a tick."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"due, {zone}", no_wrap=True)
    table.add_column("", no_wrap=True)
    for heading in ("new", "reproc.", "gone", "aside", "tiles", "alerts", "took"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("said", overflow="fold")
    for tick in ticks:
        missed = f" and {tick.stands_for - 1} before" if tick.stands_for > 1 else ""
        table.add_row(
            f"{wall(tick.due, zone)}{missed}", TICK_WORDS[tick.state], count(tick.new_items),
            count(tick.changed_items), count(tick.gone_items), count(tick.set_aside), count(tick.tiles),
            count(tick.alerts), _spaced(duration(tick.seconds)), plain(tick.said),
        )  # fmt: skip
    return table


def changes_table(lines: Sequence[ChangeLine]) -> Table:
    """A row a step and prompt."""
    table = Table(box=None, pad_edge=False)
    table.add_column("step", no_wrap=True)
    table.add_column("prompt")
    for heading in ("appeared", "places", "vanished", "places"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        unknown = "unknown" if line.appeared_m2 is None else None  # nothing can be compared
        table.add_row(
            f"{line.time:%Y-%m-%d}", plain(line.prompt), unknown or _spaced(surface(line.appeared_m2)),
            count(line.appeared), unknown or _spaced(surface(line.vanished_m2)), count(line.vanished),
        )  # fmt: skip
    return table


def _last(tick: TickLine | None, now: datetime) -> str:
    if tick is None:
        return UNKNOWN
    return _spaced(f"{TICK_WORDS[tick.state]} {away(tick.ended or tick.began, now)}")


def _changed(line: ChangeLine) -> str:
    if line.appeared_m2 is None:
        return f"{line.time:%Y-%m-%d} {line.prompt}: unknown, nothing can be compared"
    appeared, vanished = surface(line.appeared_m2), surface(line.vanished_m2)
    return f"{line.time:%Y-%m-%d} {line.prompt}: {appeared} appeared, {vanished} vanished"


def _spaced(text: str) -> str:
    return text.replace("\u00a0", " ")
