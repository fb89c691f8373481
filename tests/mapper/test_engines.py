"""What every engine owes a mosaic, in every kind of place."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr

from mapper.errors import GridError, MapperError, MosaicError, VerifyError
from mapper.imagery import NO_SOURCE
from mapper.layout import LAYOUT
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic, TileLayers, Written
from mapper.pyramid import LevelTask, build_shard
from mapper.storage import EngineName, Folder, open_store, state_folder
from tests.mapper.sinks import (
    GRID,
    LATER,
    PROMPTS,
    ROAD,
    SHARED,
    SPEC,
    TILES,
    TIMES,
    Sink,
    content,
    holds,
    is_gap,
    keep,
    layers,
    others,
    put,
    sink_of,
)

IN_A_BUCKET = [place for place in SHARED if place[1] == "s3"]
"""What one writer does there is what it does in a folder: only what several share is looked at in both by default."""


@pytest.fixture(
    params=[
        *(place for place in SHARED if place not in IN_A_BUCKET),
        ("zarr", "memory"),
        *(pytest.param(place, marks=pytest.mark.chaos) for place in IN_A_BUCKET),
    ],
    ids="-".join,
)
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Sink:
    engine, store = request.param
    return sink_of(request, engine, store, tmp_path)


@pytest.fixture(params=SHARED, ids="-".join)
def shared_sink(request: pytest.FixtureRequest, tmp_path: Path) -> Sink:
    engine, store = request.param
    return sink_of(request, engine, store, tmp_path)


# Making and opening --------------------------------------------------------------------------------------------------


def test_a_mosaic_is_there_once_it_is_made_and_tells_its_engine(sink: Sink) -> None:
    url = sink.place()
    assert not Mosaic.exists(url)
    with pytest.raises(MosaicError, match="no mosaic here") as caught:
        Mosaic.open(url)
    assert caught.value.where == {"mosaic": url}
    Mosaic.create(url, SPEC, engine=sink.engine)
    assert Mosaic.exists(url)
    found = Mosaic.open(url, writable=False)
    assert found.engine == sink.engine
    assert (found.grids, found.prompts, found.times, found.made_by) == (SPEC.grids, PROMPTS, TIMES, SPEC.made_by)
    with pytest.raises(MosaicError, match="already there"):
        Mosaic.create(url, SPEC, engine=sink.engine)


def test_looking_for_a_mosaic_makes_nothing(tmp_path: Path) -> None:
    for writable in (False, True):
        with pytest.raises(MosaicError, match="no mosaic here"):
            Mosaic.open(str(tmp_path / "map"), writable=writable)
    assert not Mosaic.exists(str(tmp_path / "map"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["zarr", "icechunk"])
@pytest.mark.parametrize("store", ["folder", "s3"])
def test_no_engine_makes_a_mosaic_over_the_others(
    engine: EngineName, store: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = sink_of(request, engine, store, tmp_path).create()
    before = content(made.url)
    with pytest.raises(MosaicError, match="already there"):
        Mosaic.create(made.url, SPEC, engine="zarr" if engine == "icechunk" else "icechunk")
    assert content(made.url) == before


def test_what_an_interrupted_create_leaves_is_made_anew(sink: Sink) -> None:
    url = sink.place()
    with pytest.raises(MapperError):
        Mosaic.create(url, replace(SPEC, made_by={"model": object()}), engine=sink.engine)  # no JSON: fails at the end
    if sink.engine == "zarr":  # where it is killed later: some nodes are there, and not yet the root's document
        zarr.open_group(url, mode="r+").create_group("7", attributes={"spatial:registration": "pixel"})
    assert not Mosaic.exists(url)
    with pytest.raises(MosaicError, match="half made") as caught:
        Mosaic.open(url)
    assert caught.value.fix == "run its job again"
    mosaic = Mosaic.create(url, SPEC, engine=sink.engine)
    keep(mosaic, [put(mosaic, 0)])
    assert holds(Mosaic.open(url), 0)
    assert "7" not in zarr.open_group(open_store(url), mode="r", use_consolidated=False)


@pytest.mark.parametrize("attributes", [{}, {"title": "somebody's"}])
def test_somebody_elses_arrays_are_left_alone(sink: Sink, attributes: dict[str, str]) -> None:
    def fill(root: zarr.Group) -> None:
        root.create_array("temperature", shape=(4,), dtype="f4")[:] = [1, 2, 3, 4]
        root.attrs.put(dict(attributes))

    url = sink.place()
    others(url, sink.engine, fill)
    before = content(url)
    with pytest.raises(MosaicError):
        Mosaic.create(url, SPEC, engine=sink.engine)
    for look in (Mosaic.open, Mosaic.exists):
        with pytest.raises(MosaicError, match="not a resmap mosaic"):
            look(url)
    assert content(url) == before


def test_a_later_layout_is_refused(sink: Sink) -> None:
    url = sink.place()
    others(url, sink.engine, lambda root: root.attrs.put({"resmap": {"layout": LAYOUT + 1}}))
    with pytest.raises(MosaicError, match=f"layout {LAYOUT + 1}") as caught:
        Mosaic.open(url)
    assert caught.value.fix == "upgrade resmap"


@pytest.mark.parametrize("engine", ["zarr", "icechunk"])
def test_a_bucket_that_does_not_exist_is_named(engine: EngineName, bucket: str) -> None:
    url = f"{bucket}-not/map"
    with pytest.raises(MosaicError, match="bucket does not exist") as made:
        Mosaic.create(url, SPEC, engine=engine)
    with pytest.raises(MosaicError, match=r"bucket does not exist|no mosaic here") as opened:
        Mosaic.open(url)
    assert made.value.where == opened.value.where == {"mosaic": url}


def test_state_lies_in_a_zarr_tree_and_beside_a_repository(shared_sink: Sink) -> None:
    mosaic = shared_sink.create()
    place = f"{mosaic.url}/.resmap" if shared_sink.engine == "zarr" else f"{mosaic.url}.resmap"
    assert state_folder(mosaic.url).url == place
    assert state_folder(f"{mosaic.url}/", engine=shared_sink.engine).url == place
    state_folder(mosaic.url).write("lease.json", b"{}")
    assert holds_nothing_but_itself(mosaic)


def holds_nothing_but_itself(mosaic: Mosaic) -> bool:
    """Whether its engine still opens it, with state beside it."""
    return Mosaic.exists(mosaic.url) and Mosaic.open(mosaic.url).engine == mosaic.engine


def test_the_state_of_a_mosaic_to_be_is_found_where_it_was_put_and_outlives_its_making(shared_sink: Sink) -> None:
    url = shared_sink.place()
    assert state_folder(url).url == f"{url}/.resmap"
    planned = state_folder(url, engine=shared_sink.engine)
    planned.write("runs/a/job.yaml", b"name: a")
    assert state_folder(url).url == planned.url
    with pytest.raises(MapperError):
        Mosaic.create(url, replace(SPEC, made_by={"model": object()}), engine=shared_sink.engine)
    Mosaic.create(url, SPEC, engine=shared_sink.engine).add_prompts([ROAD])
    assert state_folder(url).url == planned.url
    assert planned.read("runs/a/job.yaml") == b"name: a"


def test_a_mosaic_that_was_made_since_its_folder_was_listed_is_found(bucket: str, tmp_path: Path) -> None:
    folder = Folder(f"{bucket}{tmp_path}/map")
    folder.write("runs.json", b"{}")
    assert folder.names() == ["runs.json"]
    Mosaic.create(folder.url, SPEC)  # through connections of its own, as another process would
    assert folder.exists("zarr.json")


# Writing and reading -------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_and_the_rest_stays_a_gap(sink: Sink) -> None:
    mosaic = sink.create()
    keep(mosaic, [put(mosaic, 1), put(mosaic, 3, time=1)])
    again = Mosaic.open(mosaic.url, writable=False)
    assert holds(again, 1)
    assert holds(again, 3, time=1)
    assert all(is_gap(again, number) for number in (0, 2, 3))
    assert is_gap(again, 1, time=1)
    assert again.is_stored(GRID, TILES[1], time=0, prompt=0)
    assert not again.is_stored(GRID, TILES[2], time=0, prompt=0)


def test_a_level_is_built_of_what_was_kept_of_the_finer_one(sink: Sink, tmp_path: Path) -> None:
    coordinator = sink.create()
    worker = Mosaic.open(coordinator.url)
    for time in (0, 1):
        keep(coordinator, [put(worker, number, time=time) for number in range(4)])
        for level in GRID.pyramid()[1:]:
            tasks = [LevelTask(id=0, grid=level, tile=tile, time=time, prompts=(0, 1)) for tile in level.tiles()]
            results = [build_shard(worker, task) for task in tasks]
            coordinator.commit([one.receipt for one in results if one.receipt is not None], "a level", {})
    plain = Mosaic.create(str(tmp_path / "plain"), SPEC)
    for number in range(4):
        put(plain, number)
    for level in GRID.pyramid()[1:]:
        for tile in level.tiles():
            build_shard(plain, LevelTask(id=0, grid=level, tile=tile, time=0, prompts=(0, 1)))
            for time in (0, 1):
                for one, other in zip(
                    coordinator.read(level, tile, time, 1), plain.read(level, tile, 0, 1), strict=True
                ):
                    np.testing.assert_array_equal(one, other)


def test_a_tile_written_twice_reads_as_written_once(sink: Sink) -> None:
    mosaic = sink.create()
    keep(mosaic, [put(mosaic, 0), put(mosaic, 0)])  # a backup of a slow worker's tile
    keep(mosaic, [put(mosaic, 0)])  # and a tile that a killed driver forgot
    assert holds(mosaic, 0)


def test_a_tile_that_becomes_a_gap_is_one(sink: Sink) -> None:
    mosaic = sink.create()
    keep(mosaic, [put(mosaic, 0)])
    nothing = np.full((2, 32, 32), UNMAPPED, np.uint8)
    source = np.full((32, 32), NO_SOURCE, np.uint32)
    empty = TileLayers(mask=nothing, score=nothing, source=source, prompts=(0, 1))
    keep(mosaic, [mosaic.write(GRID, TILES[0], 0, empty), mosaic.write(GRID, TILES[1], 0, empty)])
    assert is_gap(mosaic, 0)
    assert is_gap(mosaic, 1)


def test_growth_touches_nothing_that_was_written(sink: Sink) -> None:
    mosaic = sink.create()
    keep(mosaic, [put(mosaic, 3, time=1)])
    mosaic.add_prompts([ROAD])
    mosaic.add_times([LATER])
    keep(mosaic, [mosaic.write(GRID, TILES[3], 2, layers(prompts=(2,)))])
    again = Mosaic.open(mosaic.url)
    assert (again.prompts, again.times) == ((*PROMPTS, ROAD), (*TIMES, LATER))
    assert holds(again, 3, time=1)
    assert (again.read(GRID, TILES[3], 2, 2)[0] == layers(prompts=(2,)).mask[0]).all()
    assert is_gap(again, 3)


def test_xarray_reads_either_engine(sink: Sink) -> None:
    mosaic = sink.create()
    keep(mosaic, [put(mosaic, 0)])
    mosaic.add_prompts([ROAD])
    opened = xr.open_zarr(open_store(mosaic.url), group="0", chunks=None)
    assert opened["prompt"].values.tolist() == ["building", "lake", "road"]
    assert (opened["mask"][0, 0, :32, :32].values == layers(0).mask[0]).all()
    assert (opened["mask"][2] == UNMAPPED).all()


@pytest.mark.parametrize("damage", ["a flipped byte", "a truncated file"])
def test_damage_is_an_error_that_names_the_tile_and_writing_it_again_mends_it(sink: Sink, damage: str) -> None:
    mosaic = sink.create()
    written = [put(mosaic, number) for number in (0, 1)]
    keep(mosaic, written)
    fs, path = fsspec.core.url_to_fs(mosaic.url)
    fs.invalidate_cache()
    folders = ("mask/c", "score/c", "source/c", "chunks/")
    for name in fs.find(path):
        if any(folder in name for folder in folders) and "/0/mask/c" not in name:
            good = bytearray(fs.cat_file(name))
            good[len(good) // 2] ^= 8
            fs.pipe_file(name, bytes(good if damage == "a flipped byte" else good[: len(good) // 2]))
    again = Mosaic.open(mosaic.url, writable=False)
    for number in (0, 1):
        with pytest.raises(VerifyError) as caught:
            again.layer(GRID, "score", TILES[number].core, time=0)
        assert caught.value.where == {"mosaic": mosaic.url, "layer": "0/score", "tile": TILES[number].name}
        assert not caught.value.retryable
    mender = Mosaic.open(mosaic.url)
    keep(mender, [put(mender, number) for number in (0, 1)])
    assert holds(Mosaic.open(mosaic.url), 0)
    assert holds(Mosaic.open(mosaic.url), 1)


# Several writers -----------------------------------------------------------------------------------------------------


def put_in_a_process(url: str, numbers: Sequence[int]) -> list[Written]:
    mosaic = Mosaic.open(url)
    return [put(mosaic, number) for number in numbers]


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


def test_two_processes_on_their_own_tiles_lose_nothing(shared_sink: Sink, processes: ProcessPoolExecutor) -> None:
    mosaic = shared_sink.create()
    halves = list(processes.map(put_in_a_process, [mosaic.url] * 2, [(0, 2), (1, 3)]))
    keep(mosaic, [one for half in halves for one in half])
    assert all(holds(Mosaic.open(mosaic.url), number) for number in range(4))


def test_threads_that_write_different_tiles_at_once_lose_nothing(sink: Sink) -> None:
    mosaic = sink.create()
    together = Barrier(8)

    def put_at_once(place: tuple[int, int]) -> Written:
        together.wait(30)
        return put(mosaic, place[0], time=place[1])

    places = [(number, time) for number in range(4) for time in (0, 1)]
    with ThreadPoolExecutor(8) as threads:
        keep(mosaic, list(threads.map(put_at_once, places)))
        assert all(threads.map(lambda place: holds(mosaic, place[0], time=place[1]), places))


def test_a_tile_that_was_refused_half_way_can_be_written_again(sink: Sink) -> None:
    mosaic = sink.create()
    whole = layers()
    assert whole.source is not None
    with pytest.raises(GridError, match="was given"):
        mosaic.write(GRID, TILES[0], 0, replace(whole, source=whole.source[:8]))
    keep(mosaic, [put(mosaic, 0), put(mosaic, 1)])
    assert holds(mosaic, 0)
    assert holds(mosaic, 1)


def test_a_prompt_or_time_that_the_mosaic_does_not_have_is_refused(sink: Sink) -> None:
    mosaic = sink.create()
    for time, prompts in ((0, (0, 2)), (2, (0, 1))):
        with pytest.raises(GridError, match="has no shard") as caught:
            mosaic.write(GRID, TILES[0], time, layers(prompts=prompts))
        assert "open the mosaic again" in caught.value.fix


def test_a_worker_that_opened_the_mosaic_long_ago_still_writes_and_reads_it(sink: Sink) -> None:
    coordinator = sink.create()
    worker = Mosaic.open(coordinator.url)
    early = put(worker, 0)
    for number in (1, 2):
        keep(coordinator, [put(coordinator, number)])
    coordinator.add_prompts([ROAD])
    coordinator.add_times([LATER])
    late = put(worker, 3)
    keep(coordinator, [early, late])
    assert all(holds(worker, number) for number in range(4))
    assert all(holds(Mosaic.open(coordinator.url), number) for number in range(4))
