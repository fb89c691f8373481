"""What is left to do, from the ledgers of all runs: as a look at one tile after another would have it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import box

from jobs.job import Job
from jobs.ledger import FINISHED, GIVEN_UP, Built, Entry, RunFolder
from jobs.plan import Plan
from jobs.prepare import Prepared
from jobs.standing import Rows, Standing, Wanted, rows_of, standing, without
from jobs.tile_table import PlannedTile, TileTable
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from mapper.storage import state_folder

AT = datetime(2026, 1, 2, tzinfo=UTC)
STEPS = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
GRID = Grid(lattice=Lattice(crs="EPSG:32632", res_x=1.0, res_y=1.0), box=PixelBox(0, 0, 256, 384), shard_px=128,
            chunk_px=64, name="utm32n")  # fmt: skip
GRIDS = (GRID, replace(GRID, lattice=replace(GRID.lattice, crs="EPSG:32633"), name="utm33n"))
PROMPTS = tuple(Prompt(name=name, expression=f"the {name}s") for name in ("roof", "road", "pond"))
TILES = tuple(
    PlannedTile(grid=grid, step=step, row=tile.row, column=tile.column, clipped=False, items=())
    for step in range(2)
    for grid in range(2)
    for tile in GRID.tiles()
)


def plan_of(tiles: tuple[PlannedTile, ...], grids: tuple[Grid, ...] = GRIDS) -> Plan:
    areas = {grid.name: box(0, 0, 1, 1) for grid in grids}
    return Plan(items=(), grids=grids, areas=areas, steps=STEPS, tiles=TileTable.of(tiles))


def prepared_in(mosaic: str, run: str, tiles: tuple[PlannedTile, ...], prompts: tuple[str, ...]) -> Prepared:
    """A run whose plan lies beside the mosaic."""
    job = Job.from_dict(
        {
            "name": "small",
            "area": {"bbox": [9, 50, 9.1, 50.1]},
            "imagery": {"catalog": "catalog.json", "bands": ["red", "green", "blue"]},
            "grid": {"crs": "EPSG:32632", "resolution_m": 1.0, "shard_px": 128, "chunk_px": 64},
            "prompts": [{"name": name, "expression": f"the {name}s"} for name in prompts],
            "model": {"name": "pocket"},
            "output": {"mosaic": mosaic},
        }
    )
    plan = plan_of(tiles)
    folder = RunFolder(mosaic, run)
    facts = {"grids": [grid.name for grid in plan.grids], "steps": [step.isoformat() for step in plan.steps]}
    folder.save_plan(job="", area=b"", items=b"", tiles=plan.tiles, facts=facts)
    return Prepared(job=job, run=run, area=box(0, 0, 1, 1), plan=plan, folder=folder, frozen=b"", saved=True)


@pytest.fixture(scope="module")
def mosaic_spec() -> MosaicSpec:
    return MosaicSpec(grids=GRIDS, prompts=PROMPTS, times=STEPS, made_by={"model": "pocket"})


def entry(tile: int, state: str, prompts: tuple[str, ...]) -> Entry:
    checksums = tuple(range(len(prompts)))
    return Entry(
        tile=tile, state=state, attempts=1, worker="gpu-0", at=AT, prompts=prompts, checksums=checksums,  # type: ignore[arg-type]
        error="" if state in FINISHED else "lost",
    )  # fmt: skip


def put(folder: RunFolder, entries: list[Entry], *, each: int = 5) -> None:
    ledger = folder.ledger()
    for number, one in enumerate(entries, start=1):
        ledger.record(one)
        if number % each == 0:
            ledger.flush()
    ledger.flush()


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """A run of one job: the order of its plan, its prompts, and what its ledger says."""

    tiles: tuple[PlannedTile, ...]
    prompts: tuple[str, ...]
    told: list[tuple[int, str, tuple[str, ...]]]


@st.composite
def sittings(draw: st.DrawFn) -> Sitting:
    names = tuple(prompt.name for prompt in PROMPTS)
    prompts = tuple(draw(st.permutations(names))[: draw(st.integers(1, 3))])
    states = st.sampled_from(sorted(FINISHED | GIVEN_UP))
    some = st.lists(st.sampled_from(prompts), min_size=1, max_size=3, unique=True)
    told = draw(st.lists(st.tuples(st.integers(0, len(TILES) - 1), states, some), max_size=30))
    return Sitting(
        tiles=tuple(draw(st.permutations(TILES))),
        prompts=prompts,
        told=[(tile, state, tuple(said) if state in FINISHED else ()) for tile, state, said in told],
    )


def one_by_one(runs: list[Sitting], retry: bool) -> tuple[dict[int, tuple[int, ...]], dict[int, set[int]]]:
    """What the last of these runs lacks, and what is finished: by looking at one tile after another."""
    position = {prompt.name: number for number, prompt in enumerate(PROMPTS)}
    done: dict[PlannedTile, set[int]] = defaultdict(set)
    given_up: set[int] = set()
    for number, run in enumerate(runs):
        for tile, (state, prompts) in {tile: (state, prompts) for tile, state, prompts in run.told}.items():
            if state in FINISHED:
                done[run.tiles[tile]] |= {position[name] for name in prompts}
            elif number == len(runs) - 1 and state == "quarantined" and not retry:
                given_up.add(tile)
    last = runs[-1]
    finished = {row: done[tile] for row, tile in enumerate(last.tiles) if tile in done}
    lacks = {
        row: tuple(position[name] for name in last.prompts if position[name] not in finished.get(row, ()))
        for row in range(len(last.tiles))
        if row not in given_up
    }
    return {row: missing for row, missing in lacks.items() if missing}, finished


@pytest.fixture(scope="module")
def in_memory(mosaic_spec: MosaicSpec) -> Mosaic:
    """A mosaic on no disk: many runs come and go beside it."""
    return Mosaic.create("memory://standing/map.zarr", mosaic_spec)


@given(runs=st.lists(sittings(), min_size=1, max_size=3), retry=st.booleans())
def test_the_columns_say_what_a_look_at_one_tile_after_another_does(
    in_memory: Mosaic, runs: list[Sitting], retry: bool
) -> None:
    state_folder(in_memory.url).remove_tree(["runs"])
    for number, run in enumerate(runs):
        prepared = prepared_in(in_memory.url, f"run-{number}", run.tiles, run.prompts)
        put(prepared.folder, [entry(*told) for told in run.told])
    found = standing(prepared, in_memory, retry=retry)
    wanted, finished = one_by_one(runs, retry)
    assert dict(found.wanted.items()) == wanted
    assert list(found.wanted) == list(found.wanted.rows) == sorted(wanted)
    assert {row: found.wanted[row] for row in wanted} == wanted
    assert set(found.sources) == set(finished)
    assert {row: set(np.flatnonzero(found.finished[:, row])) for row in finished} == finished
    assert not np.delete(found.finished, list(finished), axis=1).any()


@pytest.fixture
def mosaic(tmp_path: Path, mosaic_spec: MosaicSpec) -> Mosaic:
    return Mosaic.create(str(tmp_path / "map.zarr"), mosaic_spec)


def built_rows(found: Standing) -> list[tuple[int, ...]]:
    built = found.built
    columns = (built.level, built.grid, built.step, built.row, built.column, built.prompt, built.tiles)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_what_stands_on_coarser_levels_comes_in_the_order_in_which_it_was_built(mosaic: Mosaic) -> None:
    def built(key: str, prompts: tuple[str, ...], tiles: tuple[int, ...]) -> Built:
        return Built(key=key, prompts=prompts, tiles=tiles, checksums=tuple(range(len(tiles))), source_checksum=1)

    early, late = (step.isoformat() for step in STEPS)
    one = prepared_in(mosaic.url, "run-1", TILES, ("roof",))
    ledger = one.folder.level_ledger()
    ledger.record(built(f"utm33n/{late}/1/0/1", ("roof",), (3,)))
    ledger.flush()
    ledger.record(built(f"utm33n/{late}/1/0/1", ("roof",), (4,)))
    ledger.flush()
    two = prepared_in(mosaic.url, "run-2", TILES, ("pond", "road"))
    ledger = two.folder.level_ledger()
    ledger.record(built(f"utm32n/{early}/2/0/0", ("pond", "road"), (5, 6)))
    ledger.record(built(f"elsewhere/{early}/1/0/0", ("pond",), (9,)))  # a zone that the plan does not have
    ledger.flush()
    expected = [(1, 1, 1, 0, 1, 0, 3), (1, 1, 1, 0, 1, 0, 4), (2, 0, 0, 0, 0, 2, 5), (2, 0, 0, 0, 0, 1, 6)]
    assert built_rows(standing(two, mosaic, retry=False)) == expected


def test_nothing_was_done_where_no_ledger_is(mosaic: Mosaic) -> None:
    found = standing(prepared_in(mosaic.url, "run-1", TILES, ("road", "roof")), mosaic, retry=False)
    assert dict(found.wanted) == dict.fromkeys(range(len(TILES)), (1, 0))
    assert (len(found.sources), built_rows(found)) == (0, [])


def test_tiles_are_the_same_by_zone_and_moment_whatever_their_numbers_in_another_run(mosaic: Mosaic) -> None:
    prepared_in(mosaic.url, "run-1", TILES, ("roof",))
    swapped = [replace(tile, grid=1 - tile.grid) for tile in reversed(TILES)]
    ours = plan_of(tuple(swapped), (GRIDS[1], GRIDS[0]))
    rows = rows_of(RunFolder(mosaic.url, "run-1"), ours)
    assert rows is not None
    assert rows.tolist() == list(reversed(range(len(TILES))))


def test_a_tile_that_only_another_run_has_is_passed_over(mosaic: Mosaic) -> None:
    other = prepared_in(mosaic.url, "run-1", TILES, ("roof",))
    put(other.folder, [entry(row, "done", ("roof",)) for row in range(len(TILES))])
    ours = prepared_in(mosaic.url, "run-2", TILES[3:5], ("roof",))
    assert len(standing(ours, mosaic, retry=False).wanted) == 0
    one_zone = plan_of(tuple(tile for tile in TILES if tile.grid == 0), (GRIDS[0],))
    rows = rows_of(other.folder, one_zone)
    assert rows is not None
    assert [row >= 0 for row in rows] == [tile.grid == 0 for tile in TILES]


def test_a_run_of_the_first_version_which_names_no_grids_has_those_of_the_plan(mosaic: Mosaic) -> None:
    prepared = prepared_in(mosaic.url, "run-1", TILES, ("roof",))
    prepared.folder.save_facts({name: said for name, said in prepared.folder.facts().items() if name != "grids"})
    assert rows_of(prepared.folder, prepared.plan) is None
    rows = rows_of(prepared.folder, plan_of(TILES[::-1]))
    assert rows is not None
    assert rows.tolist() == list(reversed(range(len(TILES))))


def test_wanted_is_a_mapping_in_the_order_of_the_plan() -> None:
    missing = np.array([[1, 0, 1, 0], [0, 0, 1, 1]], np.bool_)
    wanted = Wanted(missing, (5, 2))
    assert dict(wanted) == {0: (5,), 2: (5, 2), 3: (2,)}
    assert list(wanted.items()) == [(0, (5,)), (2, (5, 2)), (3, (2,))]
    assert (len(wanted), 1 in wanted, 2 in wanted, wanted.get(1)) == (3, False, True, None)
    for row in (1, -1, 4):
        with pytest.raises(KeyError):
            wanted[row]
    assert not Wanted(np.zeros((2, 3), np.bool_), (0, 1))


@given(missing=st.integers(1, 9).flatmap(lambda prompts: st.lists(st.integers(0, 2**prompts - 1), max_size=40)))
def test_every_combination_of_missing_prompts_is_kept_apart(missing: list[int]) -> None:
    flags = np.array([[bits >> prompt & 1 for bits in missing] for prompt in range(9)], np.bool_).reshape(9, -1)
    expected = {row: tuple(p for p in range(9) if bits >> p & 1) for row, bits in enumerate(missing) if bits}
    assert dict(Wanted(flags, range(9))) == expected


def test_rows_are_those_whose_flag_is_set() -> None:
    rows = Rows(np.array([False, True, True]))
    assert (list(rows), len(rows)) == ([1, 2], 2)
    assert [row in rows for row in (0, 1, 2, 3, -1)] == [False, True, True, False, False]


def test_what_is_built_anew_is_forgotten_alone_on_a_grid_of_any_size() -> None:
    # Level, grid, step, row, column, prompt, tiles: a continent of small shards has more rows than five axes of one
    # length would have numbers for.
    built = np.array([[1, 0, 3, 90_000, 80_000, 0, 4], [1, 0, 3, 90_000, 80_001, 0, 4]], np.int32).T
    left = without(built, np.array([[1, 0, 3, 90_000, 80_001]], np.int32))
    assert left.T.tolist() == [[1, 0, 3, 90_000, 80_000, 0, 4]]
    assert without(built, np.empty((0, 5), np.int32)).shape == built.shape
