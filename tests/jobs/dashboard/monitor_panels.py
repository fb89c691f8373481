"""Monitors that are not there: every panel of two filled, hostile names in some."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import timedelta
from typing import Any

from PIL import Image, ImageDraw

from jobs.dashboard.monitor_views import (
    AlertLine,
    AlertState,
    ChangeLine,
    Delivery,
    MonitorLine,
    MonitorPage,
    SetAsideLine,
    TickLine,
    TickState,
)
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.panels import BEGAN, LIVE

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


def tick(days_ago: int, state: TickState = "nothing", **told: Any) -> TickLine:
    """A tick of some days ago; one that found news has mapped it in the run that is live."""
    due = BEGAN - days_ago * DAY
    ended = None if state == "running" else due + (312 if state == "done" else 4) * SECOND
    known = state in ("done", "nothing")
    values: dict[str, Any] = {
        "due": due, "stands_for": 1, "state": state, "attempts": 1, "began": due, "ended": ended,
        "seconds": (ended - due).total_seconds() if ended else None,
        "run": LIVE.run if state == "done" else "", "run_id": LIVE.id if state == "done" else "",
        "new_items": 0 if known else None, "changed_items": 0 if known else None,
        "gone_items": 0 if known else None, "set_aside": 0 if known else None,
        "tiles": 0 if known else None, "alerts": 0 if known else None, "said": "",
    }  # fmt: skip
    return TickLine(**(values | told))


TICKS = (
    tick(0, "running"),
    tick(1, "done", new_items=14, changed_items=3, tiles=212, alerts=2, set_aside=1,
         said="14 new items, 3 reprocessed; 212 tiles"),
    tick(2),
    tick(3, "failed", attempts=3, said="the catalog is down: connection refused; the next tick looks for all of it"),
    tick(4, "done", new_items=2, tiles=31, stands_for=3),
    tick(7),
    tick(8, "skipped", said="the last tick was still at work"),
    tick(9, "done", new_items=6, gone_items=1, tiles=96),
    *(tick(days, "done", new_items=4 + days % 5, tiles=40 + 13 * (days % 7)) for days in range(10, 20)),
)  # fmt: skip

NEPAL = MonitorLine(
    name="nepal", job="Kathmandu, buildings", mosaic="s3://maps/kathmandu.zarr", schedule="0 6 * * *",
    says="every day at 06:00, Asia/Kathmandu", timezone="Asia/Kathmandu", state="active", next_at=BEGAN + DAY,
    asked_at=None,     waits_since=BEGAN, interval_s=86400.0, last=TICKS[0], last_success_at=BEGAN - DAY + 312 * SECOND,
    ticks={"done": 13, "nothing": 2, "failed": 1, "skipped": 1}, new_items=98, changed_items=3, gone_items=1,
    set_aside=1, tiles=1_204, alerts_waiting=2, alerts_tried=1, alerts_given_up=0, alerts_delivered=3,
    trouble="1 alert was sent and not taken: hooks.example.com answered 503",
)  # fmt: skip
PAUSED = replace(
    NEPAL, name="lakes", job=HOSTILE[0], mosaic=f"/maps/{HOSTILE[2]}", schedule="every 6h", says="every 6 hours",
    timezone="UTC", state="paused", next_at=None, waits_since=None, last=None, last_success_at=None, ticks={},
    new_items=None, changed_items=None, gone_items=None, set_aside=None, tiles=None, alerts_waiting=0, alerts_tried=0,
    alerts_delivered=0, trouble=HOSTILE[0],
)  # fmt: skip


def sent(sink: str, state: AlertState = "delivered", *, attempts: int = 1, error: str = "") -> Delivery:
    done = state == "delivered"
    return Delivery(
        sink=sink, state=state, attempts=attempts, next_try=None if done else BEGAN + 300 * SECOND,
        delivered=BEGAN - DAY + 2 * SECOND if done else None, error=error,
    )  # fmt: skip


def alert(number: int = 0, **told: Any) -> AlertLine:
    values: dict[str, Any] = {
        "key": f"{number:016x}-{number:016x}", "pictures": ("before", "after"), "rule": "new houses",
        "place": "Ward 7", "prompt": "building", "change": "appeared", "time": BEGAN - DAY,
        "before": BEGAN - 6 * DAY, "area_m2": 41_230.0, "count": 37, "created": BEGAN - DAY,
        "revises": False, "revised": False, "deliveries": (sent("hook"),),
    }  # fmt: skip
    return AlertLine(**(values | told))


def monitor_page(line: MonitorLine = NEPAL, **told: Any) -> MonitorPage:
    """All panels; of the paused one nothing has come yet."""
    fresh = line.last is None
    values: dict[str, Any] = {
        "line": line, "prompts": (("building", "the buildings"), ("hostile", HOSTILE[3])),
        "catalog": "https://example.com/stac", "collections": ("naip",), "late": "30d", "overlapping": "queue",
        "hysteresis": 0.1, "min_area_m2": 25.0,
        "rules": () if fresh else ("new houses: building appeared, more than 1 ha, in 32 places, to hook",),
        "sinks": () if fresh else ("hook (webhook)",), "created": BEGAN - 20 * DAY,
        "watermark": None if fresh else BEGAN - DAY, "swept": None if fresh else BEGAN - 4 * DAY,
        "ticks": () if fresh else TICKS, "polygons": "" if fresh else "s3://maps/kathmandu.changes/polygons",
        "set_aside": () if fresh else (
            SetAsideLine(due=BEGAN - DAY, collection="naip", id="m_2708545_ne_45", kind="future",
                         why="it says it was taken on 2031-01-01, which is yet to come"),
            SetAsideLine(due=BEGAN - DAY, collection=HOSTILE[5], id=HOSTILE[1], kind="broken", why=HOSTILE[4]),
        ),
        "alerts": () if fresh else (
            alert(1, deliveries=(sent("hook", "waiting", attempts=4, error="hooks.example.com answered 503"),
                                 sent("file"), sent("archive", "waiting", attempts=0))),
            alert(2, change="vanished", area_m2=4_120.0, count=1, place=HOSTILE[0], deliveries=(sent(HOSTILE[2]),)),
            alert(3, pictures=(), before=None, place="", revised=True),
        ),
        "changes": () if fresh else tuple(
            ChangeLine(time=BEGAN - days * DAY, prompt=prompt, appeared=appeared, vanished=vanished,
                       appeared_m2=113.0 * appeared, vanished_m2=97.0 * vanished)
            for days, prompt, appeared, vanished in (
                (1, "building", 37, 4), (1, "hostile", 0, 0), (6, "building", 9, 1))
        ),
        "unread": "", "as_of": BEGAN + 212 * SECOND,
    }  # fmt: skip
    return MonitorPage(**(values | told))


def picture(side: str) -> bytes:
    """Fields, and a house more after than before."""
    drawn = Image.new("RGB", (256, 256), "#7c9160")
    pen = ImageDraw.Draw(drawn)
    for n in range(12):
        pen.line((0, 24 * n, 256, 24 * n - 60), fill="#6b8052", width=3)
    for n, (x, y) in enumerate(((40, 60), (150, 40), (90, 150), (180, 170))):
        if side == "after" or n < 2:
            pen.rectangle((x, y, x + 44, y + 34), fill="#c9b7a2", outline="#e69f00" if n > 1 else None, width=3)
    kept = io.BytesIO()
    drawn.save(kept, "PNG")
    return kept.getvalue()
