"""What workers say is kept with the run, within bounds, by whoever holds the mosaic alone, and at nobody's cost."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.pool import WorkerFacts
from cluster.readings import LATENCY_MS, WAITS, WORK, Calls, Reading
from jobs.dashboard.views import Event
from jobs.lease import NOBODY, STALE_AFTER_S, Claim, Held
from jobs.ledger import FINISHED, RunFolder, run_names
from jobs.parts import MERGE, Ledger
from jobs.recorder import MOST_EVENTS, MOST_ROWS, Recorder, Sums
from jobs.telemetry import ROW_EVERY_S, ROWS, Live, Row, WorkerNow, live_from, live_json
from mapper.errors import StoreError
from mapper.storage import state_folder
from mapper.traffic import TRAFFIC
from tests.stories.world import World, mapped

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
SUMS = Sums(area_km2=lambda: {"gpu-0": 1.5}, spent_usd=lambda: 0.25, usd_per_gpu_hour=2.0, budget_usd=None)
FACTS = WorkerFacts(name="gpu-0", device="a card", fingerprint="f", host="a-host", pid=7)


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def moment(self) -> datetime:
        return AT + timedelta(seconds=self.now)


@dataclass
class Scripted:
    """Workers that say what they are told to say."""

    says: dict[str, tuple[float, Reading]] = field(default_factory=dict)
    asked: int = 0
    error: Exception | None = None

    def readings(self) -> Mapping[str, tuple[float, Reading]]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.says


class Unwilling(RunFolder):
    """A run's folder whose store takes nothing of what is said about the run while it is away."""

    away = True
    refused = 0

    def _refuse(self) -> None:
        if self.away:
            self.refused += 1
            raise StoreError("the store is away")

    def save_live(self, live: Live) -> None:
        self._refuse()
        super().save_live(live)

    def telemetry_ledger(self, *, held: Held = NOBODY) -> Ledger[Row]:
        self._refuse()
        return super().telemetry_ledger(held=held)

    def event_ledger(self, *, held: Held = NOBODY) -> Ledger[Event]:
        self._refuse()
        return super().event_ledger(held=held)


def reading(worker: str = "gpu-0", *, tiles: int = 0, began: float = 100.0, **more: Any) -> Reading:
    return Reading(worker=worker, host="a-host", pid=7, device="a card", began=began, tiles=tiles, **more)


def until(true: Callable[[], object]) -> None:
    """Wait for another thread."""
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


def looked(pool: Scripted) -> None:
    """Wait until what the pool says now has been listened to, and all that was due then was tried."""
    asked = pool.asked
    until(lambda: pool.asked >= asked + 2)


def rows(batches: Iterable[pa.RecordBatch]) -> list[dict[str, Any]]:
    """The oldest first."""
    found = [row for batch in batches for row in batch.to_pylist()]
    return sorted(found, key=lambda row: (row["at"], row["worker"]))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path / "map.zarr"), "run-1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def recorder(folder: RunFolder, clock: Clock, **more: Any) -> Recorder:
    more.setdefault("say", lambda text: None)
    return Recorder(folder, SUMS, clock=clock, now=clock.moment, every_s=0.002, **more)


def test_a_run_of_before_says_nothing(folder: RunFolder) -> None:
    assert folder.live() is None
    assert list(folder.telemetry()) == []
    assert folder.events() == []


_finite = st.floats(0, 1e12)
_whole = st.integers(0, 2**53)
_calls = st.builds(
    Calls, kind=st.sampled_from(("imagery", "store")), host=st.text(), done=_whole, failed=_whole, throttled=_whole,
    moved_bytes=_whole, took=st.tuples(*[_whole] * (len(LATENCY_MS) + 1)),
)  # fmt: skip
_readings = st.builds(
    Reading, worker=st.text(), host=st.text(), pid=_whole, device=st.text(), began=_finite, up_s=_finite,
    busy_s=_finite, waited_s=st.dictionaries(st.sampled_from(WAITS), _finite),
    work_s=st.dictionaries(st.sampled_from(WORK), _finite), tiles=_whole, windows=_whole, reused=_whole,
    pixels=_whole, batch=_whole, in_hand=_whole, holds=_whole, queues=st.dictionaries(st.text(), _whole),
    host_peak_bytes=_whole, device_peak_bytes=st.none() | _whole, device_total_bytes=st.none() | _whole,
    power_w=st.none() | _finite, temperature_c=st.none() | _finite, utilization=st.none() | _finite,
    calls=st.lists(_calls, max_size=2).map(tuple),
)  # fmt: skip
_lives = st.builds(
    Live, at=st.datetimes(timezones=st.just(UTC)), began=st.datetimes(timezones=st.just(UTC)), over=st.booleans(),
    workers=st.lists(st.builds(WorkerNow, reading=_readings, heard_s=_finite, area_km2=_finite), max_size=3).map(tuple),
    in_hand=_whole, spent_usd=_finite, usd_per_gpu_hour=_finite, budget_usd=st.none() | _finite,
)  # fmt: skip


@given(_lives)
def test_what_is_put_as_json_is_read_again_as_it_was(live: Live) -> None:
    assert live_from(live_json(live)) == live


def test_what_is_no_number_is_not_known(folder: RunFolder) -> None:
    said = WorkerNow(reading=reading(power_w=float("nan")), heard_s=0.0, area_km2=0.0)
    folder.save_live(Live(at=AT, began=AT, over=False, workers=(said,), in_hand=0, spent_usd=0.0,
                          usd_per_gpu_hour=0.0, budget_usd=None))  # fmt: skip
    live = folder.live()
    assert live is not None
    assert live.workers[0].reading.power_w is None


@pytest.mark.parametrize("content", [b"", b"{}", b'{"at": 1', b"[]", b"\xff"])
def test_a_word_that_is_spoilt_is_no_word(folder: RunFolder, content: bytes) -> None:
    state_folder(folder.mosaic).child("runs").child(folder.run).write("live.json", content)
    assert folder.live() is None


def test_the_words_of_a_later_edition_are_understood(folder: RunFolder) -> None:
    live = Live(at=AT, began=AT, over=True, workers=(), in_hand=3, spent_usd=0.0, usd_per_gpu_hour=1.0, budget_usd=9.0)
    assert live_from(live_json(live).replace(b'{"at"', b'{"mood":"good","at"')) == live


def test_what_workers_said_last_is_beside_the_mosaic_while_the_run_goes_on(folder: RunFolder, clock: Clock) -> None:
    pool = Scripted({"gpu-0": (0.5, reading(tiles=3, in_hand=2)), "gpu-1": (0.0, reading("gpu-1", tiles=4, in_hand=1))})
    with recorder(folder, clock) as recording:
        recording.watch(pool, [FACTS])
        until(lambda: folder.live() is not None)
        live = folder.live()
        assert live is not None
        assert not live.over
        assert [(now.reading.tiles, now.heard_s, now.area_km2) for now in live.workers] == [(3, 0.5, 1.5), (4, 0.0, 0)]
        assert (live.in_hand, live.spent_usd, live.usd_per_gpu_hour, live.budget_usd) == (3, 0.25, 2.0, None)
        recording.leave()
    live = folder.live()
    assert live is not None
    assert live.over
    assert [now.reading.tiles for now in live.workers] == [3, 4]
    assert live.in_hand == 0


def test_the_last_word_is_what_workers_said_before_they_left(folder: RunFolder, clock: Clock) -> None:
    pool = Scripted({"gpu-0": (0.0, reading(tiles=3))})
    with recorder(folder, clock) as recording:
        recording.watch(pool, [FACTS])
        looked(pool)
        pool.says = {"gpu-0": (0.0, reading(tiles=9))}
        recording.leave()
        pool.says = {}
        clock.now = 5.0
    live = folder.live()
    assert live is not None
    assert [(now.reading.tiles, now.heard_s) for now in live.workers] == [(9, 5.0)]
    assert rows(folder.telemetry())[-1]["tiles"] == 9


@pytest.mark.parametrize("told", [True, False])
def test_what_the_driver_asked_is_told_unless_a_worker_of_its_process_has_counted_it(
    folder: RunFolder, clock: Clock, told: bool
) -> None:
    pid = 7 if told else os.getpid()
    TRAFFIC.add("catalog", "catalog.example.org", 0.2)
    with recorder(folder, clock) as recording:
        recording.watch(Scripted({"gpu-0": (0.0, replace(reading(), pid=pid))}), [FACTS])
    live = folder.live()
    assert live is not None
    assert [caller.worker for caller in live.callers] == ["gpu-0", *(["driver"] if told else [])]
    assert ("catalog", "catalog.example.org") in {(one.kind, one.host) for one in live.calls} or not told


def test_a_row_a_worker_is_kept_every_ten_seconds(folder: RunFolder, clock: Clock) -> None:
    calls = (
        Calls(kind="store", host="bucket", done=5, failed=1),
        Calls(kind="imagery", host="a", done=7, failed=2),
        Calls(kind="imagery", host="b", done=8),
    )
    said = reading(tiles=0, up_s=4.0, busy_s=3.0, waited_s={"read": 1.0}, work_s={"infer": 2.5}, calls=calls)
    pool = Scripted({"gpu-0": (0.0, said)})
    with recorder(folder, clock) as recording:
        recording.watch(pool, [FACTS])
        for turn in range(4):
            clock.now = turn * ROW_EVERY_S
            pool.says = {"gpu-0": (0.0, replace(said, tiles=turn))}
            looked(pool)
            looked(pool)
    kept = rows(folder.telemetry())
    assert [(row["at"], row["tiles"]) for row in kept] == [(AT + timedelta(seconds=10 * n), n) for n in range(4)]
    first = {key: value for key, value in kept[0].items() if value}
    assert first == {
        "at": AT, "worker": "gpu-0", "host": "a-host", "pid": 7, "device": "a card", "began": 100.0, "up_s": 4.0,
        "busy_s": 3.0, "wait_read": 1.0, "work_infer": 2.5, "area_km2": 1.5, "store_calls": 5, "store_failed": 1,
        "imagery_calls": 15, "imagery_failed": 2,
    }  # fmt: skip
    assert kept[0]["power_w"] is None


def test_an_actor_that_takes_anothers_place_begins_again_in_the_history(folder: RunFolder, clock: Clock) -> None:
    pool = Scripted({"gpu-0": (0.0, reading(tiles=8))})
    with recorder(folder, clock) as recording:
        recording.watch(pool, [FACTS])
        looked(pool)
        clock.now = ROW_EVERY_S
        pool.says = {}
        looked(pool)
        clock.now = 2 * ROW_EVERY_S
        pool.says = {"gpu-0": (0.0, reading(tiles=1, began=200.0))}
        looked(pool)
    assert [(row["began"], row["tiles"]) for row in rows(folder.telemetry())] == [(100.0, 8), (200.0, 1)]
    assert [event.text for event in folder.events() if "took its place" in event.text] == [
        "gpu-0 is back: process 7 on a-host took its place"
    ]


def test_what_is_told_of_lost_workers_in_the_drivers_thread_is_an_event(folder: RunFolder, clock: Clock) -> None:
    log, handlers = logging.getLogger("cluster.ray_pool"), list(logging.getLogger("cluster").handlers)
    with recorder(folder, clock):
        log.warning("the worker died (worker gpu-3); another takes its place")
        other = threading.Thread(target=log.warning, args=("of another run",))
        other.start()
        other.join()
    assert logging.getLogger("cluster").handlers == handlers, "nobody listens after the end"
    assert [(event.kind, event.text) for event in folder.events()] == [
        ("worker", "the worker died (worker gpu-3); another takes its place")
    ]


def test_events_are_numbered_through_all_sittings(folder: RunFolder, clock: Clock) -> None:
    for _ in range(2):
        claim = Claim(state_folder(folder.mosaic), folder.mosaic, folder.run)
        claim.take()
        with recorder(folder, clock, held=claim) as recording:
            recording.happened("state", "running")
            recording.happened("given-up", "tile 4 is given up", 4)
        claim.release()
    events = folder.events()
    assert [(event.kind, event.tile) for event in events] == [("state", None), ("given-up", 4)] * 2
    assert [event.number for event in events] == sorted({event.number for event in events})
    assert folder.events(events[1].number) == events[2:]
    assert folder.events(events[-1].number) == []


def test_an_error_that_ends_a_sitting_is_told(folder: RunFolder, clock: Clock) -> None:
    with pytest.raises(StoreError), recorder(folder, clock):
        raise StoreError("no room is left")
    assert [(event.kind, event.text) for event in folder.events()] == [("state", "stopped: no room is left")]


def test_of_ten_thousand_and_more_events_the_rest_is_counted_and_the_end_is_told(
    folder: RunFolder, clock: Clock
) -> None:
    with recorder(folder, clock) as recording:
        recording.happened("state", "running")
        for tile in range(MOST_EVENTS + 1):
            recording.happened("given-up", "again", tile)
        recording.happened("state", "quarantined")
    events = folder.events()
    assert len(events) <= MOST_EVENTS + 1
    assert [event.text for event in events if event.kind == "state"] == ["running", "quarantined"]
    kept = sum(event.kind == "given-up" for event in events)
    assert events[-1].text == (
        f"{MOST_EVENTS + 1 - kept} more things happened in this sitting than are kept one by one"
    )


def test_texts_of_strangers_are_kept_short_and_without_control_marks(folder: RunFolder, clock: Clock) -> None:
    with recorder(folder, clock) as recording:
        recording.happened("given-up", "\x1b[2J" + "<b>" * 10_000)
    (event,) = folder.events()
    assert "\x1b" not in event.text
    assert len(event.text) < 2_100


def test_a_store_that_is_away_costs_nothing_but_what_was_live_meanwhile(tmp_path: Path, clock: Clock) -> None:
    folder = Unwilling(str(tmp_path / "map.zarr"), "run-1")
    said: list[str] = []
    pool = Scripted({"gpu-0": (0.0, reading(tiles=3))})
    with recorder(folder, clock, say=said.append) as recording:
        recording.watch(pool, [FACTS])
        recording.happened("given-up", "tile 4 is given up", 4)
        for turn in range(5):
            clock.now = turn * ROW_EVERY_S
            looked(pool)
            looked(pool)
        assert folder.refused > 10
        folder.away = False
        until(lambda: folder.live() is not None)
    assert [text.partition(":")[2] for text in said] == [" the store is away"]
    assert len(rows(folder.telemetry())) == 5
    assert 4 in [event.tile for event in folder.events()]


def test_rows_that_wait_for_a_store_are_bounded_and_the_oldest_go(tmp_path: Path, clock: Clock) -> None:
    folder = Unwilling(str(tmp_path / "map.zarr"), "run-1")
    many = {f"gpu-{n}": (0.0, reading(f"gpu-{n}")) for n in range(MOST_ROWS // 4)}
    pool = Scripted(many)
    with recorder(folder, clock) as recording:
        recording.watch(pool, [FACTS])
        for turn in range(6):
            clock.now = turn * ROW_EVERY_S
            looked(pool)
            looked(pool)
        folder.away = False
    kept = rows(folder.telemetry())
    assert len(kept) == MOST_ROWS
    assert kept[0]["at"] == AT + timedelta(seconds=2 * ROW_EVERY_S)


def test_a_store_that_never_answers_keeps_nobody(tmp_path: Path, clock: Clock) -> None:
    asked, answer = threading.Event(), threading.Event()

    class Hung(RunFolder):
        def save_live(self, live: Live) -> None:
            asked.set()
            answer.wait()
            super().save_live(live)

    folder = Hung(str(tmp_path / "map.zarr"), "run-1")
    try:
        with recorder(folder, clock, last_word_s=0.01) as recording:
            recording.watch(Scripted({"gpu-0": (0.0, reading())}), [FACTS])
            assert asked.wait(30)
            for tile in range(100):
                recording.happened("given-up", "again", tile)
            recording.leave()
    finally:
        answer.set()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "recorder"])
    live = folder.live()
    assert live is not None
    assert not live.over, "what was abandoned puts nothing more"


def test_workers_that_cannot_be_listened_to_end_no_run(folder: RunFolder, clock: Clock) -> None:
    said: list[str] = []
    pool = Scripted(error=RuntimeError("no such line"))
    with recorder(folder, clock, say=said.append) as recording:
        recording.watch(pool, [FACTS])
        looked(pool)
        looked(pool)
        recording.leave()
    assert [text.partition(":")[2] for text in said] == [" RuntimeError: no such line"]
    live = folder.live()
    assert live is not None
    assert live.workers == ()


def test_a_driver_that_has_lost_the_mosaic_writes_nothing_more(folder: RunFolder, clock: Clock) -> None:
    now = Clock()
    state = state_folder(folder.mosaic)
    first, second = (Claim(state, folder.mosaic, folder.run, now=now) for _ in range(2))
    first.take()
    pool = Scripted({"gpu-0": (0.0, reading(tiles=3))})
    with recorder(folder, clock, held=first) as recording:
        recording.watch(pool, [FACTS])
        until(lambda: folder.live() is not None)
        now.now = STALE_AFTER_S + 1.0  # it was stopped for so long
        looked(pool)
        second.take()
        before = {path: path.read_bytes() for path in files(folder)}
        pool.says = {"gpu-0": (0.0, reading(tiles=4))}
        recording.happened("given-up", "tile 4 is given up", 4)
        clock.now = 100.0
        looked(pool)
        looked(pool)
        recording.leave()
    assert {path: path.read_bytes() for path in files(folder)} == before


def files(folder: RunFolder) -> Iterator[Path]:
    return (path for path in Path(folder.mosaic, ".resmap").rglob("*") if path.is_file())


def test_a_history_of_many_parts_is_merged_and_read_once(folder: RunFolder) -> None:
    ledger = folder.telemetry_ledger()
    for turn in range(2 * MERGE + 3):
        for worker in ("gpu-0", "gpu-1"):
            said = WorkerNow(reading=reading(worker, tiles=turn), heard_s=0.0, area_km2=0.0)
            ledger.record(Row(at=AT + timedelta(seconds=turn), worker=said))
        ledger.flush()
    assert len(list(files(folder))) == 2 + 3
    kept = rows(folder.telemetry())
    assert [row["tiles"] for row in kept] == [turn for turn in range(2 * MERGE + 3) for _ in range(2)]
    late = rows(folder.telemetry(AT + timedelta(seconds=MERGE)))
    assert late == kept[2 * MERGE :]


def test_a_history_that_is_merged_while_it_is_read_is_read_once(folder: RunFolder) -> None:
    ledger = folder.telemetry_ledger()

    def add(turns: range) -> None:
        for turn in turns:
            said = WorkerNow(reading=reading(tiles=turn), heard_s=0.0, area_km2=0.0)
            ledger.record(Row(at=AT + timedelta(seconds=turn), worker=said))
            ledger.flush()

    add(range(MERGE - 1))
    reader = folder.telemetry()
    kept = [next(reader)]
    add(range(MERGE - 1, MERGE))  # merges all, and takes away what was listed
    kept += reader
    tiles = [row["tiles"] for row in rows(kept)]
    assert [turn for turn in tiles if turn < MERGE - 1] == list(range(MERGE - 1))


def test_a_later_sitting_whose_clock_is_behind_hides_nothing_of_an_earlier_one(folder: RunFolder) -> None:
    ledger = folder.telemetry_ledger()
    for began, seconds in ((100.0, 50), (200.0, 20)):
        said = WorkerNow(reading=reading(began=began), heard_s=0.0, area_km2=0.0)
        ledger.record(Row(at=AT + timedelta(seconds=seconds), worker=said))
        ledger.flush()
    assert sorted(row["began"] for row in rows(folder.telemetry())) == [100.0, 200.0]


def test_a_row_has_the_columns_that_are_promised() -> None:
    promised = {"at", "worker", "host", "pid", "device", "began", "up_s", "busy_s", "tiles", "windows", "reused",
                "pixels", "area_km2", "batch", "in_hand", "host_peak_bytes", "device_peak_bytes", "power_w",
                "temperature_c", "utilization", "store_calls", "store_failed", "imagery_calls",
                "imagery_failed"}  # fmt: skip
    assert {*ROWS.names} == promised | {f"wait_{wait}" for wait in WAITS} | {f"work_{work}" for work in WORK}


@pytest.fixture(scope="module")
def on_ray(world: World, ray_cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on Ray by two workers with a logical GPU each."""
    mosaic = tmp_path_factory.mktemp("recorded") / "map.zarr"
    mapped(world.job(mosaic), gpus=2)
    (run,) = run_names(str(mosaic))
    return RunFolder(str(mosaic), run)


def test_what_two_workers_on_ray_said_last_is_what_the_ledger_counts(on_ray: RunFolder) -> None:
    live = on_ray.live()
    assert live is not None
    assert live.over
    assert [now.reading.worker for now in live.workers] == ["gpu-0", "gpu-1"]
    entries = [entry for entry in on_ray.states().values() if entry.state in FINISHED]
    twice = sum(now.reading.tiles for now in live.workers) - len(entries)
    # The last tiles of a slow worker are given to the other too: both have mapped them, and the ledger has them once.
    assert twice >= 0
    for said, entered in (("windows", "windows"), ("pixels", "asked_px")):
        surplus = sum(getattr(now.reading, said) for now in live.workers) - sum(getattr(e, entered) for e in entries)
        assert surplus >= 0 if twice else surplus == 0


def test_rows_of_both_workers_on_ray_are_kept(on_ray: RunFolder) -> None:
    live = on_ray.live()
    assert live is not None
    last = {row["worker"]: row["tiles"] for row in rows(on_ray.telemetry())}
    assert last == {now.reading.worker: now.reading.tiles for now in live.workers}


def test_a_run_tells_how_it_began_and_ended(on_ray: RunFolder) -> None:
    told = [(event.kind, event.text.partition(":")[0]) for event in on_ray.events()]
    assert (told[0], told[-1]) == (("state", "running"), ("state", "done"))
    assert any(kind == "worker" and text.startswith("2 workers are ready") for kind, text in told)
