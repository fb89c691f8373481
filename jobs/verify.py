"""Read tiles back and compare them with what the ledger says was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from jobs.ledger import FINISHED, ROWS_IN_HAND, Entry, RunFolder, run_names
from jobs.tile_file import TilePlaces
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
    tiles = folder.places()
    finished = folder.finished()
    chosen = None if sample is None else finished[:: max(1, -(-len(finished) // sample))]
    bad: list[BadTile] = []
    checked = 0
    for entry in folder.last_entries(chosen):
        if entry.state in FINISHED:
            checked += 1
            bad += _faults(folder.run, mosaic, tiles, entry)
    if sample is None:
        bad += _level_faults(folder, mosaic)
    planned = int(folder.facts().get("planned", len(tiles.row)))
    return Report(
        checked=checked, bad=tuple(sorted(bad, key=lambda found: found.tile)), unfinished=planned - len(finished)
    )


def _faults(run: str, mosaic: Mosaic, tiles: TilePlaces, entry: Entry) -> Iterator[BadTile]:
    grid = mosaic.grids[tiles.grid[entry.tile]]
    tile = grid.tile(int(tiles.row[entry.tile]), int(tiles.column[entry.tile]))
    step = int(tiles.step[entry.tile])
    names = [prompt.name for prompt in mosaic.prompts]
    for name, expected in zip(entry.prompts, entry.checksums, strict=True):
        label = f"{grid.name or '0'}/{tile.name}/t{step}/{name}"
        try:
            mask, score, source = mosaic.read(grid, tile, step, names.index(name))
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
    for key, name, expected in _last_built(folder):
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


def _last_built(folder: RunFolder) -> Iterator[tuple[str, str, int]]:
    """Key, prompt and checksum of each shard of a coarser level, as it was put last."""
    heard: dict[str, tuple[str, ...]] = {}
    for batch in folder.built("prompts", "checksums"):
        for begin in range(len(batch), 0, -ROWS_IN_HAND):
            rows = batch.slice(max(0, begin - ROWS_IN_HAND), min(begin, ROWS_IN_HAND)).to_pylist()
            for row in reversed(rows):
                known = heard.get(row["key"], ())
                news = [pair for pair in zip(row["prompts"], row["checksums"], strict=True) if pair[0] not in known]
                heard[row["key"]] = (*known, *(name for name, _ in news))
                yield from ((row["key"], name, crc) for name, crc in news)
