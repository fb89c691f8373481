"""Read tiles back and compare them with what the ledger says was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from jobs.ledger import FINISHED, Entry, RunFolder, run_names
from jobs.tile_table import PlannedTile
from mapper.errors import MapperError, MosaicError
from mapper.mosaic import Mosaic, checksum, source_checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class BadTile:
    """A tile that is not what was written."""

    run: str
    tile: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a verification found."""

    checked: int
    bad: tuple[BadTile, ...]
    unfinished: int
    """Planned tiles that no run has finished."""


def verify(mosaic: str, *, full: bool, sample: int = 32) -> Report:
    """All runs of a mosaic: every tile, or a sample evenly spread over each run.

    Raises:
        MosaicError: there is no mosaic, or none of its runs left a ledger.
    """
    Mosaic.open(mosaic, writable=False)
    names = run_names(mosaic)
    if not names:
        raise MosaicError("no run of this mosaic left a ledger", fix="check the path", mosaic=mosaic)
    reports = [verify_run(RunFolder(mosaic, name), sample=None if full else sample) for name in names]
    return Report(
        checked=sum(report.checked for report in reports),
        bad=tuple(bad for report in reports for bad in report.bad),
        unfinished=sum(report.unfinished for report in reports),
    )


def verify_run(folder: RunFolder, *, sample: int | None) -> Report:
    """One run; ``sample`` tiles of it, evenly spread, or all, and then the coarser levels too."""
    mosaic = Mosaic.open(folder.mosaic, writable=False)
    tiles = folder.tiles()
    states = folder.states()
    finished = [entry for _, entry in sorted(states.items()) if entry.state in FINISHED]
    chosen = finished if sample is None or len(finished) <= sample else finished[:: -(-len(finished) // sample)]
    bad = [found for entry in chosen for found in _faults(folder.run, mosaic, tiles[entry.tile], entry)]
    if sample is None:
        bad += _level_faults(folder, mosaic)
    planned = int(folder.facts().get("planned", len(tiles)))
    return Report(checked=len(chosen), bad=tuple(bad), unfinished=planned - len(finished))


def _faults(run: str, mosaic: Mosaic, planned: PlannedTile, entry: Entry) -> Iterator[BadTile]:
    grid = mosaic.grids[planned.grid]
    tile = grid.tile(planned.row, planned.column)
    names = [prompt.name for prompt in mosaic.prompts]
    for name, expected in zip(entry.prompts, entry.checksums, strict=True):
        label = f"{grid.name or '0'}/{tile.name}/t{planned.step}/{name}"
        try:
            mask, score, source = mosaic.read(grid, tile, planned.step, names.index(name))
        except MapperError as error:
            yield BadTile(run=run, tile=label, reason=error.what)
            continue
        if checksum(mask, score) != expected:
            yield BadTile(run=run, tile=label, reason="mask or score differ from what was written, or are missing")
        elif entry.source_checksum is not None and source_checksum(source) != entry.source_checksum:
            yield BadTile(run=run, tile=label, reason="the source layer differs from what was written, or is missing")


def _level_faults(folder: RunFolder, mosaic: Mosaic) -> Iterator[BadTile]:
    """The shards of coarser levels that are not what was last put there."""
    names = [prompt.name for prompt in mosaic.prompts]
    last: dict[tuple[str, str], int] = {}
    for built in folder.built():
        last |= {(built.key, name): crc for name, crc in zip(built.prompts, built.checksums, strict=True)}
    for (key, name), expected in last.items():
        zone, moment, level, row, column = key.split("/")
        grid = next(grid for grid in mosaic.grids if grid.name == zone).pyramid()[int(level)]
        step = mosaic.times.index(datetime.fromisoformat(moment))
        tile = grid.tile(int(row), int(column))
        label = f"{grid.path}/{tile.name}/t{step}/{name}"
        try:
            mask, score, _ = mosaic.read(grid, tile, step, names.index(name))
        except MapperError as error:
            yield BadTile(run=folder.run, tile=label, reason=error.what)
            continue
        if checksum(mask, score) != expected:
            reason = "a coarser level differs from what was written, or is missing"
            yield BadTile(run=folder.run, tile=label, reason=reason)
