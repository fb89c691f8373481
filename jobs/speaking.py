"""Of several runs that have mapped one tile of a mosaic, which of them the mosaic shows.

A renewing run (``renews`` in its facts: 1, 2, …) maps tiles anew whose imagery has changed; an ordinary run counts as
number 0. For a tile, by zone, time step, row and column, and for each prompt, that run speaks which has finished it and
has the highest number. A run that has planned the tile later still, and not finished it, may have put some of its
shards and been stopped before they were recorded: then what stands there is of the one or of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.ledger import FINISHED, RunFolder, with_state
from jobs.places import Keys, Places
from jobs.standing import tile_rows
from jobs.tile_file import TilePlaces
from jobs.tile_table import Flags
from mapper.mosaic import Mosaic

_FINISHED_RANK = 1 << 32
"""What is finished comes before all that is only planned."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunColumns:
    """What one run has to do with the tiles of its plan, a column a tile."""

    renews: int
    """Its number among the renewing runs of the mosaic; 0 for all others."""

    place: Keys
    """Where each tile lies, as ``Axes.keys`` has it: -1 where the mosaic has no such place."""

    finished: Flags
    """``(layer, tile)``: each prompt by its position on the mosaic's axis, and behind them the source layer."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Voice:
    """What of a run still counts, a column a tile of its plan."""

    overtaken: Flags
    """``(layer, tile)``: a run that renewed later has finished it."""

    unsure: Flags
    """``(tile,)``: a run that renewed later has planned it. Where this run speaks, that one has not finished it."""

    renews: int

    def silent(self, finished: Flags) -> Flags:
        """``(tile,)``: whether all that the run has finished of a tile, as in ``RunColumns``, is overtaken."""
        return np.asarray(finished.any(axis=0) & ~(finished & ~self.overtaken).any(axis=0))


class Axes:
    """The axes of a mosaic, on which the tiles of all its runs have a place."""

    def __init__(self, mosaic: Mosaic) -> None:
        self.grids = {grid.name: number for number, grid in enumerate(mosaic.grids)}
        self.steps = {time.isoformat(): number for number, time in enumerate(mosaic.times)}
        self.prompts = {prompt.name: number for number, prompt in enumerate(mosaic.prompts)}
        self._places = Places(mosaic.grids, mosaic.times, on_axis=len(mosaic.times))
        self._extents = np.array([grid.tile_shape for grid in mosaic.grids], np.int64)

    def places(self, places: TilePlaces, facts: Mapping[str, Any]) -> tuple[Keys, Keys]:
        """Zone and time step of the tiles of a run by their positions on the mosaic's axes, -1 where it has none such.

        Args:
            places: as in the run's plan.
            facts: of the run: it says what the plan numbers.
        """
        grid = _numbered(facts.get("grids", list(self.grids)), self.grids)[places.grid]
        return grid, _numbered(facts.get("steps", list(self.steps)), self.steps)[places.step]

    def keys(self, places: TilePlaces, facts: Mapping[str, Any]) -> Keys:
        """The tiles of a run, each as a number that is the same in all runs. Arguments as of ``places``."""
        grid, step = self.places(places, facts)
        row, column, (rows, columns) = places.row, places.column, self._extents[grid].T
        known = (grid >= 0) & (step >= 0) & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        keys = np.full(len(row), -1, np.int64)
        keys[known] = self._places.numbers(step[known], grid[known], row[known], column[known])
        return keys


def _numbered(names: Sequence[str], position: Mapping[str, int]) -> Keys:
    return np.array([position.get(name, -1) for name in names] or [-1], np.int64)


def renews_of(facts: Mapping[str, Any]) -> int:
    """Number of a run among the renewing runs of its mosaic; 0 for all others."""
    said = facts.get("renews", 0)
    return said if isinstance(said, int) and said > 0 else 0


def columns_of(folder: RunFolder, facts: Mapping[str, Any], axes: Axes, *, ledger: bool = True) -> RunColumns:
    """What a run has planned and finished, from its files.

    Args:
        folder: of the run.
        facts: of the run.
        axes: of its mosaic.
        ledger: whether its ledger can be read: else it is taken to have finished nothing.

    Raises:
        MosaicError: a file of it is damaged.
    """
    places = folder.places()
    finished = np.zeros((len(axes.prompts) + 1, len(places.row)), np.bool_)
    for batch in folder.last_words("state", "prompts", "source_checksum") if ledger else ():
        done = batch.filter(with_state(batch, FINISHED))
        done = done.filter(done.column("tile").to_numpy() < finished.shape[1])
        for prompt, rows in tile_rows(done, axes.prompts):
            finished[prompt, rows] = True
        has_source = done.column("source_checksum").is_valid().to_numpy(zero_copy_only=False)
        finished[-1, done.column("tile").to_numpy()[has_source]] = True
    return RunColumns(renews=renews_of(facts), place=axes.keys(places, facts), finished=finished)


def voices(runs: Sequence[RunColumns], *, lost: int = 0) -> list[Voice]:
    """What of each run still counts.

    Args:
        runs: all runs of a mosaic, in any order. Those of one number do not overtake one another.
        lost: number of the last renewing run of which nobody knows what it has planned; 0 where there is none such.

    Returns:
        A voice a run, in their order.
    """
    lowest = min((run.renews for run in runs), default=0)
    again = [run.place[run.place >= 0] for run in runs if run.renews > lowest]
    contested = np.unique(np.concatenate([np.empty(0, np.int64), *again]))
    layers = len(runs[0].finished) if runs else 1
    spoken = np.full((layers, len(contested)), -1, np.int32)
    planned = np.full(len(contested), -1, np.int32)
    at = [_found(run.place, contested) for run in runs]
    for run, (rows, where) in sorted(zip(runs, at, strict=True), key=lambda held: held[0].renews):
        planned[where] = run.renews
        for layer in range(layers):
            spoken[layer, where[run.finished[layer, rows]]] = run.renews
    heard = []
    for run, (rows, where) in zip(runs, at, strict=True):
        overtaken = np.zeros_like(run.finished)
        overtaken[:, rows] = spoken[:, where] > run.renews
        unsure = np.full(len(run.place), run.renews < lost)
        unsure[rows] |= planned[where] > run.renews
        heard.append(Voice(overtaken=overtaken, unsure=unsure, renews=run.renews))
    return heard


def standing_tiles(runs: Sequence[RunColumns]) -> list[Flags]:
    """Whether a tile stands in the mosaic as each run planned it, or is to come where no run has finished it yet.

    Returns:
        ``(tile,)`` a run, in their order: of two that planned a tile, the one that speaks for it; where none does, the
        one that planned it last. Runs of one number planned the same.
    """
    again = [run.place[run.place >= 0] for run in runs if run.renews]
    contested = np.unique(np.concatenate([np.empty(0, np.int64), *again]))
    rank = np.full(len(contested), -1, np.int64)
    at = [_found(run.place, contested) for run in runs]
    ranks = [np.where(run.finished.any(axis=0), _FINISHED_RANK, 0) + run.renews for run in runs]
    for own, (rows, where) in zip(ranks, at, strict=True):
        rank[where] = np.maximum(rank[where], own[rows])
    found = []
    for own, (rows, where) in zip(ranks, at, strict=True):
        stands = np.ones(len(own), np.bool_)
        stands[rows] = own[rows] == rank[where]
        found.append(stands)
    return found


def _found(keys: Keys, among: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the keys that are among some sorted ones, and where those are."""
    if not len(among):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    at = np.minimum(among.searchsorted(keys), len(among) - 1)
    rows = np.flatnonzero(among[at] == keys)
    return rows, at[rows]
