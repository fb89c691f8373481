"""The answers behind every panel, from the files of a run: equal to its ledger, and no dead run looks alive."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.simulated_run import Simulated, go_on, make
from jobs.dashboard.queries import Queries
from jobs.dashboard.unplanned import shown_state
from jobs.dashboard.views import RunLine, run_key
from jobs.lease import Lease, run_at_work
from jobs.ledger import RunFolder
from jobs.registry import Registry, RunRow
from mapper.errors import MosaicError, QuestionError, StoreError

TILES, WORKERS, RATE = 2000, 5, 20.0


@pytest.fixture(scope="module")
def registry_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'registry.db'}"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    """A run that was under way when its driver was killed."""
    return make(tmp_path_factory.mktemp("killed"), tiles=TILES, workers=WORKERS, done=0.5, rate=RATE)


@pytest.fixture
def registry(registry_url: str) -> Iterator[Registry]:
    registry = Registry(registry_url)
    yield registry
    registry.close()


@pytest.fixture
def queries(registry: Registry, killed: Simulated) -> Queries:
    return Queries(registry, mosaics=[killed.folder.mosaic])


def key_of(run: Simulated) -> str:
    return run_key(run.prepared.run, run.folder.mosaic)


def line_of(queries: Queries, key: str) -> RunLine:
    return next(line for line in queries.runs() if line.id == key)


def test_every_tile_is_in_one_state_and_as_many_as_the_ledger_counts(queries: Queries, killed: Simulated) -> None:
    told, counts = queries.page(key_of(killed)).progress, killed.folder.counts()
    assert {state: getattr(told, state) for state in ("done", "nodata", "failed", "quarantined")} == dict(counts)
    assert told.planned == TILES == told.waiting + sum(counts.values())


def test_a_run_whose_driver_was_killed_does_not_look_alive(queries: Queries, killed: Simulated) -> None:
    assert killed.folder.facts()["state"] == "running"
    page = queries.page(key_of(killed))
    assert (page.line.live, page.line.state) == (False, "stopped")
    assert line_of(queries, key_of(killed)) == page.line
    assert page.progress.eta_s is None
    assert page.progress.in_hand == 0
    assert page.cost.at_completion_usd is None


def test_a_run_that_a_driver_has_is_live_and_another_of_its_mosaic_is_not(
    registry: Registry, killed: Simulated
) -> None:
    mosaic = killed.folder.mosaic
    with Lease(mosaic, killed.prepared.run):
        assert run_at_work(mosaic) == killed.prepared.run
        line = line_of(Queries(registry, mosaics=[mosaic]), key_of(killed))
        assert (line.live, line.state) == (True, "running")
    with Lease(mosaic, "another"):
        assert not line_of(Queries(registry, mosaics=[mosaic]), key_of(killed)).live
    assert run_at_work(mosaic) is None


def test_what_is_told_of_rates_area_and_money_follows_from_the_run(queries: Queries, killed: Simulated) -> None:
    page = queries.page(key_of(killed))
    told, counts = page.progress, killed.folder.counts()
    assert told.tiles_per_s == pytest.approx(RATE, rel=0.02)
    # A tile is 614.4 m wide; UTM is within 1 % of the ground there.
    tile_km2 = 0.6144**2
    assert told.mapped_km2 == pytest.approx((counts["done"] + counts["nodata"]) * tile_km2, rel=0.01)
    assert told.km2_per_h == pytest.approx(RATE * 3600 * tile_km2, rel=0.02)
    spent = WORKERS * TILES * 0.5 / RATE / 3600 * 2.0
    assert page.cost.spent_usd == pytest.approx(spent)
    assert page.cost.per_1000_km2_usd == pytest.approx(spent / told.mapped_km2 * 1000)
    assert len(told.history) > 5


def test_failures_and_the_slowest_tiles_are_those_of_the_ledger(queries: Queries, killed: Simulated) -> None:
    key, said = key_of(killed), killed.folder.states()
    groups = queries.failures(key)
    lost = {tile: row for tile, row in said.items() if row.state in ("failed", "quarantined")}
    assert sum(group.count for group in groups) == len(lost)
    for group in groups:
        assert group.first_error == lost[group.first_tile].error
        assert [tile for tile, _ in group.tiles] == [tile for tile in sorted(lost) if lost[tile].cause == group.cause][
            :20
        ]
    slow = queries.page(key).stragglers
    taken = sorted((row.read_s + row.infer_s + row.write_s for row in said.values()), reverse=True)
    assert [one.seconds for one in slow] == pytest.approx(taken[:10])
    for one in slow:
        assert one.worker == said[one.tile].worker
        assert sum(one.parts.values()) == pytest.approx(one.seconds)


def test_a_page_is_plain_values(queries: Queries, killed: Simulated) -> None:
    json.dumps(asdict(queries.page(key_of(killed))), default=datetime.isoformat, allow_nan=False)
    json.dumps(queries.history(key_of(killed)), allow_nan=False)


def test_what_a_driver_writes_is_seen_as_it_comes(tmp_path: Path, registry: Registry) -> None:
    run = make(tmp_path, tiles=400, workers=3, done=0.25, rate=20.0)
    now = [datetime.now(UTC)]
    queries = Queries(registry, mosaics=[run.folder.mosaic])
    key = key_of(run)
    before = queries.page(key).progress
    thread = threading.Thread(target=lambda: go_on(run, seconds=6.0))
    thread.start()
    seen = []
    while thread.is_alive():
        seen.append(queries.page(key))
        thread.join(0.3)
    alive = [page for page in seen if page.line.live and page.gpus and page.line.finished > 100]
    assert alive
    page = alive[-1]
    assert page.progress.eta_s is not None
    assert page.progress.done > before.done
    assert {row.worker for row in page.gpus} == {"gpu-000", "gpu-001", "gpu-002"}
    assert {row.state for row in page.gpus} == {"working"}
    assert page.bottleneck.of == 3
    assert {row.host for row in page.calls} == {"imagery.example.com", "maps"}
    assert now[0] - timedelta(seconds=1) < page.as_of
    done = [page.progress.done for page in seen]
    assert done == sorted(done)
    after = Queries(registry, mosaics=[run.folder.mosaic])
    last, counts = after.page(key), run.folder.counts()
    assert (last.progress.done, last.progress.nodata) == (counts["done"], counts["nodata"])
    assert {row.state for row in last.gpus} == {"over"}
    assert not last.line.live
    assert after.events(key, 0)[-1:] == after.page(key).events[:1]
    first = after.events(key, 0)[0].number
    assert all(event.number > first for event in after.events(key, first))


def test_a_run_that_waits_its_turn_has_a_page_with_nothing_in_it(registry: Registry, tmp_path: Path) -> None:
    mosaic = str(tmp_path / "none.zarr")
    registry.save(RunRow(run="later-1", mosaic=mosaic, name="later", state="queued", planned=0, finished=0))
    queries, key = Queries(registry), run_key("later-1", mosaic)
    page = queries.page(key)
    assert (page.line.state, page.line.name, page.line.live) == ("queued", "later", False)
    assert (page.progress.tiles_per_s, page.progress.eta_s, page.cost.spent_usd) == (None, None, None)
    assert (page.gpus, page.failures, queries.events(key, 0)) == ((), (), ())
    with pytest.raises(QuestionError, match="not planned yet"):
        queries.map(key)


def test_what_is_not_there_is_a_question_that_cannot_be_asked(queries: Queries) -> None:
    for ask in (queries.page, queries.failures, queries.history, queries.map):
        with pytest.raises(QuestionError, match="no such run"):
            ask("none-00000000")


def test_a_run_that_cannot_be_read_spoils_no_other(tmp_path: Path, registry: Registry, killed: Simulated) -> None:
    run = make(tmp_path, tiles=50, workers=1, done=0.5, rate=5.0)
    part = next(Path(run.folder.mosaic).rglob("ledger/part-*"))
    part.write_bytes(part.read_bytes()[:100])
    queries = Queries(registry, mosaics=[run.folder.mosaic, killed.folder.mosaic])
    lines = {line.id: line for line in queries.runs()}
    assert lines[key_of(run)].state == "unknown"
    assert lines[key_of(killed)].planned == TILES
    with pytest.raises(MosaicError, match="damaged"):
        queries.page(key_of(run))


def test_a_store_that_is_away_spoils_no_other_run(registry: Registry, killed: Simulated) -> None:
    away = "s3://maps/away.zarr?endpoint=none"
    registry.save(RunRow(run="far-1", mosaic=away, name="far", state="done", planned=9, finished=9))
    registry.save(RunRow(run="far-2", mosaic=away, name="far", state="running", planned=9, finished=3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.dashboard.run_book.RunFolder", _Away)
        lines = {line.id: line for line in Queries(registry, mosaics=[killed.folder.mosaic]).runs()}
    assert (lines[run_key("far-1", away)].state, lines[run_key("far-1", away)].finished) == ("done", 9)
    assert (lines[run_key("far-2", away)].state, lines[run_key("far-2", away)].live) == ("unknown", False)
    assert lines[key_of(killed)].planned == TILES


class _Away(RunFolder):
    """A run in a store that does not answer."""

    def __init__(self, mosaic: str, run: str) -> None:
        if "away" in mosaic:
            raise StoreError("it does not answer", mosaic=mosaic)
        super().__init__(mosaic, run)


def test_threads_that_ask_in_one_moment_get_one_answer(queries: Queries, killed: Simulated) -> None:
    with ThreadPoolExecutor(8) as hands:
        pages = list(hands.map(queries.page, [key_of(killed)] * 8))
    assert len({id(page) for page in pages}) == 1


def test_two_runs_side_by_side(tmp_path: Path, registry: Registry, killed: Simulated) -> None:
    other = make(tmp_path, tiles=400, workers=2, done=1.0, rate=10.0)
    queries = Queries(registry, mosaics=[killed.folder.mosaic, other.folder.mosaic])
    told = queries.compare(key_of(killed), key_of(other))
    rows = {row.label: row for row in told.rows}
    assert rows["tiles a second"].ratio == pytest.approx(0.5, rel=0.05)
    assert rows["GPUs"].b == 2.0
    assert rows["cost"].a == pytest.approx(WORKERS * 50 / 3600 * 2)
    assert rows["cost"].better == "lower"
    shares = [row.a for row in told.rows if row.label.startswith("time that")]
    assert sum(share for share in shares if share is not None) == pytest.approx(100.0)
    assert [key for key, _, _ in told.differences] == ["output.mosaic"]


def test_nothing_is_written_by_looking(queries: Queries, killed: Simulated) -> None:
    def files() -> dict[str, int]:
        whole = Path(killed.folder.mosaic)
        return {str(path): path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}

    before = files()
    key = key_of(killed)
    queries.runs()
    queries.page(key)
    queries.history(key)
    queries.compare(key, key)
    assert files() == before


@pytest.mark.parametrize(
    ("said", "under_way", "shown"),
    [
        ("planned", False, "planned"),
        ("stopped", True, "running"),
        ("running", False, "stopped"),
        ("done", False, "done"),
        ("out-of-budget", False, "out-of-budget"),
        ("of a later version", False, "unknown"),
    ],
)
def test_a_state_is_what_is_said_unless_the_driver_could_not_say_it(said: str, under_way: bool, shown: str) -> None:
    assert shown_state(said, under_way=under_way) == shown
