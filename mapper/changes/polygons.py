"""Changed places as files: one GeoParquet a zone and step, made from change.zarr alone.

A place is what hangs together of pixels of which the same became, corners included, exact across shards. Its area is
that of its pixels, in whole units, so all places of a kind have the area of all its pixels, to the bit.

    appeared   first_seen this step                      last_seen this step
    vanished   first_seen when the earliest began        last_seen when the latest was last seen present
    stayed     first_seen when the earliest began        last_seen this step
    before     when the one of its pixels was last seen, before this step, that was so longest ago
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from mapper.changes.raster import Raster, changes_folder, seconds
from mapper.changes.several import several
from mapper.errors import MosaicError, StoreError
from mapper.exports.antimeridian import parted
from mapper.exports.geoparquet import write_geoparquet
from mapper.grid import Grid, Tile
from mapper.imagery import Source
from mapper.masks import UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.outlines.closed import by_anchor, close
from mapper.outlines.fragments import Fragments, find_fragments
from mapper.outlines.joint import Joint
from mapper.outlines.span_area import span_areas
from mapper.outlines.spans import Votes, spans_of
from mapper.questions.changes import APPEARED, STAYED_PRESENT, VANISHED
from mapper.questions.placed import to_lonlat
from mapper.storage import Folder

POLYGONS = "polygons"

KINDS = {"appeared": APPEARED, "vanished": VANISHED, "stayed": STAYED_PRESENT}
"""Words → values of the raster."""

MOST_STEPS = 1 << 16
"""Two of them are told in 32 bits."""

_MOMENT = pa.timestamp("ms", tz="UTC")

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("time", _MOMENT, nullable=False),
        pa.field("before", _MOMENT, nullable=False),
        pa.field("first_seen", _MOMENT, nullable=False),
        pa.field("last_seen", _MOMENT, nullable=False),
        pa.field("area_m2", pa.float64(), nullable=False),
        pa.field("pixels", pa.int64(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
)
"""``score`` is the mean probability of the prompt in this step, 0 to 1."""


def file_name(zone: str, step: datetime) -> str:
    """Of the places of one zone and step."""
    return f"{zone or '0'}-{step.astimezone(UTC):%Y%m%dT%H%M%SZ}.parquet"


def draw(mosaic: Mosaic, raster: Raster, zone: str, step: datetime) -> None:
    """Write the places of one zone and step, in place of those that were.

    Raises:
        MosaicError: there are more time steps than can be told apart.
        VerifyError, StoreError, CredentialsError: a shard is damaged, or cannot be had; the file cannot be written.
    """
    if len(raster.order) > MOST_STEPS:
        raise MosaicError(f"a mosaic of more than {MOST_STEPS} time steps has no polygons of change", mosaic=mosaic.url)
    grid = next(grid for grid in mosaic.grids if grid.name == zone)
    drawing = _Drawing(mosaic=mosaic, raster=raster, grid=grid, rank=raster.order.index(raster.times.index(step)))
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "places.parquet"
        write_geoparquet(draft, SCHEMA, drawing.rows(), CRS.from_user_input("OGC:CRS84"), drawing.facts)
        Folder(changes_folder(mosaic.url)).child(POLYGONS).write(file_name(zone, step), draft.read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTotals:
    """What a file says of one prompt."""

    kinds: dict[str, tuple[int, float]]
    """Kind → places, and square metres."""

    comparable: bool
    """Whether any ground was seen both in this step and before: where none was, nobody knows what changed."""


def totals(files: Folder, name: str) -> dict[str, PromptTotals]:
    """Prompt → what a file holds of it; nothing where there is no file."""
    try:
        content = files.read(name)
    except FileNotFoundError:
        return {}
    try:
        facts: dict[str, Any] = json.loads((pq.read_metadata(io.BytesIO(content)).metadata or {})[b"resmap"])
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise StoreError(
            f"a file of changed places cannot be read: {error}",
            fix="delete the folder of changes: all of it is made again from the mosaic",
            file=f"{files.url}/{name}",
        ) from error
    found = {}
    for prompt, said in facts["changes"].items():
        kinds = {kind: (int(places), float(area_m2)) for kind, (places, area_m2) in said.items()}
        # Files of earlier versions do not say it: where they hold a place, there was something to compare.
        comparable = facts.get("comparable", {}).get(prompt, any(places for places, _ in kinds.values()))
        found[prompt] = PromptTotals(kinds=kinds, comparable=bool(comparable))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """The places of one zone and step, counted as they are made."""

    mosaic: Mosaic
    raster: Raster
    grid: Grid
    rank: int
    """Of the step, in order of time."""

    changes: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)
    comparable: dict[str, bool] = field(default_factory=dict)

    @property
    def at(self) -> int:
        """Position of the step on the time axis."""
        return self.raster.order[self.rank]

    @property
    def step(self) -> datetime:
        """When it begins."""
        return self.raster.times[self.at].astimezone(UTC)

    def facts(self) -> dict[str, Any]:
        """What a file tells of itself."""
        return {
            "zone": self.grid.name,
            "time": self.step.isoformat(),
            "rule": self.raster.facts["rule"],
            "changes": self.changes,
            "comparable": self.comparable,
        }

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Row batches, prompt by prompt, as places are closed."""
        for number, prompt in enumerate(self.mosaic.prompts):
            self.changes[prompt.name] = dict.fromkeys(KINDS, (0, 0.0))
            self.comparable[prompt.name] = False
            for kind, found in self._places(number):
                yield self._batch(prompt.name, kind, found)

    def _places(self, prompt: int) -> Iterator[tuple[str, Fragments]]:
        """Complete places with their kinds, row by row of shards."""
        stored = self.raster.stored(self.grid, prompt, self.at)
        joints = {kind: Joint(self.grid, 8) for kind in KINDS}
        for tile in self.grid.tiles():
            if (tile.row, tile.column) not in stored:
                for joint in joints.values():
                    joint.seen(tile)
        tiles = [self.grid.tile(*place) for place in sorted(stored)]
        shards = several(lambda tile: (tile, self._fragments(prompt, tile)), tiles)
        for _, row in groupby(shards, key=lambda one: one[0].row):
            held: dict[str, list[Fragments]] = {kind: [] for kind in KINDS}
            for tile, found in row:
                for kind, fragments in found.items():
                    touching = fragments.touching_border()
                    if not touching.all():
                        yield kind, fragments.of(~touching)
                    if touching.any():
                        held[kind].append(fragments.of(touching))
                for joint in joints.values():
                    joint.seen(tile)
            for kind, joint in joints.items():
                closed = joint.join(held[kind])
                if closed is not None:
                    yield kind, closed

    def _fragments(self, prompt: int, tile: Tile) -> dict[str, Fragments]:
        """What one shard holds of places, by kind. Their votes are for pairs of steps, see ``_moments``."""
        change = self.raster.change(self.grid, tile, prompt, self.at)
        if (change < UNOBSERVED).any():
            self.comparable[self.mosaic.prompts[prompt].name] = True
        wanted = np.isin(change, list(KINDS.values()))
        if not wanted.any():
            return {}
        score = self.mosaic.layer(self.grid, "score", tile.core, time=self.at, prompt=prompt)
        before = self.raster.known_before(self.grid, tile, prompt, self.rank)
        pairs = np.zeros(change.shape, np.uint32)
        pairs[wanted] = self._ranks(before.since[wanted]) << np.uint32(16) | self._ranks(before.seen[wanted])
        rows, columns = self.grid.tile_shape
        areas = span_areas(self.grid.lattice, tile.core)
        found = {}
        for kind, value in KINDS.items():
            here = change == value
            if here.any():
                found[kind] = find_fragments(
                    spans_of(here, score, pairs, tile.core),
                    areas,
                    connectivity=8,
                    sides=(tile.row > 0, tile.column > 0, tile.row + 1 < rows, tile.column + 1 < columns),
                    tile=(tile.row, tile.column),
                    wanted=self.grid.box,
                )
        return found

    def _ranks(self, moments: NDArray[np.int64]) -> Source:
        return np.searchsorted(self._seconds(), moments).astype(np.uint32)

    def _seconds(self) -> NDArray[np.int64]:
        return np.array([seconds(self.raster.times[at]) for at in self.raster.order], np.int64)

    def _moments(self, votes: Votes, count: int) -> tuple[NDArray[np.int64], ...]:
        """Of each place, from its pixels: the earliest ``since``, the earliest and the latest ``seen``, in ms."""
        steps = self._seconds() * 1000
        since, seen = votes.source >> np.uint32(16), votes.source & np.uint32(0xFFFF)
        first, earliest = (np.full(count, MOST_STEPS, np.int64) for _ in range(2))
        latest = np.zeros(count, np.int64)
        np.minimum.at(first, votes.object, since)
        np.minimum.at(earliest, votes.object, seen)
        np.maximum.at(latest, votes.object, seen)
        return steps[first], steps[earliest], steps[latest]

    def _batch(self, prompt: str, kind: str, found: Fragments) -> pa.RecordBatch:
        found = by_anchor(found)
        batch, many = close(found, self.grid.lattice, outlines=True).batch(self.grid), len(found.sums)
        first, earliest, latest = self._moments(found.votes, many)
        now = np.full(many, seconds(self.step) * 1000)
        places, area_m2 = self.changes[prompt][kind]
        # Areas are whole numbers of a power of two of square metres: in any order they add up to the same.
        self.changes[prompt][kind] = (places + many, area_m2 + float(batch.area_m2.sum()))
        shapes = parted(to_lonlat(batch.geometry, self.grid.lattice.crs))
        columns = [
            pa.array([self._id(prompt, kind, row, column) for row, column in batch.anchor.tolist()], pa.string()),
            pa.repeat(pa.scalar(prompt), many),
            pa.repeat(pa.scalar(kind), many),
            _moments_array(now),
            _moments_array(earliest),
            _moments_array(now if kind == "appeared" else first),
            _moments_array(latest if kind == "vanished" else now),
            pa.array(batch.area_m2),
            pa.array(batch.pixels),
            pa.array(batch.score),
            pa.array(shapely.to_wkb(shapes), pa.binary()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)

    def _id(self, prompt: str, kind: str, row: int, column: int) -> str:
        """The same wherever the place is found again: it begins with this pixel in this step."""
        said = json.dumps([prompt, kind, self.step.isoformat(), self.grid.name, row, column])
        return hashlib.sha256(said.encode()).hexdigest()[:24]


def _moments_array(milliseconds: NDArray[np.int64]) -> pa.Array:
    return pa.array(milliseconds.astype("datetime64[ms]"), pa.timestamp("ms")).cast(_MOMENT)
