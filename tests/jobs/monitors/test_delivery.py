"""The outbox: at least once, later and later, for three days; and no sink waits for another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest

from jobs.monitors.alert import Alert
from jobs.monitors.delivery import FIRST_WAIT_S, LONGEST_WAIT_S, PATIENCE, deliver, rows_of, sinks_of_jobs, wait_after
from jobs.monitors.rows import AlertRow
from jobs.monitors.store import Monitors
from jobs.registry import Registry
from jobs.spec import JobSpec, spec_from
from tests.jobs.monitors.receiver import KEY, NOW, Posted, Receiver, an_alert, receiver

OTHER = "1111111111111111-2222222222222222"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Monitors]:
    registry = Registry(f"sqlite:///{tmp_path}/registry.sqlite")
    yield Monitors(registry)
    registry.close()


@pytest.fixture
def heard() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def job(*sinks: dict[str, Any], named: tuple[str, ...] = ()) -> JobSpec:
    return spec_from(
        {
            "name": "lakes",
            "area": {"bbox": [12, 55, 12.1, 55.1]},
            "imagery": {"catalog": "https://example.com/stac", "time_step": "day"},
            "prompts": [{"name": "lake", "expression": "the lakes"}],
            "output": {"mosaic": "/data/lakes.zarr"},
            "monitor": {
                "schedule": "every 1d",
                "sinks": list(sinks),
                "alerts": [{"name": "shore", "prompt": "lake", "change": "appeared", "count": 0, "sinks": list(named)}],
            },
        }
    )


def hook(heard: Receiver, name: str = "hook") -> dict[str, Any]:
    return {"name": name, "webhook": f"{heard.url}/{name}"}


def send(store: Monitors, spec: JobSpec, *alerts: Alert, now: datetime = NOW) -> int:
    """Enter alerts, and deliver what is due."""
    assert spec.monitor is not None
    store.enqueue(rows_of(alerts, spec.monitor, now=now))
    return deliver(store, sinks_of_jobs({"lakes": spec}), now)


def row(store: Monitors, sink: str = "hook") -> AlertRow:
    (found,) = (one for one in store.alerts("lakes") if one.sink == sink)
    return found


# What is sent to whom -------------------------------------------------------------------------------------------------


def test_an_alert_goes_to_the_sinks_of_its_rule_and_to_all_where_it_names_none(
    store: Monitors, heard: Receiver
) -> None:
    sinks = [hook(heard, name) for name in ("one", "two", "three")]
    assert send(store, job(*sinks, named=("one", "three")), an_alert()) == 2
    assert sorted(posted.path for posted in heard.posted) == ["/one", "/three"]
    assert send(store, job(*sinks), an_alert(key=OTHER)) == 3
    assert all(one.delivered and not one.error for one in store.alerts("lakes"))


def test_an_alert_that_is_entered_twice_is_sent_once(store: Monitors, heard: Receiver) -> None:
    spec = job(hook(heard))
    assert [send(store, spec, an_alert()) for _ in range(3)] == [1, 0, 0]
    assert len(heard.posted) == 1


def test_an_alert_of_a_monitor_without_sinks_is_known_and_waits_for_nobody(store: Monitors) -> None:
    assert send(store, job(), an_alert()) == 0
    assert [key[:33] for key in store.alert_keys(KEY[:17])] == [KEY]
    assert store.waiting(NOW + timedelta(days=1)) == []


def test_what_was_told_is_known_by_the_first_half_of_its_key(store: Monitors, heard: Receiver) -> None:
    spec = job(hook(heard))
    later = KEY[:17] + OTHER[17:]
    send(store, spec, an_alert(), an_alert(key=OTHER))
    send(store, spec, an_alert(key=later), now=NOW + timedelta(hours=1))
    assert [key[:33] for key in store.alert_keys(KEY[:17])] == [KEY, later]
    assert store.alert_keys("%") == []


def test_what_is_sent_is_what_was_entered_byte_for_byte(store: Monitors, heard: Receiver) -> None:
    alert = an_alert(place="Straße <b>“é”\N{WATER WAVE}", area_m2=1700.123456789)
    send(store, job(hook(heard)), alert)
    assert heard.posted[0].body.decode() == alert.body() == row(store).body


# Later and later ------------------------------------------------------------------------------------------------------


def test_the_wait_doubles_up_to_six_hours() -> None:
    waits = [wait_after(attempts, None).total_seconds() for attempts in range(1, 15)]
    assert waits[:4] == [30, 60, 120, 240]
    assert all(later == min(2 * earlier, 21600) for earlier, later in itertools.pairwise(waits))
    assert waits[-1] == LONGEST_WAIT_S == 21600
    assert wait_after(10_000, None).total_seconds() == LONGEST_WAIT_S


@pytest.mark.parametrize(("asked_s", "waits"), [(1.0, 30.0), (3600.0, 3600.0), (1e9, 21600.0), (0.0, 30.0)])
def test_a_wait_that_is_asked_for_is_given_within_bounds(asked_s: float, waits: float) -> None:
    assert wait_after(1, asked_s).total_seconds() == waits


def test_what_nobody_takes_is_tried_again_when_its_time_has_come(store: Monitors, heard: Receiver) -> None:
    heard.answer = lambda posted: (500, {}, b"not today")
    spec = job(hook(heard))
    assert send(store, spec, an_alert()) == 0
    failed = row(store)
    assert (failed.attempts, failed.next_try) == (1, NOW + timedelta(seconds=FIRST_WAIT_S))
    assert "not today" in failed.error
    assert send(store, spec, now=NOW + timedelta(seconds=29)) == 0
    assert len(heard.posted) == 1
    heard.answer = lambda posted: (200, {}, b"")
    assert send(store, spec, now=NOW + timedelta(seconds=30)) == 1
    assert [posted.headers["webhook-id"] for posted in heard.posted] == [KEY, KEY]
    assert row(store).delivered is not None
    assert row(store).error == ""


def test_a_receiver_that_names_a_wait_is_given_it(store: Monitors, heard: Receiver) -> None:
    heard.answer = lambda posted: (429, {"Retry-After": "7200"}, b"")
    send(store, job(hook(heard)), an_alert())
    assert row(store).next_try == NOW + timedelta(hours=2)


def test_after_three_days_it_is_given_up_and_says_so(store: Monitors, heard: Receiver) -> None:
    heard.answer = lambda posted: (503, {}, b"")
    spec, now = job(hook(heard)), NOW
    send(store, spec, an_alert())
    while (next_try := row(store).next_try) is not None:
        now = next_try
        assert now - NOW <= PATIENCE
        send(store, spec, now=now)
    assert now - NOW > PATIENCE - timedelta(seconds=LONGEST_WAIT_S)
    last = row(store)
    assert last.error.startswith(f"given up after {len(heard.posted)} attempts in 3 days")
    assert "503" in last.error
    assert last.delivered is None
    assert store.waiting(now + timedelta(days=30)) == []


def test_gone_is_given_up_at_once_with_all_that_waits_for_it(store: Monitors, heard: Receiver) -> None:
    heard.answer = lambda posted: (410, {}, b"")
    send(store, job(hook(heard)), an_alert(), an_alert(key=OTHER))
    assert len(heard.posted) == 1
    for found in store.alerts("lakes"):
        assert found.error.startswith("given up: ")
        assert found.next_try is None
    assert store.waiting(NOW + timedelta(days=30)) == []


# One bad sink ---------------------------------------------------------------------------------------------------------


def test_a_sink_that_hangs_holds_up_no_other(
    store: Monitors, heard: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def hang(posted: Posted) -> tuple[int, dict[str, str], bytes]:
        if posted.path == "/a-slow":
            heard.let_go.wait(5)  # until the other has answered
        else:
            heard.let_go.set()
        order.append(posted.path)
        return 204, {}, b""

    heard.answer = hang
    spec = job(hook(heard, "a-slow"), {"name": "rows", "file": str(tmp_path / "rows.parquet")}, hook(heard, "z-quick"))
    assert send(store, spec, an_alert()) == 3
    assert order == ["/z-quick", "/a-slow"]
    assert len(gpd.read_parquet(tmp_path / "rows.parquet")) == 2


def test_sinks_that_cannot_be_harm_nobody_but_themselves(store: Monitors, heard: Receiver, tmp_path: Path) -> None:
    bad: list[dict[str, Any]] = [
        {"name": "private", "webhook": "https://10.0.0.1/"},
        {"name": "plain", "webhook": "http://example.com/"},
        {"name": "nowhere", "file": "/proc/alerts.parquet"},
        {"name": "odd", "email": ["a@example.org"], "smtp": "gopher://mail", "sender": "b@example.org"},
    ]
    assert send(store, job(*bad, hook(heard)), an_alert()) == 1
    assert row(store).delivered is not None
    for sink in ("private", "plain", "nowhere", "odd"):
        assert row(store, sink).error
        assert row(store, sink).next_try is not None


def test_a_sink_that_fails_is_left_in_peace_for_the_rest_of_the_round(store: Monitors, heard: Receiver) -> None:
    heard.answer = lambda posted: (500, {}, b"")
    send(store, job(hook(heard)), an_alert(), an_alert(key=OTHER))
    assert len(heard.posted) == 1
    assert sorted(found.attempts for found in store.alerts("lakes")) == [0, 1]


def test_a_body_that_is_none_and_a_sink_that_is_gone_are_failures_like_others(store: Monitors, heard: Receiver) -> None:
    rows = [
        AlertRow(key="a", monitor="lakes", due=NOW, sink="hook", body="{}", created=NOW),
        AlertRow(key="b", monitor="lakes", due=NOW, sink="taken out", body=an_alert().body(), created=NOW),
        AlertRow(key="c", monitor="removed", due=NOW, sink="hook", body=an_alert().body(), created=NOW),
    ]
    store.enqueue(rows)
    assert deliver(store, sinks_of_jobs({"lakes": job(hook(heard))}), NOW) == 0
    assert "taken out" in row(store, "taken out").error
    assert store.waiting(NOW) == []


# At least once --------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As a process that dies does: nothing catches it."""


class _DiesBeforeItRecords(Monitors):
    def delivered(self, key: str, *, now: datetime | None = None) -> None:
        raise Killed


def test_who_dies_before_it_is_recorded_sends_it_again_with_the_same_key(tmp_path: Path, heard: Receiver) -> None:
    spec = job(hook(heard), {"name": "rows", "file": str(tmp_path / "rows.parquet")})
    registry = Registry(f"sqlite:///{tmp_path}/registry.sqlite")
    with pytest.raises(Killed):
        send(_DiesBeforeItRecords(registry), spec, an_alert())
    registry.close()
    registry = Registry(f"sqlite:///{tmp_path}/registry.sqlite")
    store = Monitors(registry)
    assert send(store, spec) == 2
    assert [posted.headers["webhook-id"] for posted in heard.posted] == [KEY, KEY]
    assert len({posted.body for posted in heard.posted}) == 1
    assert len(gpd.read_parquet(tmp_path / "rows.parquet")) == 2
    registry.close()


# Secrets --------------------------------------------------------------------------------------------------------------


def test_no_secret_is_kept(
    store: Monitors, heard: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOOK_SECRET", "c4n4ry-of-the-hook")
    monkeypatch.setenv("RESMAP_SMTP_USER", "maps")
    monkeypatch.setenv("RESMAP_SMTP_PASSWORD", "c4n4ry-of-the-mail")
    monkeypatch.setenv("RESMAP_SMTP_SERVER", "127.0.0.1")
    heard.answer = lambda posted: (500, {}, b"")
    mail = {"name": "mail", "email": ["a@example.org"], "smtp": "smtp://127.0.0.1:9", "sender": "b@example.org"}
    send(store, job(hook(heard) | {"secret": "HOOK_SECRET"}, mail), an_alert())
    assert heard.posted[0].headers["webhook-signature"].startswith("v1,")
    kept = json.dumps([found.error + found.body for found in store.alerts("lakes")])
    assert "c4n4ry" not in kept + caplog.text
    assert all(b"c4n4ry" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert row(store, "mail").error


def test_times_are_aware_and_utc(store: Monitors, heard: Receiver) -> None:
    send(store, job(hook(heard)), an_alert())
    body = json.loads(heard.posted[0].body)
    for name in ("time", "before", "due"):
        assert datetime.fromisoformat(body[name]).utcoffset() == timedelta(0)
    assert datetime.fromisoformat(body["time"]) == datetime(2020, 8, 31, tzinfo=UTC)
