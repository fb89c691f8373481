"""Monitors on the dashboard: what the registry holds is what pages, API and metrics tell; who may steer them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from jobs.dashboard.app import app
from jobs.dashboard.charts import ticks as drawn
from jobs.dashboard.keys import Access
from jobs.dashboard.monitor_book import MonitorBook
from jobs.dashboard.monitor_views import ChangeLine
from jobs.dashboard.prometheus import Exporter
from jobs.dashboard.queries import Queries
from jobs.executor import Executor
from jobs.job import Job
from jobs.monitor_tables import changes_table
from jobs.monitors.delivery import rows_of
from jobs.monitors.loop import Scheduler
from jobs.monitors.rows import TickEnd
from jobs.monitors.store import Monitors
from jobs.registry import Registry
from jobs.spec import canonical
from mapper.changes.raster import changes_folder
from mapper.errors import QuestionError
from tests.jobs.dashboard import monitor_panels
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.monitor_panels import NEPAL, monitor_page, tick
from tests.jobs.dashboard.running import BEARER, BROWSER, TOKEN, Asked
from tests.jobs.monitors.receiver import an_alert

BEGIN = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)
PNG = monitor_panels.picture("before")
OURS = BROWSER | BEARER | {"Origin": "http://127.0.0.1:8765", "Sec-Fetch-Site": "same-origin"}


@dataclass
class Kept:
    """A registry with monitors in it, and a clock."""

    folder: Path
    now: datetime = BEGIN
    registry: Registry = field(init=False)

    def __post_init__(self) -> None:
        self.registry = Registry(f"sqlite:///{self.folder}/registry.db")
        self.store = Monitors(self.registry)
        self.queries = Queries(self.registry, clock=lambda: self.now.timestamp())
        self.book = MonitorBook(self.registry, clock=lambda: self.now)

    def add(self, name: str = "lakes", **section: Any) -> Job:
        monitor = {"schedule": "0 6 * * *", "timezone": "Europe/Paris"} | section
        job = Job.from_dict(
            {
                "name": name, "area": {"bbox": [12, 55, 13, 56]}, "output": {"mosaic": f"{self.folder}/{name}.zarr"},
                "imagery": {"catalog": "https://example.com/stac", "collections": ["naip"], "time_step": "day"},
                "grid": {"crs": "utm", "resolution_m": 10},
                "prompts": [{"name": "lake", "expression": "the lakes"}], "monitor": monitor,
            }
        )  # fmt: skip
        self.store.add(name, job=json.dumps(canonical(job.spec)), mosaic=job.spec.output.mosaic, now=self.now)
        return job

    def tick(self, end: TickEnd, name: str = "lakes") -> None:
        """The one that is due now is run."""
        (ticked,) = Scheduler(
            self.store, lambda row, due, holder: end, clock=Stands(self), begin=lambda act: Over(act())
        ).once(name)
        assert ticked.state == end.state

    def metric(self, name: str, **labels: str) -> list[float]:
        text, _ = Exporter(self.queries).answer(now=self.now)
        return [
            sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]


@dataclass
class Stands:
    """A clock that goes on when the test says so."""

    kept: Kept

    def now(self) -> datetime:
        return self.kept.now

    def monotonic(self) -> float:
        return self.kept.now.timestamp()

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        """No time passes."""


@dataclass
class Over:
    """Work that is over when it begins."""

    ended: object

    def result(self) -> object:
        return self.ended


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.registry.close()


def news(**told: Any) -> TickEnd:
    counts = {"new_items": 2, "changed_items": 1, "gone_items": 0, "set_aside": 0, "tiles": 7, "alerts": 0}
    return TickEnd(state="done", run="lakes-20261121T050000Z-0123456789", **(counts | told))


NOTHING = TickEnd(state="nothing", new_items=0, changed_items=0, gone_items=0, set_aside=0, tiles=0, alerts=0)
AWAY = TickEnd(state="failed", said="the catalog is down: connection refused", retryable=True)

# What is told of them ------------------------------------------------------------------------------------------------


def test_what_no_tick_has_counted_is_unknown_and_no_zero(kept: Kept) -> None:
    kept.add()
    (line,) = kept.queries.monitors()
    assert (line.new_items, line.tiles, line.last, line.last_success_at) == (None, None, None, None)
    assert line.next_at == datetime(2026, 11, 21, 5, tzinfo=UTC)
    assert (line.says, line.interval_s, line.waits_since) == ("every day at 06:00, Europe/Paris", 86400.0, None)


def test_a_line_adds_up_all_ticks_and_knows_the_last(kept: Kept) -> None:
    kept.add()
    for end in (news(), NOTHING, news(tiles=3, set_aside=1), AWAY):
        kept.now += DAY
        kept.tick(end)
    (line,) = kept.queries.monitors()
    assert (line.new_items, line.changed_items, line.set_aside, line.tiles) == (4, 2, 1, 10)
    assert dict(line.ticks) == {"done": 2, "nothing": 1, "failed": 1}
    assert line.last is not None
    assert (line.last.state, line.last.due) == ("failed", datetime(2026, 11, 24, 5, tzinfo=UTC))
    assert line.last_success_at == kept.now - DAY
    page = kept.queries.monitor("lakes")
    assert [one.state for one in page.ticks] == ["failed", "done", "nothing", "done"]
    assert page.ticks[1].run_id.startswith(f"{page.ticks[1].run}-")


def test_trouble_is_a_sentence_and_goes_when_it_is_over(kept: Kept) -> None:
    kept.add()
    kept.now += DAY
    kept.tick(AWAY)
    (line,) = kept.queries.monitors()
    assert line.trouble.startswith(
        "The last look failed: the catalog is down: connection refused; it is tried again at"
    )
    kept.now += DAY
    kept.tick(NOTHING)
    (line,) = kept.queries.monitors()
    assert line.trouble == ""
    kept.now += 3 * DAY
    (line,) = kept.queries.monitors()
    assert line.waits_since == datetime(2026, 11, 23, 5, tzinfo=UTC)
    assert "nobody did: start `resmap monitor serve`" in line.trouble
    kept.store.pause("lakes")
    (line,) = kept.queries.monitors()
    assert (line.trouble, line.waits_since, line.next_at) == ("", None, None)


def test_items_that_were_set_aside_are_named_with_the_reason_each_once(kept: Kept) -> None:
    kept.add()
    aside = json.dumps([["naip", "m_1", "future", "taken on 2031-01-01"], ["naip", HOSTILE[0], "broken", "no bbox"]])
    for _ in range(2):
        kept.now += DAY
        kept.tick(news(set_aside=2, aside=aside))
    page = kept.queries.monitor("lakes")
    assert [(item.id, item.kind, item.why) for item in page.set_aside] == [
        ("m_1", "future", "taken on 2031-01-01"), (HOSTILE[0], "broken", "no bbox")]  # fmt: skip


def test_an_alert_is_told_once_with_all_its_sinks_and_its_pictures_are_of_this_mosaic_alone(kept: Kept) -> None:
    rule = {"name": "shore", "prompt": "lake", "change": "appeared", "area_m2": 1000}
    sinks = [{"name": "hook", "webhook": "https://example.com/x"}, {"name": "kept", "file": "/alerts.parquet"}]
    job = kept.add(alerts=[rule], sinks=sinks)
    here = Path(changes_folder(job.spec.output.mosaic)) / "alerts" / "a"
    here.mkdir(parents=True)
    for path in (here / "before.png", kept.folder / "after.png"):
        path.write_bytes(PNG)
    one = an_alert(pictures={"before": f"{here}/before.png", "after": f"{here}/../../../after.png"})
    assert job.spec.monitor is not None
    rows = rows_of([one], job.spec.monitor, now=kept.now)
    assert kept.store.enqueue(rows) == 2
    (told,) = kept.queries.monitor("lakes").alerts
    assert [(sent.sink, sent.state) for sent in told.deliveries] == [("hook", "waiting"), ("kept", "waiting")]
    assert (told.place, told.area_m2, told.count) == ("Long Lake", 1700.0, 2)
    later = one.model_copy(update={"key": f"{one.key[:-1]}1", "revises": one.key})
    kept.store.enqueue(rows_of([later], job.spec.monitor, now=kept.now + DAY))
    said = kept.queries.monitor("lakes").alerts
    assert [(alert.revises, alert.revised) for alert in said] == [(True, False), (False, True)]
    assert kept.queries.alert_picture("lakes", told.key, "before") == PNG
    for alert, side in ((told.key, "after"), ("another", "before")):
        with pytest.raises(QuestionError, match="no such picture"):
            kept.queries.alert_picture("lakes", alert, side)


def test_a_rule_is_a_sentence_and_an_address_of_a_sink_is_not_told(kept: Kept) -> None:
    rule = {"name": "shore", "prompt": "lake", "change": "vanished", "count": 3}
    kept.add(alerts=[rule], sinks=[{"name": "hook", "webhook": "https://example.com/T0KEN"}])
    page = kept.queries.monitor("lakes")
    assert page.rules == ("shore: lake vanished, more than 3 places, in the whole area, to all sinks",)
    assert page.sinks == ("hook (webhook)",)
    assert "T0KEN" not in repr(page)


def test_a_monitor_that_is_not_there_is_a_sentence(kept: Kept) -> None:
    with pytest.raises(QuestionError, match="no monitor is named 'lakes'"):
        kept.queries.monitor("lakes")


# Metrics -------------------------------------------------------------------------------------------------------------


def test_metrics_tell_what_the_page_tells_and_how_far_behind_it_is(kept: Kept) -> None:
    kept.add()
    assert kept.metric("resmap_monitor_active", monitor="lakes") == [1]
    assert kept.metric("resmap_monitor_lag_seconds", monitor="lakes") == [0]
    assert kept.metric("resmap_monitor_last_success_timestamp_seconds") == []
    assert kept.metric("resmap_monitor_tiles_total") == []
    kept.now += DAY
    kept.tick(news())
    assert kept.metric("resmap_monitor_last_success_timestamp_seconds") == [kept.now.timestamp()]
    assert kept.metric("resmap_monitor_items_total", kind="new") == [2]
    assert kept.metric("resmap_monitor_ticks_total", state="done") == [1]
    assert kept.metric("resmap_monitor_interval_seconds") == [86400]
    kept.now += DAY
    kept.tick(AWAY)
    assert kept.metric("resmap_monitor_lag_seconds") == [7 * 3600]
    kept.store.pause("lakes")
    assert kept.metric("resmap_monitor_active") == [0]
    assert kept.metric("resmap_monitor_lag_seconds") == [0]


def test_no_counter_falls_when_ticks_of_long_ago_are_forgotten(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.monitors.accounts.KEPT_EMPTY", 2)
    monkeypatch.setattr("jobs.monitors.accounts.KEPT_RUNS", 1)
    kept.add()
    said = []
    for end in (NOTHING, news(tiles=5), NOTHING, news(tiles=3), NOTHING, NOTHING, NOTHING):
        kept.now += DAY
        kept.tick(end)
        said.append([
            sum(kept.metric("resmap_monitor_ticks_total", state=state)) for state in ("nothing", "done")
        ] + kept.metric("resmap_monitor_tiles_total"))  # fmt: skip
    assert len(kept.store.history("lakes", last=100)) == 3
    assert said == [[1, 0, 0], [1, 1, 5], [2, 1, 5], [2, 2, 8], [3, 2, 8], [4, 2, 8], [5, 2, 8]]


# Steering ------------------------------------------------------------------------------------------------------------


def test_buttons_and_api_steer_a_monitor_and_each_act_is_in_the_audit(kept: Kept) -> None:
    kept.add()
    pages = app(kept.queries, Executor(kept.registry, folder=kept.folder / "jobs"), access=Access(token=TOKEN))
    client = TestClient(pages, base_url="http://127.0.0.1:8765", follow_redirects=False)
    done = client.post("/monitors/lakes/pause", headers=OURS, data={})
    assert (done.status_code, done.headers["location"]) == (303, "/monitors/lakes")
    assert kept.store.get("lakes").state == "paused"
    refused = client.post("/api/v1/monitors/lakes/run", headers=BEARER, json={})
    assert (refused.status_code, refused.json()["error"]) == (409, "this monitor is paused")
    assert client.post("/api/v1/monitors/lakes/resume", headers=BEARER, json={}).json() == {
        "name": "lakes", "state": "active"}  # fmt: skip
    assert client.post("/monitors/lakes/run", headers=OURS, data={}).status_code == 303
    assert kept.store.get("lakes").asked is not None
    assert [(row.act, row.key, row.outcome) for row in kept.registry.audit()] == [
        ("look now", "monitor lakes", "asked"), ("resume", "monitor lakes", "active"),
        ("pause", "monitor lakes", "paused")]  # fmt: skip
    assert client.post("/api/v1/monitors/nobody/pause", headers=BEARER, json={}).status_code == 404


@pytest.mark.parametrize("act", ["pause", "resume", "run"])
def test_nobody_steers_a_monitor_without_the_token_from_another_site_or_where_it_is_read_only(act: str) -> None:
    with Asked(Access(token=TOKEN, loopback=False)) as asked:
        assert asked.client.post(f"/api/v1/monitors/nepal/{act}", json={}).status_code == 401
        elsewhere = OURS | {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
        assert asked.client.post(f"/monitors/nepal/{act}", headers=elsewhere, data={}).status_code == 403
        assert asked.control.asked == []
    with Asked(Access(token=TOKEN, readonly=True)) as asked:
        assert asked.client.post(f"/monitors/nepal/{act}", headers=OURS, data={}).status_code == 403
        assert asked.control.asked == []
        assert "Look now" not in asked.client.get("/monitors/nepal", headers=BROWSER).text


def test_a_picture_is_one_and_is_sent_once(kept: Kept) -> None:
    with Asked(Access(token=TOKEN)) as asked:
        (first, *_) = monitor_page().alerts
        address = f"/api/v1/monitors/nepal/alerts/{first.key}/after.png"
        shown = asked.client.get(address)
        assert (shown.headers["content-type"], shown.content[:4]) == ("image/png", b"\x89PNG")
        again = asked.client.get(address, headers={"If-None-Match": shown.headers["etag"]})
        assert again.status_code == 304
        assert asked.client.get(address.replace("after.png", "beside.png")).status_code == 422


# What is drawn -------------------------------------------------------------------------------------------------------


def test_the_chart_has_a_bar_for_what_is_known_and_says_in_words_what_it_shows() -> None:
    few = (tick(0, "failed"), tick(1, "done", tiles=40, new_items=3, changed_items=1), tick(2))
    picture = str(drawn(few, "UTC"))
    assert picture.count("<rect") == 3
    assert "3 ticks since" in picture
    assert "1 mapped, 1 no news, 1 failed; 40 tiles mapped" in picture
    assert "no tick yet" in str(drawn((), "UTC"))


def test_where_nothing_can_be_compared_the_page_and_the_table_say_unknown_and_no_zero(kept: Kept) -> None:
    blind = ChangeLine(time=BEGIN, prompt="lake", appeared=None, vanished=None, appeared_m2=None, vanished_m2=None)
    with Asked(Access(token=TOKEN)) as asked:
        asked.queries.monitored = {"nepal": replace(monitor_page(), changes=(blind,), alerts=())}
        shown = asked.client.get("/monitors/nepal", headers=BROWSER | BEARER).text
    assert shown.count("nothing to compare") == 2
    assert "0 m²" not in shown.replace("\u00a0", " ")
    cells = [list(column.cells) for column in changes_table([blind]).columns]
    assert cells == [["2026-11-20"], ["lake"], ["unknown"], ["–"], ["unknown"], ["–"]]


def test_an_alert_that_is_taken_back_by_a_gap_is_unknown_and_no_zero(kept: Kept) -> None:
    rule = {"name": "shore", "prompt": "lake", "change": "appeared", "area_m2": 1000}
    job = kept.add(alerts=[rule], sinks=[])
    assert job.spec.monitor is not None
    back = an_alert(area_m2=0.0, count=0, over_threshold=False, comparable_share=0.0, polygons={"features": ()})
    kept.store.enqueue(rows_of([back], job.spec.monitor, now=kept.now))
    (told,) = kept.queries.monitor("lakes").alerts
    assert (told.area_m2, told.count) == (None, None)
    assert "unknown now" in back.headline
    seen = back.model_copy(update={"comparable_share": 0.5, "revises": back.key})
    assert "no longer over the threshold" in seen.headline


def test_strangers_words_are_text_wherever_a_monitor_can_say_them() -> None:
    page = monitor_page()
    found = []
    for words in ([f"word {n}" for n in range(len(HOSTILE))], list(HOSTILE)):
        said = iter(words * 20)
        filled = replace(
            page,
            line=replace(NEPAL, says=next(said), mosaic=next(said), trouble=next(said), job=next(said)),
            prompts=tuple((next(said), next(said)) for _ in page.prompts),
            rules=(next(said),), catalog=next(said), late=next(said), unread="",
            ticks=tuple(replace(one, said=next(said)) for one in page.ticks),
            set_aside=tuple(replace(page.set_aside[0], id=next(said), collection=next(said), why=next(said))
                            for _ in range(40)),
            alerts=tuple(
                replace(one, rule=next(said), place=next(said), prompt=next(said),
                        deliveries=tuple(replace(sent, sink=next(said), error=next(said)) for sent in one.deliveries))
                for one in page.alerts),
            changes=tuple(replace(one, prompt=next(said)) for one in page.changes),
        )  # fmt: skip
        with Asked(Access(token=TOKEN)) as asked:
            asked.queries.monitored = {"nepal": filled}
            shown = asked.client.get("/monitors/nepal", headers=BROWSER).text
            listed = asked.client.get("/monitors", headers=BROWSER).text
        found.append((shown.count("<"), listed.count("<"), shown.count("<script")))
    assert found[0] == found[1]
