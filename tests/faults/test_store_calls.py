"""Every call that we make to a store, and everything that can happen to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from jobs.lease import Lease
from jobs.ledger import RunFolder
from mapper import icechunk_engine
from mapper.errors import CredentialsError, MapperError, StoreError
from mapper.grid import PixelBox
from mapper.mosaic import Mosaic, TileLayers, Written
from mapper.patience import ATTEMPTS, BODY_ATTEMPTS, HASTY, PATIENT, Patience, patiently
from mapper.storage import EngineName, Folder
from tests.faults.buckets import Broken
from tests.faults.proxy import KINDS, Fault, Kind, one_of_each
from tests.mapper.sinks import GRID, PROMPTS, ROAD, SPEC

PASSING: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "expired")
WITHOUT_BODY: tuple[Kind, ...] = ("throttled", "error", "unavailable", "reset", "lost", "slow")
"""An answer that has no body has no middle in which it could break off."""

SQUARE = replace(GRID, box=PixelBox(0, 0, 384, 384), shard_px=128, chunk_px=64)
"""Nine shards, too large for icechunk to keep them in its manifests."""

ENGINES: tuple[EngineName, ...] = ("zarr", "icechunk")


def layers(number: int) -> TileLayers:
    score = np.random.default_rng(number).integers(0, 251, (2, 128, 128)).astype(np.uint8)
    source = np.full((128, 128), number, np.uint32)
    return TileLayers(mask=(score > 125).astype(np.uint8), score=score, source=source, prompts=(0, 1))


def put(mosaic: Mosaic, number: int) -> Written:
    return mosaic.write(SQUARE, list(SQUARE.tiles())[number], 0, layers(number))


def holds(mosaic: Mosaic, number: int) -> bool:
    """Whether a tile reads as it was written; what is not there reads as a gap, and fails this."""
    meant, tile = layers(number), list(SQUARE.tiles())[number]
    mask, score, source = mosaic.read(SQUARE, tile, 0, 1)
    return bool((mask == meant.mask[1]).all() and (score == meant.score[1]).all() and (source == number).all())


def commit(mosaic: Mosaic, *written: Written) -> str | None:
    return mosaic.commit([one.receipt for one in written if one.receipt is not None], "tiles", {"run": "r"})


def made(faulty: Broken, tmp_path: Path, engine: EngineName) -> Mosaic:
    return Mosaic.create(f"{faulty.bucket}{tmp_path}/map", replace(SPEC, grids=(SQUARE,)), engine=engine)


def break_one_each(faulty: Broken, kinds: tuple[Kind, ...], method: str, path: str) -> None:
    faulty.proxy.breaks(*one_of_each(kinds, method, path))


def mend(faulty: Broken, kinds: tuple[Kind, ...]) -> None:
    """Nothing is broken any more, and each of these was."""
    faulty.proxy.breaks()
    assert {kind for kind, _, _ in faulty.proxy.done} >= set(kinds)


@pytest.mark.parametrize("engine", ENGINES)
def test_shards_are_put_whatever_happens_to_one_request(faulty: Broken, tmp_path: Path, engine: EngineName) -> None:
    mosaic = made(faulty, tmp_path, engine)
    break_one_each(faulty, WITHOUT_BODY, "PUT", "/c/" if engine == "zarr" else "/chunks/")
    with ThreadPoolExecutor(4) as hands:
        written = list(hands.map(lambda number: put(mosaic, number), range(9)))
    mend(faulty, WITHOUT_BODY)
    commit(mosaic, *written)
    assert all(holds(mosaic, number) for number in range(9))


@pytest.mark.parametrize("engine", ENGINES)
def test_shards_are_got_and_never_taken_for_gaps_whatever_happens_to_one_request(
    faulty: Broken, tmp_path: Path, engine: EngineName
) -> None:
    mosaic = made(faulty, tmp_path, engine)
    commit(mosaic, *(put(mosaic, number) for number in range(9)))
    reader = Mosaic.open(mosaic.url, writable=False)
    break_one_each(faulty, PASSING, "GET", "/c/" if engine == "zarr" else "/chunks/")
    with ThreadPoolExecutor(4) as hands:
        assert all(hands.map(lambda number: holds(reader, number), range(9)))
    mend(faulty, PASSING)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_mosaic_is_made_and_grows_whatever_happens_to_one_request(
    faulty: Broken, tmp_path: Path, engine: EngineName
) -> None:
    break_one_each(
        faulty, WITHOUT_BODY, "PUT", "zarr.json" if engine == "zarr" else "(snapshots|transactions|repo|refs)"
    )
    mosaic = made(faulty, tmp_path, engine)
    mosaic.add_prompts([ROAD])
    for year in (2030, 2031, 2032):
        mosaic.add_times([mosaic.times[-1].replace(year=year)])
    mend(faulty, WITHOUT_BODY)
    for opened in (mosaic, Mosaic.open(mosaic.url, writable=False)):
        assert opened.prompts == (*PROMPTS, ROAD)
        assert [time.year for time in opened.times] == [2020, 2021, 2030, 2031, 2032]


def test_a_snapshot_that_cannot_be_fetched_is_an_error_and_no_empty_repository(
    faulty: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mosaic = made(faulty, tmp_path, "icechunk")
    monkeypatch.setattr(icechunk_engine, "patiently", lambda act, _: act())  # it would be asked again for half a minute
    faulty.proxy.breaks(Fault("torn", "GET", "snapshots"))
    with pytest.raises(StoreError):
        Mosaic.open(mosaic.url)
    faulty.proxy.breaks()
    assert Mosaic.open(mosaic.url).prompts == PROMPTS


@pytest.mark.parametrize("engine", ["zarr", pytest.param("icechunk", marks=pytest.mark.chaos)])
def test_a_mosaic_is_opened_whatever_happens_to_one_request(faulty: Broken, tmp_path: Path, engine: EngineName) -> None:
    mosaic = made(faulty, tmp_path, engine)
    break_one_each(faulty, PASSING, "GET", "")
    for _ in range(18):
        opened = Mosaic.open(mosaic.url, writable=False)
        assert (opened.grids, opened.prompts) == ((SQUARE,), PROMPTS)
    mend(faulty, PASSING)


def test_commits_are_made_once_whatever_happens_to_one_request(faulty: Broken, tmp_path: Path) -> None:
    mosaic = made(faulty, tmp_path, "icechunk")
    written = [put(mosaic, number) for number in range(9)]
    break_one_each(faulty, WITHOUT_BODY, "PUT", "(snapshots|manifests|transactions|repo|refs)")
    ids = [commit(mosaic, one) for one in written]
    mosaic.tag("run-r")
    mend(faulty, WITHOUT_BODY)
    assert all(holds(mosaic, number) for number in range(9))
    history = [snapshot for snapshot in mosaic.snapshots() if snapshot.metadata.get("run") == "r"]
    assert [snapshot.id for snapshot in history] == ids[::-1]
    assert history[0].tags == ("run-r",)


@pytest.mark.parametrize("path", ["refs|/repo", "snapshots", "manifests", "transactions"])
def test_a_commit_whose_answers_are_lost_is_found_in_the_history_and_not_made_again(
    faulty: Broken, tmp_path: Path, path: str
) -> None:
    mosaic = made(faulty, tmp_path, "icechunk")
    written = put(mosaic, 0)
    faulty.proxy.breaks(Fault("lost", "PUT", path, nth=(1, 2)))
    snapshot = commit(mosaic, written)
    if path != "snapshots":
        assert faulty.proxy.count("lost") > 0
    faulty.proxy.breaks()
    assert [one.id for one in mosaic.snapshots()][:-1] == [snapshot]
    assert holds(mosaic, 0)


def test_files_beside_a_mosaic_are_written_read_listed_and_looked_for(faulty: Broken, tmp_path: Path) -> None:
    folder = Folder(f"{faulty.bucket}{tmp_path}/files")
    acts: list[tuple[str, tuple[Kind, ...], Callable[[int], object]]] = [
        ("PUT", WITHOUT_BODY, lambda number: folder.write(f"{number}", f"file {number}".encode() * 99)),
        ("GET", PASSING, lambda number: folder.read(f"{number}") == f"file {number}".encode() * 99 or 1 / 0),
        ("HEAD", WITHOUT_BODY, lambda number: (folder.exists(f"{number}") and not folder.exists("none")) or 1 / 0),
        ("GET", PASSING, lambda _: folder.names() == sorted(map(str, range(18))) or 1 / 0),
    ]
    for method, kinds, act in acts:
        faulty.proxy.done.clear()
        break_one_each(faulty, kinds, method, "")
        for number in range(18):  # one after the other: else one of them could meet two faults in a row
            act(number)
        mend(faulty, kinds)


def test_a_lease_is_taken_and_given_back(faulty: Broken, tmp_path: Path) -> None:
    mosaic = f"{faulty.bucket}{tmp_path}/map"
    faulty.proxy.breaks(*one_of_each(WITHOUT_BODY, "PUT", ""), *one_of_each(PASSING, "GET", "lease"))
    with Lease(mosaic, "r", engine="zarr"):
        assert Folder(f"{mosaic}/.resmap").exists("lease.json")
    assert faulty.proxy.count("throttled", method="PUT") == 1
    assert faulty.proxy.count("throttled", method="GET") == 1
    assert not Folder(f"{mosaic}/.resmap").exists("lease.json")


def test_what_never_ends_is_an_error_that_may_pass_and_names_the_place(
    faulty: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = {"read_timeout": 1, "retries": {"mode": "legacy", "total_max_attempts": 1}}
    monkeypatch.setitem(fsspec.config.conf["s3"], "config_kwargs", once)
    mosaic = made(faulty, tmp_path, "zarr")
    commit(mosaic, put(mosaic, 0))
    folder = Folder(f"{faulty.bucket}{tmp_path}/files")
    folder.write("there", b"there" * 99)
    calls: list[Callable[[], object]] = [
        lambda: put(mosaic, 1),
        lambda: holds(mosaic, 0),
        lambda: Mosaic.open(mosaic.url),
        lambda: mosaic.is_stored(SQUARE, next(SQUARE.tiles()), time=0, prompt=0),
        lambda: folder.write("more", b"more"),
        lambda: folder.read("there"),
        lambda: folder.names(),
        lambda: folder.exists("there"),
        lambda: folder.remove("there"),
    ]

    def failure(call: Callable[[], object]) -> MapperError:
        with pytest.raises(MapperError) as caught:
            call()
        return caught.value

    for kind in PASSING:
        if kind == "slow":
            continue
        faulty.proxy.breaks(Fault(kind, retry_after_s=7))
        with ThreadPoolExecutor(len(calls)) as hands:
            for error in hands.map(failure, calls):
                assert type(error) is StoreError, (kind, error)
                assert error.retryable
                assert error.fix
                assert str(error.where["mosaic"]).startswith(faulty.bucket)
                assert (error.wait_s == 7) == (kind in ("throttled", "error", "unavailable"))
    faulty.proxy.breaks(Fault("expired"))
    with ThreadPoolExecutor(len(calls)) as hands:
        assert {type(error) for error in hands.map(failure, calls)} == {CredentialsError}


def test_credentials_that_expire_while_a_commit_is_made_stop_it_at_once(faulty: Broken, tmp_path: Path) -> None:
    mosaic = made(faulty, tmp_path, "icechunk")
    written = put(mosaic, 0)
    faulty.proxy.breaks(Fault("expired"))
    with pytest.raises(CredentialsError):
        put(mosaic, 1)
    with pytest.raises(CredentialsError):
        commit(mosaic, written)
    faulty.proxy.breaks()
    commit(mosaic, written)
    assert holds(mosaic, 0)


def test_a_request_is_made_a_stated_number_of_times(faulty: Broken, tmp_path: Path) -> None:
    folder = Folder(f"{faulty.bucket}{tmp_path}/files")
    tries: dict[Kind, int] = {"error": ATTEMPTS, "reset": ATTEMPTS * BODY_ATTEMPTS}
    for kind, asked in tries.items():
        faulty.proxy.asked.clear()
        faulty.proxy.breaks(Fault(kind))
        with pytest.raises(StoreError):
            folder.write("file", b"content")
        assert len(faulty.proxy.asked) == asked


@pytest.mark.parametrize("engine", ENGINES)
def test_what_the_driver_puts_waits_for_a_store_that_is_away(
    faulty: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineName
) -> None:
    once = {"read_timeout": 1, "retries": {"mode": "legacy", "total_max_attempts": 1}}
    monkeypatch.setitem(fsspec.config.conf["s3"], "config_kwargs", once)
    mosaic = made(faulty, tmp_path, engine)
    written = put(mosaic, 0)
    run = RunFolder(mosaic.url, "r", engine=engine)
    faulty.proxy.away.set()
    back = threading.Timer(1.5, faulty.proxy.away.clear)  # it is asked at once, after a second, and after two more
    back.start()
    try:
        with ThreadPoolExecutor(2) as hands:
            committing = hands.submit(commit, mosaic, written)
            hands.submit(run.save_facts, {"state": "running"}).result(120)
            committing.result(120)
    finally:
        back.join()
    assert faulty.proxy.count("away", path="run.json") > BODY_ATTEMPTS
    assert holds(mosaic, 0)
    assert run.facts() == {"state": "running"}


# Patience ------------------------------------------------------------------------------------------------------------


class Clock:
    """Goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __call__(self) -> float:
        return sum(self.slept)

    def __enter__(self) -> Clock:
        return self


def away(times: int, **where: float) -> Callable[[], int]:
    """An act that the store refuses so many times."""
    left = [times]

    def act() -> int:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreError("away", fix="", **where)
        return times

    return act


def test_patience_waits_longer_each_time_and_has_an_end() -> None:
    clock = Clock()
    assert patiently(away(6), Patience(total_s=60), clock=clock, sleep=clock.slept.append) == 6
    assert clock.slept == [1, 2, 4, 8, 10, 10]
    clock = Clock()
    with pytest.raises(StoreError):
        patiently(away(99), Patience(total_s=12), clock=clock, sleep=clock.slept.append)
    assert clock.slept == [1, 2, 4, 5]


def test_the_drivers_patience_outlasts_an_outage_of_two_minutes_and_a_readers_none() -> None:
    assert PATIENT.total_s > 120
    clock = Clock()
    with pytest.raises(StoreError):
        patiently(away(1), HASTY, clock=clock, sleep=clock.slept.append)
    assert clock.slept == []


def test_a_store_that_says_when_to_come_back_is_obeyed() -> None:
    clock = Clock()
    patiently(away(2, wait_s=30.0), Patience(total_s=40), clock=clock, sleep=clock.slept.append)
    assert clock.slept == [30, 10]


def test_only_a_store_that_is_away_is_waited_for() -> None:
    def refused() -> None:
        raise CredentialsError("log in")

    clock = Clock()
    with pytest.raises(CredentialsError):
        patiently(refused, PATIENT, clock=clock, sleep=clock.slept.append)
    assert clock.slept == []
