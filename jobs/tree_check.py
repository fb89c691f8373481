"""What lies in a mosaic and should not: shards that no ledger speaks of, and other people's files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from zarr.abc.store import Store
from zarr.core.sync import sync

from jobs.faults import FROM_COPY, REMOVE, Fault
from jobs.lease import Lease
from jobs.ledger import FINISHED, with_state
from jobs.level_check import axes_of
from jobs.levels import shards_over
from jobs.run_check import KnownRun
from jobs.standing import level_rows, tile_rows
from jobs.summary import ENDED
from jobs.tile_table import Flags
from mapper.errors import BusyError, MapperError, QuestionError, StoreError
from mapper.grid import Grid
from mapper.mosaic import Mosaic
from mapper.storage import store_failure

_LAST_WORDS = FINISHED | {"quarantined"}
"""States of a tile that is not taken again."""

LAYERS = ("mask", "score", "source")
COORDINATES = ("prompt", "time", "y", "x", "spatial_ref")
LOOK = "look at it, and take it away if nobody needs it"

_DRAFT = ".partial"
"""How zarr calls a shard on a local disk until all of it is there; who dies meanwhile leaves it. No reader sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shelf:
    """The shards of one level of one zone."""

    grid: Grid
    recorded: Flags
    """``(prompt, time, row, column)``: a ledger speaks of mask and score. One more prompt stands for the source."""

    planned: Flags | None
    """``(time, row, column)``: a run has planned it; None on coarser levels."""

    to_come: Flags
    """As ``recorded``: a run that goes on will write it, whether it has done so before or not."""

    going_on: Flags
    """The same of tiles of a run that has not ended, recorded ones too."""


@dataclass(slots=True, kw_only=True)
class Strays:
    """What lies in a mosaic and no ledger speaks of."""

    faults: list[Fault]
    """Shards that nobody will write again, and foreign files."""

    unrecorded: int = 0
    """Shards where a run that was stopped is going to write: it had put them, and not recorded them yet."""


def strays(mosaic: Mosaic, runs: Sequence[KnownRun]) -> Strays:
    """Shards that no ledger speaks of and foreign files, anywhere in the tree; temporary files of killed writers too.

    While a driver writes, what it has planned and not yet recorded is none.
    """
    shelves = _shelves(mosaic, runs)
    busy = _is_written(mosaic)
    try:
        return sync(_strays(mosaic, shelves, busy))
    except Exception as error:
        raise store_failure(error, mosaic.url, "listed") from error


def _is_written(mosaic: Mosaic) -> bool:
    try:
        Lease(mosaic.url, "", engine=mosaic.engine).refuse_if_held()
    except BusyError:
        return True
    return False


def _shelves(mosaic: Mosaic, runs: Sequence[KnownRun]) -> list[list[_Shelf]]:
    """Zone by zone, level by level: what the ledgers of these runs speak of."""
    prompts, times = len(mosaic.prompts), len(mosaic.times)
    shelves = [
        [
            _Shelf(
                grid=level,
                recorded=np.zeros((prompts + 1, times, *level.tile_shape), np.bool_),
                planned=np.zeros((times, *level.tile_shape), np.bool_) if level.level == 0 else None,
                to_come=np.zeros((prompts + 1, times, *level.tile_shape), np.bool_),
                going_on=np.zeros((prompts + 1, times, *level.tile_shape), np.bool_),
            )
            for level in grid.pyramid()
        ]
        for grid in mosaic.grids
    ]
    for run in runs:
        _enter_tiles(mosaic, run, shelves)
        _enter_levels(mosaic, run, shelves)
    for levels in shelves:
        for shelf in levels[1:]:
            _look_up(levels[0], shelf)
    return shelves


def _look_up(base: _Shelf, coarser: _Shelf) -> None:
    """What lies over shards of a run that has not ended is to come: it is built when all below it is over."""
    *axes, rows, columns = np.nonzero(base.going_on)
    over_rows, over_columns = shards_over(base.grid, coarser.grid)
    for row in over_rows[:, rows]:  # a shard lies under two of a coarser level, where their lattices do not meet
        for column in over_columns[:, columns]:
            coarser.to_come[*axes, row, column] = True


def _enter_tiles(mosaic: Mosaic, run: KnownRun, shelves: list[list[_Shelf]]) -> None:
    grids, steps, prompts = axes_of(mosaic)
    places = run.folder.places()
    zone = np.array([grids.get(name, -1) for name in run.facts.get("grids", list(grids))] or [-1])[places.grid]
    step = np.array([steps.get(moment, -1) for moment in run.facts.get("steps", list(steps))] or [-1])[places.step]
    for number, levels in enumerate(shelves):
        shape = levels[0].recorded.shape
        here = (zone == number) & (step >= 0) & (places.row < shape[2]) & (places.column < shape[3])
        planned = levels[0].planned
        assert planned is not None
        planned[step[here], places.row[here], places.column[here]] = True
    over = np.zeros(len(zone), np.bool_)
    for batch in run.folder.last_words("state", "prompts"):
        last = batch.filter(with_state(batch, _LAST_WORDS)).column("tile").to_numpy()
        over[last[last < len(zone)]] = True
        done = batch.filter(with_state(batch, FINISHED))
        for prompt, tile in tile_rows(done, prompts):
            for number, levels in enumerate(shelves):
                shape = levels[0].recorded.shape
                own = tile[tile < len(zone)]
                own = own[(zone[own] == number) & (step[own] >= 0)]
                own = own[(places.row[own] < shape[2]) & (places.column[own] < shape[3])]
                levels[0].recorded[prompt, step[own], places.row[own], places.column[own]] = True
    if run.facts.get("state") in ENDED:
        return
    named = [prompt.name for prompt in run.spec.prompt_values()] if run.spec is not None else list(prompts)
    own_prompts = [prompts[name] for name in named if name in prompts]
    for number, levels in enumerate(shelves):
        shape = levels[0].recorded.shape
        (own,) = np.nonzero((zone == number) & (step >= 0))
        own = own[(places.row[own] < shape[2]) & (places.column[own] < shape[3])]
        left = own[~over[own]]
        for prompt in (*own_prompts, -1):
            levels[0].to_come[prompt, step[left], places.row[left], places.column[left]] = True
            levels[0].going_on[prompt, step[own], places.row[own], places.column[own]] = True


def _enter_levels(mosaic: Mosaic, run: KnownRun, shelves: list[list[_Shelf]]) -> None:
    grids, steps, prompts = axes_of(mosaic)
    for batch in run.folder.built("prompts", "tiles"):
        rows, _ = level_rows(batch, grids, steps, prompts)
        for number, levels in enumerate(shelves):
            for shelf in levels[1:]:
                shape = shelf.recorded.shape
                here = (rows[0] == shelf.grid.level) & (rows[1] == number)
                here &= (rows[3] < shape[2]) & (rows[4] < shape[3])
                _, _, step, row, column, prompt, _ = rows[:, here]
                shelf.recorded[prompt, step, row, column] = True
                shelf.recorded[-1, step, row, column] = True


async def _strays(mosaic: Mosaic, shelves: list[list[_Shelf]], busy: bool) -> Strays:
    store = mosaic.store
    found: list[Fault] = []
    told = Strays(faults=found)
    trees = {grid.name for grid in mosaic.grids if grid.name}
    levels = [shelf for zone in shelves for shelf in zone]
    top = {shelf.grid.path.partition("/")[0] for shelf in levels} | {"zarr.json", ".resmap"}
    found += [_foreign(name) async for name in _others(store, "", top)]
    for tree in sorted(trees):
        own = {shelf.grid.path.partition("/")[2] for shelf in levels if shelf.grid.name == tree} | {"zarr.json"}
        found += [_foreign(name) async for name in _others(store, tree, own)]
    for shelf in levels:
        path = shelf.grid.path
        found += [_foreign(name) async for name in _others(store, path, {*LAYERS, *COORDINATES, "zarr.json"})]
        for layer in LAYERS:
            found += [_foreign(name) async for name in _others(store, f"{path}/{layer}", {"zarr.json", "c"})]
            async for fault in _extra(mosaic, store, shelf, layer, busy=busy):
                if fault is None:
                    told.unrecorded += 1
                else:
                    found.append(fault)
    return told


async def _others(store: Store, path: str, known: set[str]) -> AsyncIterator[str]:
    """What lies in a folder beside what is known."""
    async for name in store.list_dir(path):
        if name.rstrip("/") not in known:
            yield f"{path}/{name}".lstrip("/")


async def _extra(mosaic: Mosaic, store: Store, shelf: _Shelf, layer: str, *, busy: bool) -> AsyncIterator[Fault | None]:
    """Whatever lies among the shards of a layer and is none that a ledger speaks of; None where it will be written
    again."""
    prefix = f"{shelf.grid.path}/{layer}/c/"
    axes = 1 if layer == "source" else 2
    recorded = np.asarray(shelf.recorded.any(axis=0)) if layer == "source" else shelf.recorded[:-1]
    to_come = shelf.to_come[-1] if layer == "source" else shelf.to_come[:-1]
    async for key in store.list_prefix(f"{shelf.grid.path}/{layer}/"):  # icechunk lists no less than an array
        if not key.startswith(prefix) or key.endswith(_DRAFT):
            continue
        place = _place(key.removeprefix(prefix), recorded.shape)
        if place is None:
            yield Fault(run="", tile=key, reason="a file among the shards that is none of them", fix=REMOVE,
                        kind="extra", key=key)  # fmt: skip
        elif not recorded[place]:
            step, row, column = place[axes - 1], place[-2], place[-1]
            if busy and (shelf.planned is None or shelf.planned[step, row, column]):
                continue
            if to_come[place]:
                yield None
                continue
            name = "source" if layer == "source" else mosaic.prompts[place[0]].name
            yield Fault(
                run="", tile=f"{shelf.grid.name or '0'}/r{row}c{column}/t{step}/{name}" if shelf.planned is not None
                else f"{shelf.grid.path}/r{row}c{column}/t{step}/{name}",
                reason=f"no ledger speaks of this shard of {layer}: whoever wrote it was stopped before it was recorded"
                if shelf.planned is None or shelf.planned[step, row, column] else
                f"no run has planned this shard of {layer}",
                fix=REMOVE, kind="extra", key=key,
            )  # fmt: skip


def _place(name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Position of a shard by the end of its key; None where there is no such shard."""
    parts = name.split("/")
    if len(parts) != len(shape) or not all(part.isascii() and part.isdecimal() for part in parts):
        return None
    place = tuple(int(part) for part in parts)
    plain = all(str(at) == part for at, part in zip(place, parts, strict=True))
    return place if plain and all(at < side for at, side in zip(place, shape, strict=True)) else None


def _foreign(name: str) -> Fault:
    return Fault(run="", tile=name, reason="a file that no mosaic has; resmap leaves it alone", fix=LOOK, kind="extra")


def history_faults(mosaic: Mosaic) -> Iterator[Fault]:
    """Commits of an icechunk mosaic that cannot be read any more. There are none under zarr."""
    if mosaic.engine != "icechunk":
        return
    try:
        snapshots = mosaic.snapshots()
    except StoreError as error:
        yield Fault(run="", tile="history", reason=error.what, fix=FROM_COPY, kind="metadata")
        return
    for snapshot in snapshots:
        try:
            Mosaic.open(mosaic.url, writable=False, at=snapshot.id)
        except QuestionError:  # from before it was a mosaic
            continue
        except (MapperError, ValueError) as error:
            said = error.what if isinstance(error, MapperError) else str(error)
            reason = f"what was committed then ({snapshot.message}) cannot be read: {said}"
            yield Fault(run="", tile=f"snapshot {snapshot.id}", reason=reason, fix=FROM_COPY, kind="metadata")
