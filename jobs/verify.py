"""Read a mosaic back, and hold it against what its runs say was written.

    sample    some tiles of each run, evenly spread; its metadata and the files of its runs whole
    full      every shard of every level besides, what should not be there, and every commit's snapshot (icechunk)

Ledgers are read in columns and shards in threads, a few at a time; what is kept grows with what is bad, and by some
bytes a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from jobs.faults import FROM_COPY, REDO, REWRITE, Fault, Report, joined
from jobs.ledger import FINISHED, Entry, RunFolder
from jobs.level_check import level_faults
from jobs.run_check import KnownRun, look_at_runs
from jobs.stored_shards import DamagedError, Odd, StoredShards, hands_for, in_threads
from jobs.tile_file import TilePlaces
from jobs.tree_check import Strays, history_faults, strays
from jobs.tree_metadata import metadata_faults
from mapper.errors import CredentialsError, MapperError, MosaicError, StoreError
from mapper.grid import Grid, Tile
from mapper.mosaic import Mosaic, checksum, source_checksum
from mapper.storage import is_local

ODD = "its bytes have changed; its pixels have not"
"""Said of a shard that decodes to what was written and is stored in another way."""


def verify(mosaic: str, *, full: bool, sample: int = 32) -> Report:
    """All runs of a mosaic: every tile, or a sample evenly spread over each run.

    Raises:
        MosaicError: there is no mosaic, or none of its runs left a ledger.
        StoreError, CredentialsError: the store is away.
    """
    runs = look_at_runs(mosaic)
    if not runs:
        Mosaic.open(mosaic, writable=False)
        raise MosaicError("no run of this mosaic left a ledger", fix="check the path", mosaic=mosaic)
    told = Report(checked=0, finished=0, bad=tuple(f for run in runs for f in run.faults), unfinished=0, full=full)
    opened = open_or_fault(mosaic)
    if isinstance(opened, Fault):
        return replace(told, bad=(*told.bad, opened))
    tree = Report(checked=0, finished=0, bad=tuple(metadata_faults(opened, runs)), unfinished=0, full=full)
    reports = [told, tree, *(_run_report(opened, run, sample=None if full else sample) for run in runs if run.readable)]
    if full:
        known = [run for run in runs if run.readable]
        above, compared = level_faults(opened, known)
        stray = strays(opened, known) if len(known) == len(runs) else Strays(faults=[])
        bad = (*above, *stray.faults, *history_faults(opened))
        reports.append(
            Report(checked=0, finished=0, bad=bad, unfinished=0, full=True, bytes_compared=compared,
                   unrecorded=stray.unrecorded),
        )  # fmt: skip
    return joined(reports, full=full)


def verify_run(folder: RunFolder, *, sample: int | None, rows: NDArray[np.int64] | None = None) -> Report:
    """The tiles of one run: ``sample`` of them, evenly spread, or all; or these rows of its plan."""
    run = KnownRun(name=folder.run, folder=folder, facts=folder.facts(), spec=None, faults=(), readable=True)
    return _run_report(Mosaic.open(folder.mosaic, writable=False), run, sample=sample, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """What one tile of a run turned out to be."""

    bad: list[Fault]
    odd: list[Fault]
    shards: int
    """With the right pixels."""


class _Tiles:
    """The tiles of one run, on the axes of its mosaic."""

    def __init__(self, mosaic: Mosaic, run: KnownRun, places: TilePlaces) -> None:
        self._run, self._places = run.name, places
        self._stored = StoredShards(mosaic)
        named = {grid.name: grid for grid in mosaic.grids}
        names = run.facts.get("grids", list(named))
        self._grids = [named.get(name) for name in names]
        steps = {time.isoformat(): number for number, time in enumerate(mosaic.times)}
        self._steps = [steps.get(step) for step in run.facts.get("steps", steps)]
        self._prompts = {prompt.name: number for number, prompt in enumerate(mosaic.prompts)}

    def look(self, entry: Entry) -> _Looked:
        """Read one back."""
        place = self._place(entry)
        if place is None:
            reason = "its ledger speaks of a tile, a zone or a time step that the mosaic does not have"
            return _Looked(bad=[self._fault(entry, f"tile {entry.tile}/", reason, fix=FROM_COPY)], odd=[], shards=0)
        grid, tile, step = place
        label = f"{grid.name or '0'}/{tile.name}/t{step}"
        found = _Looked(bad=[], odd=[], shards=0)
        intact = 0
        for name, expected in zip(entry.prompts, entry.checksums, strict=True):
            intact += self._prompt(entry, grid, tile, step, name, expected, f"{label}/{name}", found)
        if entry.source_checksum is not None:
            intact += self._source(entry, grid, tile, step, f"{label}/source", found)
        return replace(found, shards=intact)

    def _prompt(
        self, entry: Entry, grid: Grid, tile: Tile, step: int, name: str, expected: int, label: str, found: _Looked
    ) -> int:
        """Mask and score of one prompt; how many of the two are right."""
        position = self._prompts.get(name)
        if position is None:
            reason = f"its ledger speaks of a prompt {name!r} that the mosaic's axis does not have"
            found.bad.append(self._fault(entry, label, reason, fix=FROM_COPY))
            return 0
        try:
            mask, score = (self._stored.read(grid, layer, tile, (position, step)) for layer in ("mask", "score"))
        except DamagedError as damage:
            found.bad.append(self._fault(entry, label, str(damage)))
            return 0
        if checksum(mask.array, score.array) != expected:
            missing = [layer for layer, shard in (("mask", mask), ("score", score)) if not shard.stored]
            reason = (
                f"there is no {' and no '.join(missing)}, and what stands is not what the ledger says"
                if missing
                else "mask or score differ from what was written"
            )
            found.bad.append(self._fault(entry, label, reason))
            return 0
        for layer, shard in (("mask", mask), ("score", score)):
            if shard.odd:
                found.odd.append(self._fault(entry, label, f"{layer}: {ODD}"))
        return 2

    def _source(self, entry: Entry, grid: Grid, tile: Tile, step: int, label: str, found: _Looked) -> int:
        try:
            source = self._stored.read(grid, "source", tile, (step,))
        except DamagedError as damage:
            found.bad.append(self._fault(entry, label, str(damage)))
            return 0
        if source_checksum(source.array) != entry.source_checksum:
            reason = "the source layer differs from what was written" if source.stored else "there is no source layer"
            found.bad.append(self._fault(entry, label, reason))
            return 0
        if source.odd:
            found.odd.append(self._fault(entry, label, f"source: {ODD}"))
        return 1

    def _place(self, entry: Entry) -> tuple[Grid, Tile, int] | None:
        places = self._places
        if not 0 <= entry.tile < len(places.row):
            return None
        number, moment = int(places.grid[entry.tile]), int(places.step[entry.tile])
        grid = self._grids[number] if number < len(self._grids) else None
        step = self._steps[moment] if moment < len(self._steps) else None
        if grid is None or step is None:
            return None
        row, column = int(places.row[entry.tile]), int(places.column[entry.tile])
        rows, columns = grid.tile_shape
        if row >= rows or column >= columns:
            return None
        return grid, grid.tile(row, column), step

    def _fault(self, entry: Entry, label: str, reason: str, *, fix: str = REDO) -> Fault:
        row = entry.tile if fix == REDO else None
        return Fault(run=self._run, tile=label, reason=reason, fix=fix, kind="shard", row=row)


def _run_report(mosaic: Mosaic, run: KnownRun, *, sample: int | None, rows: NDArray[np.int64] | None = None) -> Report:
    """The tiles of one run."""
    tiles = _Tiles(mosaic, run, places := run.folder.places())
    finished = run.folder.finished()
    if rows is not None:
        chosen = np.intersect1d(rows, finished)
    else:
        chosen = finished if sample is None else finished[:: max(1, -(-len(finished) // sample))]
    bad: list[Fault] = []
    odd: Odd[Fault] = Odd()
    checked = 0
    for looked in in_threads(tiles.look, _entries(run.folder, chosen, len(finished)), hands_for(mosaic)):
        checked += 1
        bad += looked.bad
        odd.see(looked.shards, looked.odd)
    bad += odd.faults()
    unfinished = int(run.facts.get("planned", len(places.row))) - len(finished)
    bad += _ending_faults(run, unfinished, mosaic)
    return Report(
        checked=checked,
        finished=len(finished),
        bad=tuple(sorted(bad, key=lambda found: found.tile)),
        unfinished=unfinished,
        full=sample is None,
        bytes_compared=odd.tell,
    )


def _entries(folder: RunFolder, chosen: NDArray[np.int64], finished: int) -> Iterator[Entry]:
    """The last word on these tiles, each a finished one."""
    wanted: Sequence[int] | None = None if len(chosen) == finished else chosen.tolist()
    return (entry for entry in folder.last_entries(wanted) if entry.state in FINISHED)


def _ending_faults(run: KnownRun, unfinished: int, mosaic: Mosaic) -> Iterator[Fault]:
    """A run that says that it is done, and whose ledger does not."""
    if run.facts.get("state") == "done" and unfinished > 0:
        yield Fault(
            run=run.name, tile=run.name, kind="run", fix=REDO,
            reason=f"the run says that it is done, and its ledger has no word on {unfinished:,} of its tiles",
        )  # fmt: skip


def open_or_fault(url: str) -> Mosaic | Fault:
    """A mosaic of which something could be read a moment ago, or why it cannot be opened.

    Raises:
        StoreError, CredentialsError: the store is away.
    """
    try:
        return Mosaic.open(url, writable=False)
    except CredentialsError:
        raise
    except StoreError as error:
        if not is_local(url) and isinstance(error.__cause__, OSError):
            raise
        said = error.what
    except MapperError as error:
        said = error.what
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # its root says what no mosaic's root says
        said = f"{type(error).__name__}: {error}"
    return Fault(
        run="", tile="zarr.json", reason=f"the mosaic cannot be opened: {said}", fix=REWRITE, kind="metadata",
        key="zarr.json",
    )  # fmt: skip
