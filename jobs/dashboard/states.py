"""The state of every tile of a run in columns, kept current by reading only what was not read before."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.dashboard.views import TILE_STATES
from jobs.grids import AREA_TILES, mean_pixel_km2
from jobs.ledger import Entry, RunFolder, last_of_each
from jobs.parts import Part
from jobs.tile_file import TilePlaces
from mapper.grid import Grid

Floats: TypeAlias = NDArray[np.float32]

COLUMNS = (
    "tile",
    "state",
    "worker",
    "at",
    "present_px",
    "asked_px",
    "seen_px",
    "read_s",
    "infer_s",
    "write_s",
    "cause",
)
STAGES = ("read", "infer", "write")
MOST_WORDS = 1 << 16
NUMBERS = 1 << 40
"""More parts than an epoch ever has: epoch and number of a part are one whole number."""

RELISTED = 3
"""How often the parts are listed again because one was merged away in that moment; what is missed comes next time."""

SURFACE_TILES = AREA_TILES // 4
"""Tiles along the side of the squares in which a pixel has one surface: within 1e-4 where tiles are 10 km wide."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunView:
    """One run, as pages ask about it. Columns are shared and change as the run goes on; nobody else writes to them."""

    key: str
    folder: RunFolder
    mosaic: str
    """Its path or URL."""

    places: TilePlaces
    states: TileStates
    facts: Mapping[str, Any]
    """Content of ``run.json``."""

    grids: tuple[Grid, ...]
    """As ``places.grid`` numbers them; empty while the mosaic is not made."""

    def tile_name(self, tile: int) -> str:
        """Zone, row and column, and time step of a tile, as logs say it."""
        places, names = self.places, self.facts.get("grids", [])
        grid = int(places.grid[tile])
        zone = (names[grid] if grid < len(names) else "") or "0"
        return f"{zone}/r{places.row[tile]}c{places.column[tile]}/t{places.step[tile]}"


@dataclass(slots=True, kw_only=True, eq=False)
class TileStates:
    """Columns over all planned tiles, by row of the plan; 49 bytes a tile. Threads may share one.

    The last row of a tile is the one in the part that is last in the order of epochs, then of numbers. For each tile
    is kept which part that was: so parts can be read in any order, and again after they were merged into another.
    """

    folder: RunFolder
    planned: int
    state: NDArray[np.uint8] = field(init=False)
    """Position in ``TILE_STATES``."""

    seconds: Floats = field(init=False)
    """That reading, model and writing took; NaN where it is not known."""

    parts: dict[str, Floats] = field(init=False)
    """The same by stage: read, infer, write."""

    worker: NDArray[np.uint16] = field(init=False)
    """Position in ``workers``; 0 where it is not entered."""

    workers: list[str] = field(init=False)
    present: Floats = field(init=False)
    """Share of the seen pixels that the most present prompt has, 0 to 1; NaN where it is not known."""

    at: NDArray[np.float64] = field(init=False)
    """When it was entered, seconds since 1970; NaN where it was not."""

    megapixels: Floats = field(init=False)
    """Of those asked for; 0 where it is not entered."""

    cause: NDArray[np.uint16] = field(init=False)
    """Position in ``causes``; 0 where nothing went wrong."""

    causes: list[str] = field(init=False)
    version: int = field(init=False, default=0)
    """Grows whenever a column changed."""

    _order: NDArray[np.int64] = field(init=False)
    _known: list[tuple[Part, int]] = field(init=False)
    """Parts in order, and how many rows each has."""

    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._clear()

    def refresh(self) -> bool:
        """Read what was added since; whether there was any.

        Raises:
            MosaicError: a part is damaged.
        """
        with self._lock:
            before = self.version
            for _ in range(RELISTED):
                if self._read_on():
                    break
            return self.version != before

    def counts(self) -> dict[str, int]:
        """State → tiles; all planned tiles are in exactly one."""
        found = np.bincount(self.state, minlength=len(TILE_STATES))
        return dict(zip(TILE_STATES, found.tolist(), strict=True))

    def with_state(self, *states: str) -> NDArray[np.bool_]:
        """Whether each tile is in one of these."""
        wanted = np.zeros(256, np.bool_)
        wanted[[TILE_STATES.index(state) for state in states]] = True
        return wanted[self.state]

    def last_entry(self, tile: int) -> Entry | None:
        """All that the ledger says of one tile, from the part that has its last row; None where nothing is said."""
        with self._lock:
            order = int(self._order[tile]) if 0 <= tile < self.planned else -1
            at = bisect_left(self._known, order, key=lambda known: _order(known[0]))
            part = self._known[at][0] if order >= 0 and at < len(self._known) else None
        names = self.folder.outcomes.schema.names
        for _, rows in [] if part is None else self.folder.outcomes.each([part], names):
            for batch in () if rows is None else rows.batches:
                found = np.flatnonzero(batch.column("tile").to_numpy() == tile)
                if len(found):
                    row = batch.slice(int(found[-1]), 1).to_pylist()[0].items()
                    fields: dict[str, Any] = {of: tuple(was) if isinstance(was, list) else was for of, was in row}
                    return Entry(**fields)
        # Merged away in this moment, or never there.
        return None if part is None else next(self.folder.last_entries([tile]), None)

    def _clear(self) -> None:
        many = self.planned
        self.state = np.zeros(many, np.uint8)
        self.seconds, self.present = np.full(many, np.nan, np.float32), np.full(many, np.nan, np.float32)
        self.parts = {stage: np.full(many, np.nan, np.float32) for stage in STAGES}
        self.worker, self.workers = np.zeros(many, np.uint16), [""]
        self.at = np.full(many, np.nan, np.float64)
        self.megapixels = np.zeros(many, np.float32)
        self.cause, self.causes = np.zeros(many, np.uint16), [""]
        self._order = np.full(many, -1, np.int64)
        self._known = []
        self.version += 1

    def _read_on(self) -> bool:
        """Read the parts that were not read before; whether all were still there."""
        listed = self.folder.outcomes.listed()
        there = {part.name for part in listed}
        gone = [part for part, _ in self._known if part.name not in there]
        if any(not any(_may_hold(one, part) for one in listed) for part in gone):
            self._clear()  # somebody took a part away: what it said is no longer so
        before = self._known
        self._known = [known for known in before if known[0].name in there]
        read = {part.name for part, _ in before}
        whole = True
        for part, rows in self.folder.outcomes.each([part for part in listed if part.name not in read], COLUMNS):
            if rows is None:
                whole = False
                continue
            if sum(count for known, count in before if _is_in(part, known)) != rows.count:
                for batch in rows.batches:
                    self._apply(batch, _order(part))
                self.version += 1
            self._known = sorted([*self._known, (part, rows.count)])
        return whole

    def _apply(self, batch: pa.RecordBatch, order: int) -> None:
        """Enter rows of a part; those of its later batches were entered before, and stay."""
        tile = batch.column("tile").to_numpy()
        last = last_of_each(tile)
        last = last[(tile[last] >= 0) & (tile[last] < self.planned)]
        last = last[self._order[tile[last]] < order]
        if not len(last):
            return
        rows, tile = (batch if len(last) == len(batch) else batch.take(pa.array(last))), tile[last]
        self._order[tile] = order
        self.state[tile] = _coded(rows.column("state"), TILE_STATES)
        self.at[tile] = rows.column("at").cast(pa.int64()).to_numpy() / 1e6
        finished = self.with_state("done", "nodata")[tile]
        self.seconds[tile] = np.where(finished, 0.0, np.nan)
        for stage, column in self.parts.items():
            column[tile] = np.where(finished, rows.column(f"{stage}_s").to_numpy(), np.nan)
            self.seconds[tile] += column[tile]
        self.megapixels[tile] = rows.column("asked_px").to_numpy() / 1e6
        self.present[tile] = _present(rows)
        self.cause[tile] = _numbered(rows.column("cause"), self.causes)
        self.worker[tile] = _numbered(rows.column("worker"), self.workers)


def pixel_surface_km2(places: TilePlaces, grids: Sequence[Grid]) -> Floats:
    """Mean surface of a million pixels of each tile, km2; NaN where its grid is not known."""
    surface = np.full(len(places.grid), np.nan, np.float32)
    for number, grid in enumerate(grids):
        here = np.flatnonzero(places.grid == number)
        squares = np.stack([places.row[here], places.column[here]]) // SURFACE_TILES
        rows, columns = grid.tile_shape
        wide = columns // SURFACE_TILES + 1
        each, of = np.unique(squares[0].astype(np.int64) * wide + squares[1], return_inverse=True)
        row, column = (np.array(divmod(each, wide)) * SURFACE_TILES + SURFACE_TILES // 2).tolist()
        middle = zip(row, column, strict=True)
        known = [mean_pixel_km2(grid, min(r, rows - 1), min(c, columns - 1)) * 1e6 for r, c in middle]
        surface[here] = np.array(known, np.float32)[of]
    return surface


def _order(part: Part) -> int:
    return part.epoch * NUMBERS + part.number


def _may_hold(large: Part, small: Part) -> bool:
    """Whether one part may have been merged into another."""
    inside = large.first <= small.first and small.number <= large.number
    return inside and _order(small) <= _order(large) and small.count < large.count


def _is_in(large: Part, small: Part) -> bool:
    """Whether one part was surely merged into another: a writer numbers those of its epoch one after the other."""
    return small.epoch == large.epoch and _may_hold(large, small)


def _coded(words: pa.Array, known: Sequence[str]) -> NDArray[np.int64]:
    """Position of each word among the known ones; 0 for one that is none of them."""
    encoded = words if pa.types.is_dictionary(words.type) else words.dictionary_encode()
    at = {word: number for number, word in enumerate(known)}
    codes = np.array([at.get(word, 0) for word in encoded.dictionary.to_pylist()], np.int64)
    return np.asarray(codes[encoded.indices.to_numpy(zero_copy_only=False)])


def _numbered(words: pa.Array, known: list[str]) -> NDArray[np.int64]:
    """Position of each word among the known ones, to which new ones are added; 0 for what finds no more room."""
    encoded = words if pa.types.is_dictionary(words.type) else words.dictionary_encode()
    new = [str(word) for word in encoded.dictionary.to_pylist() if word not in known]
    known += new[: MOST_WORDS - len(known)]
    return _coded(encoded, known)


def _present(rows: pa.RecordBatch) -> Floats:
    """Share of the seen pixels that the most present prompt has; NaN where none were seen or nothing was said."""
    present, seen = rows.column("present_px"), rows.column("seen_px").to_numpy()
    said = pc.list_value_length(present).fill_null(0).to_numpy()
    most = np.full(len(rows), np.nan)
    told = said > 0
    if told.any():
        begins = np.concatenate([[0], np.cumsum(said)[:-1]])[told]
        most[told] = np.maximum.reduceat(present.flatten().to_numpy(), begins)
    return np.where(seen > 0, most / np.maximum(seen, 1), np.nan).astype(np.float32)
