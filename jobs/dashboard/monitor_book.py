"""Monitors as people watch them: what the registry holds of them, and the changes that lie beside their mosaics."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, cast

from jobs.dashboard.monitor_views import (
    AlertLine,
    ChangeLine,
    Delivery,
    MonitorLine,
    MonitorPage,
    SetAsideLine,
    TickLine,
)
from jobs.dashboard.monitor_words import rule_says, sink_says, trouble_of
from jobs.dashboard.views import run_key
from jobs.monitors.alert import Alert
from jobs.monitors.rows import AlertRow, MonitorRow, TickRow
from jobs.monitors.store import Monitors
from jobs.monitors.totals import Totals, totals
from jobs.registry import Registry
from jobs.spec import spec_from
from jobs.stac.provenance import clean
from mapper.changes.polygons import POLYGONS, PromptTotals
from mapper.changes.polygons import totals as totals_of
from mapper.changes.raster import changes_folder
from mapper.errors import MapperError, QuestionError
from mapper.storage import Folder

TICKS_SHOWN = 100
ALERTS_SHOWN = 12
STEPS_SHOWN = 12
ASIDE_SHOWN = 30

LARGEST_PICTURE = 4 * 2**20
"""Bytes of a picture of an alert."""


class MonitorBook:
    """Answers about monitors. Threads may share it; nothing is written."""

    def __init__(self, registry: Registry, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._registry, self._store, self._clock = registry, Monitors(registry), clock
        self._changes: dict[str, tuple[object, tuple[tuple[ChangeLine, ...], str]]] = {}
        """Mosaic → the tick after which its changes were read, and those."""

    def lines(self) -> tuple[MonitorLine, ...]:
        """All monitors, by name."""
        rows, sums = self._store.all(), totals(self._registry)
        now = self._clock()
        return tuple(_line(row, sums.get(row.name, Totals()), now) for row in rows)

    def page(self, name: str) -> MonitorPage:
        """All panels of one.

        Raises:
            QuestionError: there is no such monitor.
        """
        row, now = self._row(name), self._clock()
        spec = spec_from(json.loads(row.job), source=f"monitor {name}")
        assert spec.monitor is not None  # else it would not have been added
        ticks = self._store.history(name, last=TICKS_SHOWN)
        sums = totals(self._registry).get(name, Totals())
        changes, unread = self._changes_of(row.mosaic, sums.last)
        return MonitorPage(
            line=_line(row, sums, now),
            prompts=tuple((prompt.name, prompt.expression) for prompt in spec.prompts),
            catalog=str(clean(spec.imagery.catalog)),
            collections=spec.imagery.collections,
            late=spec.monitor.late,
            overlapping=spec.monitor.overlapping,
            hysteresis=spec.monitor.changes.hysteresis,
            min_area_m2=spec.monitor.changes.min_area_m2,
            rules=tuple(rule_says(rule) for rule in spec.monitor.alerts),
            sinks=tuple(sink_says(sink) for sink in spec.monitor.sinks),
            created=row.created,
            watermark=row.watermark,
            swept=row.swept,
            ticks=tuple(tick_line(tick, row.mosaic) for tick in ticks),
            set_aside=_set_aside(ticks),
            alerts=_alert_lines(self._store.alerts(name, last=4 * ALERTS_SHOWN))[:ALERTS_SHOWN],
            changes=changes,
            polygons=f"{changes_folder(row.mosaic)}/polygons" if changes else "",
            unread=unread,
            as_of=now,
        )

    def picture(self, name: str, alert: str, side: str) -> bytes:
        """What an alert is about, ``before`` or ``after``, as it was drawn beside the mosaic.

        Raises:
            QuestionError: there is no such monitor, alert or picture.
            StoreError, CredentialsError: it cannot be read now.
        """
        row = self._row(name)
        for entry in self._store.alerts(name, last=1000):
            if (held := _alert(entry)) is not None and held.key == alert:
                folder, _, file = str(getattr(held.pictures, side) or "").rpartition("/")
                if _beside(folder, row.mosaic) and file.endswith(".png"):
                    return _png(Folder(folder), file)
        raise QuestionError("this alert has no such picture", fix="the monitor's page has those there are")

    def _changes_of(self, mosaic: str, last: TickRow | None) -> tuple[tuple[ChangeLine, ...], str]:
        """What changed, read anew after each tick, and where it could not be read."""
        after = None if last is None else (last.number, last.state, last.ended)
        kept = self._changes.get(mosaic)
        if kept is None or kept[0] != after or kept[1][1]:
            self._changes[mosaic] = kept = after, read_changes(mosaic)
        return kept[1]

    def _row(self, name: str) -> MonitorRow:
        return self._store.get(name)


def tick_line(tick: TickRow, mosaic: str) -> TickLine:
    """A tick as it is shown."""
    seconds = (tick.ended - tick.began).total_seconds() if tick.ended is not None else None
    return TickLine(
        due=tick.due,
        stands_for=1 + tick.missed,
        state=tick.state,
        attempts=tick.attempts,
        began=tick.began,
        ended=tick.ended,
        seconds=None if seconds is None or seconds < 0 else seconds,
        run=tick.run or "",
        run_id=run_key(tick.run, mosaic) if tick.run else "",
        new_items=tick.new_items,
        changed_items=tick.changed_items,
        gone_items=tick.gone_items,
        set_aside=tick.set_aside,
        tiles=tick.tiles,
        alerts=tick.alerts,
        said=tick.said,
    )


def _line(row: MonitorRow, sums: Totals, now: datetime) -> MonitorLine:
    schedule, active = row.schedule, row.state == "active"
    known_until = max(row.created, sums.knew.due) if sums.knew is not None else row.created
    first = schedule.after(known_until)
    waits_since = first if active and first <= now else None
    coming = [now]
    while len(coming) < 5:
        coming.append(schedule.after(coming[-1]))
    interval_s = max((late - early).total_seconds() for early, late in pairwise(coming[1:]))
    last = tick_line(sums.last, row.mosaic) if sums.last is not None else None
    fields = json.loads(row.job)
    return MonitorLine(
        name=row.name,
        job=str(fields.get("name", row.name)),
        mosaic=row.mosaic,
        schedule=schedule.text,
        says=schedule.says,
        timezone=schedule.timezone,
        state=row.state,
        next_at=coming[1] if active else None,
        asked_at=row.asked,
        waits_since=waits_since,
        interval_s=interval_s,
        last=last,
        last_success_at=sums.knew.ended if sums.knew is not None else None,
        ticks=dict(sums.ticks),
        new_items=sums.counts.get("new_items"),
        changed_items=sums.counts.get("changed_items"),
        gone_items=sums.counts.get("gone_items"),
        set_aside=sums.counts.get("set_aside"),
        tiles=sums.counts.get("tiles"),
        alerts_waiting=sums.alerts_waiting,
        alerts_tried=sums.alerts_tried,
        alerts_given_up=sums.alerts_given_up,
        alerts_delivered=sums.alerts_delivered,
        trouble=trouble_of(
            last,
            next_try=sums.last.next_try if sums.last is not None else None,
            overdue=waits_since is not None and now - waits_since > timedelta(seconds=interval_s),
            waits_since=waits_since,
            alerts_tried=sums.alerts_tried,
            alerts_given_up=sums.alerts_given_up,
            alert_error=sums.alert_error,
        ),
    )


def _alert_lines(rows: list[AlertRow]) -> tuple[AlertLine, ...]:
    """Alerts, the last first, each with all the sinks it goes to."""
    by_key: dict[str, list[tuple[Alert, AlertRow]]] = defaultdict(list)
    for row in rows:
        if (held := _alert(row)) is not None:
            by_key[held.key].append((held, row))
    old = {sent[0][0].revises for sent in by_key.values()}
    return tuple(_alert_line(sent[0][0], [row for _, row in sent], revised=key in old) for key, sent in by_key.items())


def _alert_line(held: Alert, rows: list[AlertRow], *, revised: bool) -> AlertLine:
    return AlertLine(
        key=held.key,
        pictures=tuple(side for side in ("before", "after") if getattr(held.pictures, side)),
        rule=held.rule,
        place=held.place,
        prompt=held.prompt,
        change=held.change,
        time=held.time,
        before=held.before,
        area_m2=held.area_m2 if held.known else None,
        count=held.count if held.known else None,
        created=min(row.created for row in rows),
        revises=held.revises is not None,
        revised=revised,
        deliveries=tuple(sorted((_delivery(row) for row in rows if row.sink), key=lambda sent: sent.sink)),
    )


def _delivery(row: AlertRow) -> Delivery:
    given_up = row.delivered is None and row.attempts > 0 and row.next_try is None
    return Delivery(
        sink=row.sink,
        state="delivered" if row.delivered is not None else "given up" if given_up else "waiting",
        attempts=row.attempts,
        next_try=row.next_try,
        delivered=row.delivered,
        error=row.error,
    )


def _alert(row: AlertRow) -> Alert | None:
    """An alert as it was kept; None where another version of resmap wrote what this one does not know."""
    try:
        return Alert.of(row.body)
    except ValueError:
        return None


def _set_aside(ticks: list[TickRow]) -> tuple[SetAsideLine, ...]:
    """Of the latest ticks, each item once: a tick that finds it again says it again."""
    found: dict[tuple[str, str], SetAsideLine] = {}
    for tick in ticks:
        for entry in json.loads(tick.aside or "[]"):
            collection, item, kind, why = (str(part) for part in cast(list[Any], entry)[:4])
            line = SetAsideLine(due=tick.due, collection=collection, id=item, kind=kind, why=why)
            found.setdefault((collection, item), line)
    return tuple(found.values())[:ASIDE_SHOWN]


def read_changes(mosaic: str, *, last: int = STEPS_SHOWN) -> tuple[tuple[ChangeLine, ...], str]:
    """What changed in the latest steps, newest first, or why that cannot be said.

    The first step of all is left out: there is nothing that it could be compared with.
    """
    folder = Folder(changes_folder(mosaic)).child(POLYGONS)
    try:
        names = sorted(folder.names("*.parquet"), key=_step_of, reverse=True)
        steps = sorted({_step_of(name) for name in names}, reverse=True)[:-1][:last]
        return tuple(
            ChangeLine(
                time=datetime.strptime(step, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
                prompt=prompt,
                appeared=said.kinds["appeared"][0] if said.comparable else None,
                vanished=said.kinds["vanished"][0] if said.comparable else None,
                appeared_m2=said.kinds["appeared"][1] if said.comparable else None,
                vanished_m2=said.kinds["vanished"][1] if said.comparable else None,
            )
            for step in steps
            for prompt, said in _together([totals_of(folder, name) for name in names if _step_of(name) == step]).items()
        ), ""
    except (MapperError, OSError, ValueError) as error:
        return (), f"What changed cannot be read: {error.what if isinstance(error, MapperError) else error}"


def _together(zones: list[dict[str, PromptTotals]]) -> dict[str, PromptTotals]:
    """What all zones of a step say of each prompt."""
    found: dict[str, PromptTotals] = {}
    for zone in zones:
        for prompt, said in zone.items():
            before = found.get(prompt)
            if before is not None:
                kinds = {
                    kind: (before.kinds[kind][0] + places, before.kinds[kind][1] + area_m2)
                    for kind, (places, area_m2) in said.kinds.items()
                }
                said = PromptTotals(kinds=kinds, comparable=before.comparable or said.comparable)
            found[prompt] = said
    return found


def _step_of(name: str) -> str:
    return name.removesuffix(".parquet").rpartition("-")[2]


def _beside(folder: str, mosaic: str) -> bool:
    """Whether a folder is one of the changes of a mosaic: nothing else is shown, whatever an alert says."""
    home = changes_folder(mosaic)
    parts = folder.removeprefix(home).strip("/").split("/")
    return folder.startswith(f"{home}/") and ".." not in parts


def _png(folder: Folder, file: str) -> bytes:
    try:
        content = folder.read(file)
    except FileNotFoundError as error:
        raise QuestionError("the picture of this alert is gone", fix="it lies beside the mosaic no more") from error
    if not content.startswith(b"\x89PNG\r\n\x1a\n") or len(content) > LARGEST_PICTURE:
        raise QuestionError("the picture of this alert is none", fix="see what lies beside the mosaic")
    return content
