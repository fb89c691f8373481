"""Read a mosaic back, and hold it against what its runs say was written.

    sample    some tiles of each run, evenly spread; its metadata and the files of its runs whole
    full      every shard of every level besides, what should not be there, and every commit's snapshot (icechunk)

Of several runs that have mapped one tile the last to renew it is believed, see ``jobs/speaking.py``. Where one has
begun to renew a tile and not recorded it, what stands there may be the new: that is told, and no fault.

Ledgers are read in columns and shards in threads, a few at a time; what is kept grows with what is bad, and by some
bytes a shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from jobs.faults import FROM_COPY, REDO, REWRITE, Fault, Report, joined
from jobs.ledger import FINISHED, Entry, RunFolder, run_names
from jobs.level_check import level_faults
from jobs.run_check import KnownRun, look_at_runs, lost_before
from jobs.speaking import Axes, RunColumns, Voice, columns_of, renews_of, voices
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
    report = _verified(mosaic, runs, full=full, sample=sample)
    if any(fault.kind in ("shard", "level") for fault in report.bad):
        now = look_at_runs(mosaic)
        if {run.name for run in now} != {run.name for run in runs}:  # one that was not known has renewed it since
            return _verified(mosaic, now, full=full, sample=sample)
    return report


def _verified(mosaic: str, runs: Sequence[KnownRun], *, full: bool, sample: int) -> Report:
    told = Report(checked=0, finished=0, bad=tuple(f for run in runs for f in run.faults), unfinished=0, full=full)
    opened = open_or_fault(mosaic)
    if isinstance(opened, Fault):
        return replace(told, bad=(*told.bad, opened))
    tree = Report(checked=0, finished=0, bad=tuple(metadata_faults(opened, runs)), unfinished=0, full=full)
    heard, known = _heard(opened, runs), [run for run in runs if run.readable]
    reports = [told, tree]
    reports += [_run_report(opened, run, heard.get(run.name), sample=None if full else sample) for run in known]
    if full:
        above = level_faults(opened, runs)
        stray = strays(opened, known) if len(known) == len(runs) else Strays(faults=[])
        bad = (*above.faults, *stray.faults, *history_faults(opened))
        reports.append(
            Report(checked=0, finished=0, bad=bad, unfinished=0, full=True, bytes_compared=above.bytes_compared,
                   unrecorded=stray.unrecorded + above.unrecorded),
        )  # fmt: skip
    return joined(reports, full=full)


def verify_run(folder: RunFolder, *, sample: int | None, rows: NDArray[np.int64] | None = None) -> Report:
    """The tiles of one run: ``sample`` of them, evenly spread, or all; or these rows of its plan.

    Those that a later run has renewed are that one's, and are left out.
    """
    run, mosaic = _unlooked(folder), Mosaic.open(folder.mosaic, writable=False)
    others = [_unlooked(RunFolder(folder.mosaic, name)) for name in run_names(folder.mosaic) if name != folder.run]
    later = [other for other in others if renews_of(other.facts) > renews_of(run.facts)]
    heard = _heard(mosaic, [run, *later])
    return _run_report(mosaic, run, heard.get(run.name), sample=sample, rows=rows)


def _unlooked(folder: RunFolder) -> KnownRun:
    """A run whose files are taken to be whole."""
    return KnownRun(name=folder.run, folder=folder, facts=folder.facts(), spec=None, faults=(), readable=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Heard:
    """What of one run still counts."""

    columns: RunColumns
    voice: Voice


def _heard(mosaic: Mosaic, runs: Sequence[KnownRun]) -> dict[str, _Heard]:
    """Run → what of it still counts; of none where no run renews what others have mapped."""
    lost = max((lost_before(run) for run in runs), default=0)
    planned = [run for run in runs if run.planned]
    if not lost and not any(renews_of(run.facts) for run in planned):
        return {}
    axes = Axes(mosaic)
    columns = [columns_of(run.folder, run.facts, axes, ledger=run.readable) for run in planned]
    told = zip(planned, columns, voices(columns, lost=lost), strict=True)
    return {run.name: _Heard(columns=of, voice=voice) for run, of, voice in told}


@dataclass(slots=True, kw_only=True)
class _Looked:
    """What one tile of a run turned out to be."""

    bad: list[Fault] = field(default_factory=list)
    odd: list[Fault] = field(default_factory=list)
    shards: int = 0
    """With the right pixels."""

    unrecorded: int = 0
    """With other pixels, which a run that renews the tile may have put and not recorded yet."""


class _Tiles:
    """The tiles of one run, on the axes of its mosaic."""

    def __init__(self, mosaic: Mosaic, run: KnownRun, places: TilePlaces, voice: Voice | None) -> None:
        self._run, self._places, self._voice = run.name, places, voice
        self._stored = StoredShards(mosaic)
        named = {grid.name: grid for grid in mosaic.grids}
        names = run.facts.get("grids", list(named))
        self._grids = [named.get(name) for name in names]
        steps = {time.isoformat(): number for number, time in enumerate(mosaic.times)}
        self._steps = [steps.get(step) for step in run.facts.get("steps", steps)]
        self._prompts = {prompt.name: number for number, prompt in enumerate(mosaic.prompts)}

    def look(self, entry: Entry) -> _Looked:
        """Read one back."""
        place, found = self._place(entry), _Looked()
        if place is None:
            reason = "its ledger speaks of a tile, a zone or a time step that the mosaic does not have"
            found.bad.append(self._fault(entry, f"tile {entry.tile}/", reason, fix=FROM_COPY))
            return found
        grid, tile, step = place
        label = f"{grid.name or '0'}/{tile.name}/t{step}"
        for name, expected in zip(entry.prompts, entry.checksums, strict=True):
            if not self._is_overtaken(entry, self._prompts.get(name)):
                self._prompt(entry, grid, tile, step, name, expected, f"{label}/{name}", found)
        if entry.source_checksum is not None and not self._is_overtaken(entry, len(self._prompts)):
            self._source(entry, grid, tile, step, f"{label}/source", found)
        return found

    def _is_overtaken(self, entry: Entry, layer: int | None) -> bool:
        """Whether a run that renewed the tile later speaks for a layer of it."""
        return self._voice is not None and layer is not None and bool(self._voice.overtaken[layer, entry.tile])

    def _is_unsure(self, entry: Entry) -> bool:
        """Whether a run that renews the tile may have put some of its shards, and recorded none."""
        return self._voice is not None and bool(self._voice.unsure[entry.tile])

    def _prompt(
        self, entry: Entry, grid: Grid, tile: Tile, step: int, name: str, expected: int, label: str, found: _Looked
    ) -> None:
        """Mask and score of one prompt."""
        position = self._prompts.get(name)
        if position is None:
            reason = f"its ledger speaks of a prompt {name!r} that the mosaic's axis does not have"
            found.bad.append(self._fault(entry, label, reason, fix=FROM_COPY))
            return
        try:
            mask, score = (self._stored.read(grid, layer, tile, (position, step)) for layer in ("mask", "score"))
        except DamagedError as damage:
            found.bad.append(self._fault(entry, label, str(damage)))
            return
        odd = [layer for layer, shard in (("mask", mask), ("score", score)) if shard.odd]
        if checksum(mask.array, score.array) == expected:
            found.shards += 2
        else:
            missing = [layer for layer, shard in (("mask", mask), ("score", score)) if not shard.stored]
            if self._is_unsure(entry) and not missing:
                found.unrecorded += 2
            else:
                reason = (
                    f"there is no {' and no '.join(missing)}, and what stands is not what the ledger says"
                    if missing
                    else "mask or score differ from what was written"
                )
                found.bad.append(self._fault(entry, label, reason))
                return
        found.odd += [self._fault(entry, label, f"{layer}: {ODD}") for layer in odd]

    def _source(self, entry: Entry, grid: Grid, tile: Tile, step: int, label: str, found: _Looked) -> None:
        try:
            source = self._stored.read(grid, "source", tile, (step,))
        except DamagedError as damage:
            found.bad.append(self._fault(entry, label, str(damage)))
            return
        if source_checksum(source.array) == entry.source_checksum:
            found.shards += 1
        elif self._is_unsure(entry):  # where no scene is seen any more there is none to be stored
            found.unrecorded += 1
        else:
            reason = "the source layer differs from what was written" if source.stored else "there is no source layer"
            found.bad.append(self._fault(entry, label, reason))
            return
        if source.odd:
            found.odd.append(self._fault(entry, label, f"source: {ODD}"))

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

    def unsaid(self, rows: NDArray[np.int64]) -> Iterator[Fault]:
        """The same, tile by tile: in a mosaic that was renewed no run goes on by itself but the last."""
        places = self._places
        for row in rows.tolist():
            grid, step = self._grids[places.grid[row]], self._steps[places.step[row]]
            name = f"{(grid.name if grid else '') or '0'}/r{places.row[row]}c{places.column[row]}/t{step}"
            reason = "the run says that it is done, and its ledger has no word on this tile"
            yield Fault(run=self._run, tile=f"{name}/", reason=reason, fix=REDO, kind="shard", row=row)

    def _fault(self, entry: Entry, label: str, reason: str, *, fix: str = REDO) -> Fault:
        row = entry.tile if fix == REDO else None
        return Fault(run=self._run, tile=label, reason=reason, fix=fix, kind="shard", row=row)


def _run_report(
    mosaic: Mosaic, run: KnownRun, heard: _Heard | None, *, sample: int | None, rows: NDArray[np.int64] | None = None
) -> Report:
    """The tiles of one run for which it speaks."""
    tiles = _Tiles(mosaic, run, places := run.folder.places(), heard.voice if heard else None)
    own = run.folder.finished()
    finished, unsaid = (own, None) if heard is None else _left(own, heard)
    if rows is not None:
        chosen = np.intersect1d(rows, finished)
    else:
        chosen = finished if sample is None else finished[:: max(1, -(-len(finished) // sample))]
    bad: list[Fault] = []
    odd: Odd[Fault] = Odd()
    checked = unrecorded = 0
    for looked in in_threads(tiles.look, _entries(run.folder, chosen, len(own)), hands_for(mosaic)):
        checked += 1
        unrecorded += looked.unrecorded
        bad += looked.bad
        odd.see(looked.shards + looked.unrecorded, looked.odd)
    bad += odd.faults()
    elsewhere = 0 if unsaid is None else len(places.row) - len(own) - len(unsaid)
    unfinished = max(0, int(run.facts.get("planned", len(places.row))) - len(own) - elsewhere)
    if run.facts.get("state") == "done" and unfinished:
        bad += _ending_faults(run, unfinished) if unsaid is None or len(unsaid) != unfinished else tiles.unsaid(unsaid)
    return Report(
        checked=checked,
        finished=len(finished),
        bad=tuple(sorted(bad, key=lambda found: found.tile)),
        unfinished=unfinished,
        full=sample is None,
        bytes_compared=odd.tell,
        unrecorded=unrecorded,
    )


def _left(own: NDArray[np.int64], heard: _Heard) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the tiles that a run has finished those it speaks for, and those that neither it nor a later run has."""
    silent = heard.voice.silent(heard.columns.finished)
    open_still = np.asarray(~heard.voice.overtaken[:-1].any(axis=0))
    open_still[own[own < len(open_still)]] = False
    return own[~np.isin(own, np.flatnonzero(silent))], np.flatnonzero(open_still)


def _entries(folder: RunFolder, chosen: NDArray[np.int64], finished: int) -> Iterator[Entry]:
    """The last word on these tiles, each a finished one."""
    wanted: Sequence[int] | None = None if len(chosen) == finished else chosen.tolist()
    return (entry for entry in folder.last_entries(wanted) if entry.state in FINISHED)


def _ending_faults(run: KnownRun, unfinished: int) -> Iterator[Fault]:
    """A run that says that it is done, and whose ledger does not."""
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
