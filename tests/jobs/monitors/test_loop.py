"""The loop that runs what is due: over a real registry, its threads real, its clocks set by the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa

from jobs.monitors.loop import Holder, Scheduler
from jobs.monitors.schedule import Due
from jobs.monitors.store import MonitorRow, Monitors, TickEnd
from jobs.registry import Registry
from mapper.errors import BusyError, CatalogError, MapperError, QuestionError, SpecError
from tests.jobs.monitors.registries import HOUR, NOON, NOTHING, added, new_registry
from tests.jobs.postgres import postgres

SOON_S = 60.0
"""More than anything here takes."""


class Clock:
    """Shows what the test has set; waiting takes as long as is asked for, and no real time to speak of."""

    def __init__(self) -> None:
        self.time, self.seconds = NOON, 0.0

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.seconds

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        self.seconds += seconds
        self.time += timedelta(seconds=seconds)
        stopped.wait(0.005)


class Ticks:
    """What a tick does, as the test has it; and which were run."""

    def __init__(self, act: Callable[[Due, Holder], TickEnd] = lambda due, holder: NOTHING) -> None:
        self.act, self.run = act, list[tuple[str, float]]()

    def __call__(self, row: MonitorRow, due: Due, holder: Holder) -> TickEnd:
        self.run.append((row.name, (due.at - NOON) / HOUR))
        return self.act(due, holder)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Monitors]:
    (tmp_path / "registry.db").write_bytes(new_registry())
    with closing(Registry(f"sqlite:///{tmp_path}/registry.db")) as registry:
        yield Monitors(registry)


def until(done: Callable[[], bool], step: Callable[[], object]) -> None:
    end = time.monotonic() + SOON_S
    while not done():
        assert time.monotonic() < end, "it never comes to that"
        step()
        time.sleep(0.002)


def scheduler(
    store: Monitors, ticks: Ticks, clock: Clock, told: list[str] | None = None, at_once: int = 1
) -> Scheduler:
    return Scheduler(store, ticks, clock=clock, at_once=at_once, tell=(told if told is not None else []).append)


def states(store: Monitors) -> list[tuple[float, str]]:
    return sorted(((tick.due - NOON) / HOUR, tick.state) for tick in store.history("lakes", last=100))


def end_after(seconds: float) -> TickEnd:
    time.sleep(seconds)
    return NOTHING


# Once -----------------------------------------------------------------------------------------------------------------


def test_once_runs_what_is_due_and_comes_back(store: Monitors) -> None:
    added(store)
    clock, ticks = Clock(), Ticks()
    assert scheduler(store, ticks, clock).once() == []
    clock.time = NOON + 3.5 * HOUR
    (tick,) = scheduler(store, ticks, clock).once()
    assert ((tick.due - NOON) / HOUR, tick.missed, tick.state) == (3, 2, "nothing")
    assert scheduler(store, ticks, clock).once() == []
    assert ticks.run == [("lakes", 3)]


def test_once_of_one_monitor_leaves_the_others(store: Monitors) -> None:
    added(store, "lakes")
    added(store, "rivers")
    clock, ticks = Clock(), Ticks()
    clock.time = NOON + HOUR
    scheduler(store, ticks, clock).once("rivers")
    assert ticks.run == [("rivers", 1)]
    with pytest.raises(QuestionError, match="no monitor is named 'seas'"):
        scheduler(store, ticks, clock).once("seas")


def test_once_runs_a_tick_that_was_asked_for_whatever_the_schedule_says(store: Monitors) -> None:
    added(store)
    clock, ticks = Clock(), Ticks()
    clock.time = NOON + 0.25 * HOUR
    store.ask("lakes", now=clock.time)
    scheduler(store, ticks, clock).once("lakes")
    assert ticks.run == [("lakes", 0.25)]
    assert store.get("lakes").asked is None


def test_once_says_that_a_monitor_is_paused_and_runs_nothing(store: Monitors) -> None:
    added(store)
    store.pause("lakes")
    clock, ticks, told = Clock(), Ticks(), list[str]()
    clock.time = NOON + HOUR
    assert scheduler(store, ticks, clock, told).once("lakes") == []
    assert (ticks.run, told) == ([], ["monitor lakes is paused"])


def test_once_ends_though_more_becomes_due_while_it_works(store: Monitors) -> None:
    added(store, schedule="every 1s")
    clock, ticks = Clock(), Ticks(lambda due, holder: end_after(0.05))
    clock.time = NOON + HOUR
    assert len(scheduler(store, ticks, clock).once()) == 1


def test_once_takes_up_a_tick_whose_holder_is_gone_and_leaves_one_that_lives(store: Monitors) -> None:
    added(store)
    clock, ticks, told = Clock(), Ticks(), list[str]()
    clock.time = NOON + HOUR
    lost = store.claim("lakes", Due(at=NOON + HOUR, first=NOON + HOUR), "gone", now=clock.time)
    assert lost is not None
    (tick,) = scheduler(store, ticks, clock, told).once()
    assert (tick.attempts, tick.state, clock.seconds >= 60) == (2, "nothing", True)
    with pytest.raises(BusyError):
        store.finish(lost.tick, TickEnd(state="done"))
    clock.time = NOON + 10 * HOUR
    lives = store.claim("lakes", Due(at=NOON + 10 * HOUR, first=NOON), "lives", now=clock.time)
    assert lives is not None
    tick_that_lives = lives.tick

    class Beating(Clock):
        def wait(self, seconds: float, stopped: threading.Event) -> None:
            super().wait(seconds, stopped)
            store.beat(tick_that_lives)

    beating = Beating()
    beating.time = clock.time
    assert scheduler(store, ticks, beating, told).once() == []
    assert "is at work with lives" in told[-1]


def test_once_is_stopped_and_the_tick_is_left_for_the_next(store: Monitors) -> None:
    added(store)
    clock, stopped, begun = Clock(), threading.Event(), threading.Event()
    clock.time = NOON + HOUR

    def act(due: Due, holder: Holder) -> TickEnd:
        stopped.set()
        while not holder():
            time.sleep(0.002)
        begun.set()
        return TickEnd(state="stopped", run="r")

    (left,) = scheduler(store, Ticks(act), clock).once(stopped=stopped)
    assert (left.state, left.holder, begun.is_set()) == ("running", None, True)
    (tick,) = scheduler(store, Ticks(), clock).once()
    assert (tick.state, tick.attempts) == ("nothing", 2)


def test_alerts_that_wait_are_sent_by_once(store: Monitors) -> None:
    sent = list[datetime]()
    clock = Clock()
    Scheduler(store, Ticks(), clock=clock, deliver=sent.append).once()
    assert sent == [NOON]


# Ends of ticks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said", "again"),
    [
        (CatalogError("the catalog is down"), "the catalog is down", True),
        (BusyError("another writes this mosaic"), "another writes this mosaic", True),
        (OSError("no route to host"), "OSError: no route to host", True),
        (SpecError("no such band", fix="name one"), "no such band; name one", False),
        (ValueError("a bug"), "unexpected: ValueError: a bug", False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_tick_raises_is_entered_and_the_loop_goes_on(
    store: Monitors, error: Exception, said: str, again: bool
) -> None:
    added(store)

    def act(due: Due, holder: Holder) -> TickEnd:
        raise error

    clock, ticks = Clock(), Ticks(act)
    clock.time = NOON + HOUR
    (tick,) = scheduler(store, ticks, clock).once()
    assert (tick.state, tick.said, tick.next_try is not None) == ("failed", said, again)
    clock.time += 0.1 * HOUR
    ticks.act = lambda due, holder: NOTHING
    tried = scheduler(store, ticks, clock).once()
    assert [(one.state, one.attempts) for one in tried] == ([("nothing", 2)] if again else [])


# Overlaps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("queue", [(1, "nothing"), (3, "nothing")]),
        ("skip", [(1, "nothing"), (2, "skipped"), (3, "skipped")]),
        ("replace", [(1, "replaced"), (2, "nothing"), (3, "nothing")]),
    ],
)
def test_a_tick_that_is_due_while_the_last_is_at_work(
    store: Monitors, policy: str, expected: list[tuple[float, str]]
) -> None:
    added(store, overlapping=policy)
    clock, free = Clock(), threading.Event()

    def act(due: Due, holder: Holder) -> TickEnd:
        while due.at == NOON + HOUR and not free.is_set() and not holder():
            time.sleep(0.002)
        return TickEnd(state="stopped") if holder() else NOTHING

    serving = scheduler(store, Ticks(act), clock)
    for hours in (1, 2, 3):
        clock.time = NOON + hours * HOUR
        if policy == "replace":
            until(lambda: len(states(store)) >= (clock.time - NOON) / HOUR, serving.step)
        else:
            for _ in range(3):
                serving.step()
    free.set()
    until(lambda: all(state != "running" for _, state in states(store)) and len(states(store)) >= 2, serving.step)
    assert states(store) == expected
    missed = {(tick.due - NOON) / HOUR: tick.missed for tick in store.history("lakes")}
    assert missed[3] == (1 if policy == "queue" else 0)


def test_as_many_ticks_are_at_work_at_once_as_are_allowed_and_the_first_due_goes_first(store: Monitors) -> None:
    added(store, "late", schedule="every 1h")
    added(store, "early", schedule="every 30m")
    added(store, "between", schedule="every 45m")
    clock, free = Clock(), threading.Event()
    clock.time = NOON + timedelta(minutes=50)
    serving = scheduler(store, ticks := Ticks(lambda due, holder: (free.wait(SOON_S) and NOTHING) or NOTHING), clock)
    until(lambda: len(ticks.run) == 1, serving.step)
    for _ in range(5):
        serving.step()
    assert ticks.run == [("early", 0.5)]
    free.set()
    until(lambda: len(ticks.run) == 2, serving.step)
    assert ticks.run[1] == ("between", 0.75)


# Serving --------------------------------------------------------------------------------------------------------------


def test_of_two_that_serve_one_stands_by_and_takes_over_where_the_other_is_gone(store: Monitors) -> None:
    added(store)
    clock, told = Clock(), list[str]()
    first, second = (scheduler(store, Ticks(), clock, told) for _ in range(2))
    first.step()
    second.step()
    assert told[0] == "serving"
    assert told[1].startswith("standing by: ")
    for _ in range(13):  # the first is no more
        clock.seconds += 5
        second.step()
    assert told[2:] == ["serving"]
    first.step()
    assert told[3:] == ["another serves now: this one was away for too long, and stands by"]


def test_who_ends_leaves_the_lead_to_the_next_at_once(store: Monitors) -> None:
    clock, told, stopped = Clock(), list[str](), threading.Event()
    first, second = (scheduler(store, Ticks(), clock, told) for _ in range(2))
    first.step()
    stopped.set()
    first.serve(stopped)
    second.step()
    assert told == ["serving", "serving"]


def test_who_is_asked_to_end_has_its_ticks_stop_and_leaves_them(store: Monitors) -> None:
    added(store)
    clock, stopped = Clock(), threading.Event()
    clock.time = NOON + HOUR

    def act(due: Due, holder: Holder) -> TickEnd:
        stopped.set()
        while not holder():
            time.sleep(0.002)
        return TickEnd(state="stopped", run="r")

    scheduler(store, Ticks(act), clock).serve(stopped)
    (tick,) = store.history("lakes")
    assert (tick.state, tick.holder, tick.run) == ("running", None, "r")
    seen = store.lead.seen()
    assert seen is not None
    assert seen.holder is None


class AwayRegistry(Registry):
    """A registry that can be away."""

    away = False

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        if self.away:
            raise MapperError("the registry cannot be read: OperationalError", fix="check RESMAP_REGISTRY")
        with super().reading() as connection:
            yield connection

    @contextmanager
    def writing(self, *, alone: sa.Table | None = None) -> Iterator[sa.Connection]:
        if self.away:
            raise MapperError("the registry cannot be written: OperationalError", fix="check RESMAP_REGISTRY")
        with super().writing(alone=alone) as connection:
            yield connection


def test_a_registry_that_is_away_is_waited_for_and_told_of_once(store: Monitors, tmp_path: Path) -> None:
    added(store)
    clock, told, ticks = Clock(), list[str](), Ticks()
    with closing(AwayRegistry(f"sqlite:///{tmp_path}/registry.db")) as registry:
        serving = scheduler(Monitors(registry), ticks, clock, told)
        clock.time = NOON + HOUR
        until(lambda: len(ticks.run) == 1, serving.step)
        registry.away = True  # the tick ends meanwhile
        for _ in range(20):
            serving.step()
            time.sleep(0.002)
        registry.away = False
        until(lambda: states(store) == [(1, "nothing")], serving.step)
        assert [text for text in told if "registry" in text] == [
            "the registry cannot be written: OperationalError; check RESMAP_REGISTRY; waiting for it",
            "the registry answers again",
        ]
        registry.away = True
        with pytest.raises(MapperError, match="cannot be read"):
            scheduler(Monitors(registry), ticks, clock).once()


def test_a_tick_that_another_took_over_is_stopped_and_its_end_is_no_ones(store: Monitors) -> None:
    added(store)
    clock, told, ended = Clock(), list[str](), threading.Event()
    clock.time = NOON + HOUR

    def act(due: Due, holder: Holder) -> TickEnd:
        while not holder():
            time.sleep(0.002)
        ended.set()
        return TickEnd(state="done", watermark=NOON)

    slow = scheduler(store, ticks := Ticks(act), clock, told)
    until(lambda: len(ticks.run) == 1, slow.step)
    other = scheduler(store, Ticks(), clock)
    for _ in range(15):  # the first stands still
        clock.seconds += 5
        other.step()
    until(lambda: states(store) == [(1, "nothing")], other.step)
    until(ended.is_set, slow.step)
    assert states(store) == [(1, "nothing")]
    assert store.get("lakes").watermark is None
    assert any("another has taken this tick over" in text for text in told)


def test_a_monitor_whose_schedule_cannot_be_read_any_more_holds_up_no_other(store: Monitors, tmp_path: Path) -> None:
    added(store, "broken")
    added(store)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/registry.db")
    with engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE monitors SET job = replace(job, 'Europe/Paris', 'Mars/Olympus') WHERE name = 'broken'")
        )
    engine.dispose()
    clock, told = Clock(), list[str]()
    clock.time = NOON + HOUR
    serving = scheduler(store, ticks := Ticks(), clock, told)
    until(lambda: len(ticks.run) == 1, serving.step)
    assert ticks.run == [("lakes", 1)]
    assert len([text for text in told if "Mars/Olympus" in text]) == 1


# Real processes and servers -------------------------------------------------------------------------------------------

SERVE = """
import sys, threading, time
from jobs.monitors.loop import Scheduler
from jobs.monitors.store import Monitors, TickEnd
from jobs.registry import Registry

def tick(row, due, holder):
    print(due.at.isoformat(), flush=True)
    time.sleep(float(sys.argv[2]))
    return TickEnd(state="nothing")

store = Monitors(Registry(sys.argv[1]))
Scheduler(store, tick, stale_s=4.0, beat_s=0.5).serve(threading.Event())
"""


def test_the_ticks_of_a_process_that_is_killed_are_taken_up_by_another(store: Monitors, tmp_path: Path) -> None:
    store.add("lakes", job='{"monitor": {"schedule": "every 1s"}}', mosaic="/m.zarr")
    url = f"sqlite:///{tmp_path}/registry.db"
    killed = subprocess.Popen([sys.executable, "-c", SERVE, url, "600"], stdout=subprocess.PIPE, text=True)
    try:
        assert killed.stdout is not None
        begun = killed.stdout.readline().strip()
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait(SOON_S)
    finally:
        killed.kill()
        killed.wait()
        killed.stdout.close() if killed.stdout else None
    ticks, stopped = Ticks(), threading.Event()
    serving = Scheduler(store, ticks, stale_s=4.0, beat_s=0.5)
    thread = threading.Thread(target=serving.serve, args=(stopped,))
    thread.start()
    try:
        until(lambda: len(ticks.run) >= 2, lambda: None)
    finally:
        stopped.set()
        thread.join(SOON_S)
    first = store.history("lakes", last=100)[-1]
    assert (first.due.isoformat(), first.state, first.attempts) == (begun, "nothing", 2)


def test_two_that_serve_over_one_postgresql_run_each_tick_once() -> None:
    with postgres() as url, closing(Registry(url)) as registry, closing(Registry(url)) as another:
        store = Monitors(registry)
        store.add("lakes", job='{"monitor": {"schedule": "every 1s"}}', mosaic="/m.zarr")
        ticks, stopped = Ticks(), threading.Event()
        serving = [Scheduler(Monitors(one), ticks, at_once=2) for one in (registry, another)]
        asking = [Scheduler(Monitors(one), ticks) for one in (registry, another)]
        threads = [threading.Thread(target=one.serve, args=(stopped,)) for one in serving]
        threads += [threading.Thread(target=lambda one=one: [one.once() for _ in range(8)]) for one in asking]
        for thread in threads:
            thread.start()
        try:
            until(lambda: len(ticks.run) >= 4, lambda: None)
        finally:
            stopped.set()
            for thread in threads:
                thread.join(SOON_S)
        assert len(ticks.run) == len(set(ticks.run))
        rows = store.history("lakes", last=1000)
        assert {tick.state for tick in rows} == {"nothing"}
        assert len(rows) == len(ticks.run)
        spans = sorted((tick.first, tick.due, tick.missed) for tick in rows)
        for (_, before, _), (first, at, missed) in pairwise(spans):
            assert first == before + timedelta(seconds=1)
            assert at == first + timedelta(seconds=missed)
