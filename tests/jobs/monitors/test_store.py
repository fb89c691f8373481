"""What a registry keeps of monitors: each tick once, whoever asks, whatever their clocks say."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs.monitors import accounts
from jobs.monitors.beats import Beat, Watch
from jobs.monitors.schedule import Due
from jobs.monitors.store import AlertRow, Monitors, TickEnd, TickRow
from jobs.registry import Registry
from mapper.errors import BusyError, QuestionError, SpecError
from tests.jobs.monitors.registries import HOUR, NOON, NOTHING, added, due, job, new_registry, run_through
from tests.jobs.postgres import postgres

YEAR = timedelta(days=365)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL with a registry that has nothing in it, to be copied."""
    with postgres() as url:
        execute(url, "CREATE DATABASE new")
        Registry(url.removesuffix("postgres") + "new").close()
        yield url


def execute(url: str, statement: str) -> None:
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        (tmp_path / "registry.db").write_bytes(new_registry())
        return f"sqlite:///{tmp_path}/registry.db"
    address: str = request.getfixturevalue("server")
    name = f"t{uuid.uuid4().hex}"
    execute(address, f"CREATE DATABASE {name} TEMPLATE new")
    return address.removesuffix("postgres") + name


@pytest.fixture
def store(url: str) -> Iterator[Monitors]:
    with closing(Registry(url)) as registry:
        yield Monitors(registry)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Monitors]:
    """Where the kind of registry makes no difference."""
    (tmp_path / "registry.db").write_bytes(new_registry())
    with closing(Registry(f"sqlite:///{tmp_path}/registry.db")) as registry:
        yield Monitors(registry)


def accounted(store: Monitors) -> list[tuple[float, float, int, str]]:
    """Of each tick: the hours after noon from the first instant it stands for to its own, missed ones, its state."""
    return sorted(
        ((tick.first - NOON) / HOUR, (tick.due - NOON) / HOUR, tick.missed, tick.state)
        for tick in store.history("lakes", last=1000)
    )


# Monitors -------------------------------------------------------------------------------------------------------------


def test_a_monitor_is_kept_as_it_was_added(store: Monitors) -> None:
    added(store)
    (row,) = store.all()
    assert row == store.get("lakes")
    assert (row.name, row.state, row.created, row.watermark, row.swept) == ("lakes", "active", NOON, None, None)
    assert (row.schedule.says, row.overlapping, row.mosaic) == ("every hour", "queue", "/maps/lakes.zarr")
    assert store.pause("lakes").state == "paused"
    assert store.resume("lakes").state == "active"
    store.saw("lakes", NOON + HOUR, None)
    assert (store.get("lakes").watermark, store.get("lakes").swept) == (NOON + HOUR, None)


@pytest.mark.parametrize(
    ("name", "mosaic", "what"),
    [
        ("lakes", "/maps/other.zarr", "there is a monitor 'lakes' already"),
        ("rivers", "/maps/lakes.zarr", "monitor 'lakes' already keeps this mosaic current"),
        ("rivers", "file:///maps/../maps/lakes.zarr/", "monitor 'lakes' already keeps this mosaic current"),
        ("a\nb", "/maps/other.zarr", "one line"),
        ("", "/maps/other.zarr", "one line"),
    ],
)
def test_two_monitors_of_one_name_or_mosaic_are_refused(file: Monitors, name: str, mosaic: str, what: str) -> None:
    added(file)
    with pytest.raises(SpecError) as refused:
        file.add(name, job=job(), mosaic=mosaic)
    assert what in refused.value.what
    assert refused.value.fix
    assert len(file.all()) == 1


def test_two_who_add_monitors_of_one_mosaic_at_once_add_one(url: str) -> None:
    registries = [Registry(url) for _ in range(2)]

    def add(n: int) -> bool:
        try:
            Monitors(registries[n % 2]).add(f"m{n}", job=job(), mosaic="s3://maps/lakes.zarr")
        except SpecError:
            return False
        return True

    with ThreadPoolExecutor(6) as hands:
        assert list(hands.map(add, range(6))).count(True) == 1
    for registry in registries:
        registry.close()


def test_a_schedule_that_never_comes_is_refused_before_anything_is_kept(file: Monitors) -> None:
    with pytest.raises(SpecError, match="never comes"):
        file.add("lakes", job=job("0 0 30 2 *"), mosaic="/m.zarr")
    assert file.all() == []


def test_a_name_that_nobody_has_is_a_sentence(file: Monitors) -> None:
    for ask in (file.get, file.pause, file.resume, file.remove, file.history, file.export, file.ask, file.ask_stop):
        with pytest.raises(QuestionError, match="no monitor is named 'rivers'"):
            ask("rivers")
    assert file.find("rivers") is None


def test_what_is_removed_is_forgotten_and_its_name_and_mosaic_are_free(store: Monitors) -> None:
    added(store)
    run_through(store, 1)
    assert store.remove("lakes") is False
    assert store.all() == []
    added(store)
    assert store.history("lakes") == []


def test_removing_asks_the_tick_at_work_to_stop_and_what_comes_of_it_is_forgotten(store: Monitors) -> None:
    added(store)
    claimed = store.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    assert store.remove("lakes") is True
    assert store.beat(claimed.tick).stop_asked is not None
    added(store)  # of the same name, and it has nothing to do with the one before
    assert store.claim("lakes", due(1), "b", now=NOON + HOUR) is not None
    assert store.finish(claimed.tick, TickEnd(state="stopped")) is None
    assert [tick.holder for tick in store.history("lakes")] == ["b"]


def test_the_tick_of_a_removed_monitor_whose_holder_is_gone_is_buried(file: Monitors) -> None:
    added(file)
    claimed = file.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    file.remove("lakes")
    ((tick,),) = file.standing(NOON)[1:]
    file.bury(tick, Beat("a", tick.beat - 1))
    assert file.standing(NOON)[1] == [tick]
    file.bury(tick, Beat("a", tick.beat))
    assert file.standing(NOON)[1] == []


# Ticks ----------------------------------------------------------------------------------------------------------------


def test_of_many_who_ask_for_a_tick_one_has_it(url: str) -> None:
    registries = [Registry(url) for _ in range(3)]
    added(Monitors(registries[0]))

    def claim(n: int) -> bool:
        return Monitors(registries[n % 3]).claim("lakes", due(1), f"holder {n}", now=NOON + HOUR) is not None

    with ThreadPoolExecutor(6) as hands:
        assert list(hands.map(claim, range(12))).count(True) == 1
    for registry in registries:
        registry.close()


def test_a_tick_that_ended_is_never_had_again(store: Monitors) -> None:
    added(store)
    run_through(store, 1, TickEnd(state="done", run="r", tiles=3, new_items=2, watermark=NOON, said="3 tiles mapped"))
    assert store.claim("lakes", due(1), "b", now=NOON + HOUR) is None
    (tick,) = store.history("lakes")
    assert (tick.state, tick.run, tick.tiles, tick.new_items, tick.gone_items) == ("done", "r", 3, 2, None)
    assert (tick.said, tick.attempts, store.get("lakes").watermark) == ("3 tiles mapped", 1, NOON)


def test_a_tick_stands_for_those_that_were_missed_before_it(store: Monitors) -> None:
    added(store)
    run_through(store, 1)
    claimed = store.claim("lakes", due(6), "a", now=NOON + 6.5 * HOUR)
    assert claimed is not None
    assert claimed.due == Due(at=NOON + 6 * HOUR, missed=4, first=NOON + 2 * HOUR)


def test_a_monitor_has_one_tick_at_work(store: Monitors) -> None:
    added(store)
    assert store.claim("lakes", due(1), "a", now=NOON + HOUR) is not None
    assert store.claim("lakes", due(2), "b", now=NOON + 2 * HOUR) is None


def test_a_paused_monitor_begins_no_tick_and_catches_up_once(store: Monitors) -> None:
    added(store)
    store.pause("lakes")
    assert store.claim("lakes", due(1), "a", now=NOON + HOUR) is None
    store.resume("lakes")
    run_through(store, 5)
    assert accounted(store) == [(1, 5, 4, "nothing")]
    ((standing,), _) = store.standing(NOON + 5.5 * HOUR)
    assert standing.row.schedule.latest(NOON + 5 * HOUR, NOON + 5.5 * HOUR) is None
    assert standing.since == NOON + 5 * HOUR


def test_a_tick_is_taken_over_only_by_who_saw_its_beat_stand_still(store: Monitors) -> None:
    added(store)
    claimed = store.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    seen = Beat("a", claimed.tick.beat)
    beaten = store.beat(claimed.tick)
    assert store.claim("lakes", due(1), "b", now=NOON + HOUR, stood=seen) is None
    taken = store.claim("lakes", due(1), "b", now=NOON + HOUR, stood=Beat("a", beaten.beat))
    assert taken is not None
    assert (taken.tick.holder, taken.tick.attempts) == ("b", 2)
    with pytest.raises(BusyError, match="another has taken this tick"):
        store.beat(claimed.tick)
    with pytest.raises(BusyError):
        store.finish(claimed.tick, TickEnd(state="done", watermark=NOON + YEAR))
    assert store.get("lakes").watermark is None
    assert [(tick.state, tick.holder) for tick in store.history("lakes")] == [("running", "b")]


def test_a_tick_whose_end_is_entered_twice_ended_once(file: Monitors) -> None:
    added(file)
    claimed = file.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    ended = file.finish(claimed.tick, TickEnd(state="done", said="once"), now=NOON + HOUR)
    assert file.finish(claimed.tick, TickEnd(state="failed", said="twice"), now=NOON + 2 * HOUR) == ended


def test_a_tick_that_stops_unasked_is_taken_up_at_once(store: Monitors) -> None:
    added(store)
    claimed = store.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    left = store.finish(claimed.tick, TickEnd(state="stopped", run="r"))
    assert left is not None
    assert (left.state, left.holder) == ("running", None)
    again = store.claim("lakes", due(1), "b", now=NOON + 9 * HOUR)
    assert again is not None
    assert (again.tick.number, again.tick.holder, again.tick.run) == (left.number, "b", "r")


def test_a_tick_that_is_asked_to_stop_makes_way(store: Monitors) -> None:
    added(store)
    claimed = store.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    assert [store.ask_stop("lakes"), store.ask_stop("lakes")] == [True, False]
    assert store.beat(claimed.tick).stop_asked is not None
    ended = store.finish(claimed.tick, TickEnd(state="stopped"))
    assert ended is not None
    assert ended.state == "replaced"
    run_through(store, 2)


def test_a_tick_that_is_asked_to_stop_and_whose_holder_is_gone_has_stopped(file: Monitors) -> None:
    added(file)
    claimed = file.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    file.ask_stop("lakes")
    assert file.claim("lakes", due(1), "b", now=NOON + HOUR, stood=Beat("a", claimed.tick.beat)) is None
    assert [tick.state for tick in file.history("lakes")] == ["replaced"]
    left = file.claim("lakes", due(2), "c", now=NOON + 2 * HOUR)
    assert left is not None
    file.finish(left.tick, TickEnd(state="stopped"))
    assert file.ask_stop("lakes")
    assert [tick.state for tick in file.history("lakes")] == ["replaced", "replaced"]


def test_a_tick_is_skipped_only_while_the_last_is_at_work(file: Monitors) -> None:
    added(file)
    assert file.skip("lakes", due(1)) is None
    claimed = file.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    assert file.skip("lakes", due(1)) is None
    skipped = file.skip("lakes", due(4), now=NOON + 4 * HOUR)
    assert skipped is not None
    assert (skipped.state, skipped.missed) == ("skipped", 2)
    assert file.claim("lakes", due(4), "b", now=NOON + 4 * HOUR) is None


def test_a_tick_that_failed_is_tried_again_after_a_while_that_doubles_up_to_an_hour(file: Monitors) -> None:
    added(file, schedule="every 366d")
    at, waits = NOON + YEAR, list[float]()
    ((standing,), _) = file.standing(at + YEAR)
    first = standing.row.schedule.after(NOON)
    now = first
    for attempt in range(1, 10):
        claimed = file.claim("lakes", Due(at=first, first=first), f"h{attempt}", now=now)
        assert claimed is not None
        assert claimed.tick.attempts == attempt
        failed = file.finish(claimed.tick, TickEnd(state="failed", said="down", retryable=True), now=now)
        assert failed is not None
        assert failed.next_try is not None
        waits.append((failed.next_try - now).total_seconds())
        assert file.claim("lakes", Due(at=first, first=first), "early", now=failed.next_try - HOUR / 3600) is None
        now = failed.next_try
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_a_tick_that_cannot_go_well_waits_for_the_next_that_is_due(file: Monitors) -> None:
    added(file)
    run_through(file, 1, TickEnd(state="failed", said="no such band"))
    assert file.claim("lakes", due(1), "b", now=NOON + 1.9 * HOUR) is None
    run_through(file, 2)
    assert [tick.state for tick in file.history("lakes")] == ["nothing", "failed"]


def test_a_failed_tick_makes_way_for_the_next_that_is_due(file: Monitors) -> None:
    added(file)
    run_through(file, 1, TickEnd(state="failed", said="down", retryable=True, watermark=None))
    assert file.standing(NOON + HOUR)[0][0].retry is not None
    run_through(file, 2)
    assert file.standing(NOON + 2 * HOUR)[0][0].retry is None
    assert file.claim("lakes", due(1), "b", now=NOON + 3 * HOUR) is None


def test_a_retry_that_a_wrong_clock_put_off_by_years_is_tried_now(file: Monitors) -> None:
    added(file)
    claimed = file.claim("lakes", due(1), "a", now=NOON + HOUR)
    assert claimed is not None
    file.finish(claimed.tick, TickEnd(state="failed", retryable=True), now=NOON + YEAR)
    assert file.claim("lakes", due(1), "b", now=NOON + HOUR) is not None


# Clocks ---------------------------------------------------------------------------------------------------------------


def test_ticks_of_a_clock_that_was_years_ahead_do_not_hold_up_those_of_today(store: Monitors) -> None:
    added(store)
    run_through(store, 1)
    years = 10 * YEAR / HOUR
    run_through(store, years)  # the clock leaps: one catch-up of ten years
    for hours in (2, 3):  # and is right again
        ((standing,), _) = store.standing(NOON + hours * HOUR)
        assert standing.since == NOON + (hours - 1) * HOUR
        run_through(store, hours)
    assert accounted(store) == [
        (1, 1, 0, "nothing"),
        (2, 2, 0, "nothing"),
        (3, 3, 0, "nothing"),
        (4, years, years - 4, "nothing"),  # what has come since is no business of its any more
    ]
    assert store.claim("lakes", due(years), "b", now=NOON + years * HOUR) is None  # it has been run, once for all


def test_a_clock_that_goes_back_runs_nothing_twice(store: Monitors) -> None:
    added(store)
    for hours in (1, 2, 3):
        run_through(store, hours)
    for hours in (1, 2, 3):
        ((standing,), _) = store.standing(NOON + (hours + 0.5) * HOUR)
        assert standing.since == NOON + hours * HOUR
        assert store.claim("lakes", due(hours), "b", now=NOON + hours * HOUR) is None


def test_a_clock_before_the_monitor_was_added_counts_from_what_it_shows(file: Monitors) -> None:
    added(file)
    past = NOON - 10 * YEAR
    assert file.standing(past)[0][0].since is None
    file.begin_at("lakes", past)
    assert file.standing(past)[0][0].since == past
    assert file.standing(NOON + HOUR / 2)[0][0].since == NOON  # and nothing is missed when it is right again


def test_ticks_with_nothing_in_them_are_folded_and_stay_settled(
    store: Monitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "KEPT_EMPTY", 3)
    added(store)
    for hours in (1, 2, 3, 6, 7, 8, 9, 10):  # twice nobody was there
        run_through(store, hours, TickEnd(state="done", run="r") if hours == 2 else NOTHING)
    assert [(tick.due - NOON) / HOUR for tick in store.history("lakes")] == [10, 9, 8, 2]
    row = store.get("lakes")
    assert row.folded == 4
    assert [((begin - NOON) / HOUR, (end - NOON) / HOUR) for begin, end in row.spans] == [(0, 3), (6, 7)]
    for hours in (1, 3, 6, 7):
        assert store.claim("lakes", due(hours), "b", now=NOON + hours * HOUR) is None
    assert store.claim("lakes", due(5), "b", now=NOON + 5 * HOUR) is not None  # a clock that went back between them


def test_a_registry_stays_small_though_the_machine_is_off_again_and_again(
    file: Monitors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "KEPT_EMPTY", 5)
    monkeypatch.setattr(accounts, "MOST_SPANS", 4)
    added(file)
    for n in range(1, 41):
        run_through(file, n + 3 * (n // 5))
    row = file.get("lakes")
    assert (len(file.history("lakes", last=1000)), row.folded, len(row.spans)) == (5, 35, 4)
    spans = [((begin - NOON) / HOUR, (end - NOON) / HOUR) for begin, end in row.spans]
    assert spans[0][0] == 0
    assert spans[-1] == (53 + 3, 53 + 3)


# Alerts ---------------------------------------------------------------------------------------------------------------


def alert(key: str, monitor: str = "lakes") -> AlertRow:
    return AlertRow(key=key, monitor=monitor, due=NOON, sink="hook", body='{"area_m2": 12.5}', created=NOON)


def test_an_alert_is_kept_once_and_waits_till_it_is_delivered(store: Monitors) -> None:
    assert store.enqueue([alert("a"), alert("b"), alert("a")]) == 2
    assert store.enqueue([alert("a")]) == 0
    assert store.waiting(NOON) == [alert("a"), alert("b")]
    store.delivered("a", now=NOON + HOUR)
    store.failed("b", "refused", NOON + HOUR)
    assert store.waiting(NOON) == []
    (late,) = store.waiting(NOON + HOUR)
    assert (late.key, late.attempts, late.error) == ("b", 1, "refused")
    store.failed("b", "given up", None)
    assert store.waiting(NOON + YEAR) == []
    assert store.enqueue([alert("a"), alert("b")]) == 0
    assert [(row.key, row.delivered) for row in store.alerts("lakes")] == [("b", None), ("a", NOON + HOUR)]


def test_an_alert_that_was_delivered_stays_so(file: Monitors) -> None:
    file.enqueue([alert("a")])
    file.delivered("a", now=NOON)
    file.failed("a", "told late", NOON)
    assert file.waiting(NOON + HOUR) == []
    assert file.alerts("lakes")[0].attempts == 1


def test_an_alert_that_a_wrong_clock_put_off_by_years_is_tried_now(file: Monitors) -> None:
    file.enqueue([alert("a")])
    file.failed("a", "refused", NOON + YEAR)
    assert [row.key for row in file.waiting(NOON)] == ["a"]


def test_all_that_is_known_of_a_monitor_can_be_taken_out(store: Monitors) -> None:
    added(store)
    run_through(store, 1, TickEnd(state="done", run="r", alerts=1, swept=NOON))
    store.enqueue([alert("a"), alert("z", "others")])
    told = json.loads(json.dumps(store.export("lakes")))
    assert (told["name"], told["mosaic"], told["job"]["monitor"]["schedule"]) == (
        "lakes",
        "/maps/lakes.zarr",
        "every 1h",
    )
    assert [(tick["state"], tick["run"]) for tick in told["ticks"]] == [("done", "r")]
    assert [one["body"] for one in told["alerts"]] == [{"area_m2": 12.5}]
    assert told["swept"].startswith("2026-03-01T12:00")


def test_what_is_taken_out_has_no_secret(store: Monitors) -> None:
    job = {
        "imagery": {"catalog": "https://user:secret0@example.com/stac?X-Amz-Signature=secret1"},
        "monitor": {
            "schedule": "every 1h",
            "sinks": [
                {"name": "hook", "webhook": "https://me:secret2@hooks.example.com:8443/T0/secret3?key=secret4"},
                {"name": "mail", "email": ["a@example.com"], "smtp": "smtp://me:secret5@mail.example.com"},
            ],
        },
    }
    store.add("lakes", job=json.dumps(job), mosaic="/maps/lakes.zarr", now=NOON)
    told = store.export("lakes")
    assert "secret" not in json.dumps(told)
    assert told["job"]["monitor"]["sinks"][0]["webhook"] == "https://hooks.example.com:8443/…"
    assert "secret3" in store.get("lakes").job


# Who leads ------------------------------------------------------------------------------------------------------------


def test_one_leads_until_it_resigns_or_stands_still(store: Monitors) -> None:
    lead = store.lead
    assert lead.seen() is None
    assert [lead.take("a"), lead.take("b"), lead.take("a")] == [True, False, True]
    seen = lead.seen()
    assert lead.take("a")
    assert not lead.take("b", stood=seen)
    assert lead.take("b", stood=lead.seen())
    lead.resign("a")
    assert not lead.take("a")
    lead.resign("b")
    assert lead.take("a")


def test_a_beat_is_watched_for_as_long_as_it_takes() -> None:
    watch, still = Watch(60.0), {"t": Beat("a", 1)}
    for at in range(0, 60, 10):
        assert watch.look(still, at=at) == {}
    assert not watch.lives("t")
    assert watch.look(still, at=60) == still
    assert watch.look({"t": Beat("a", 2)}, at=70) == {}
    assert watch.lives("t")


@pytest.mark.parametrize("interrupt", ["the watcher stood still", "the registry was away"])
def test_a_watch_that_was_interrupted_begins_anew(interrupt: str) -> None:
    watch, still, at = Watch(60.0), {"t": Beat("a", 1)}, 50.0
    for seen_at in range(0, 60, 10):
        watch.look(still, at=seen_at)
    if interrupt == "the registry was away":
        watch.forget()
        at = 60.0
    else:
        at = 600.0
    assert watch.look(still, at=at) == {}
    for later in range(10, 60, 10):
        assert watch.look(still, at=at + later) == {}
    assert watch.look(still, at=at + 60) == still


def test_a_tick_is_a_value_that_says_what_it_does_not_know() -> None:
    tick = TickRow(monitor="m", due=NOON, first=NOON, missed=0, state="running", began=NOON)
    assert (tick.new_items, tick.tiles, tick.ended) == (None, None, None)
