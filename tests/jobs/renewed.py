"""Small mosaics that several runs have written, made by hand: no model, no imagery, pixels by chance."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml
from numpy.typing import NDArray

from catalogs.snapshot import freeze
from jobs.ledger import Built, Entry, RunFolder
from jobs.levels import shards_over
from jobs.spec import JobSpec, answer_key, canonical, run_id, spec_from
from jobs.tile_table import PlannedTile, TileTable
from mapper.grid import Grid, Lattice, PixelBox, Tile
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec
from mapper.masks import UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers, checksum, source_checksum
from mapper.pyramid import LevelTask, build_shard
from mapper.storage import EngineName

JUNE, JULY = datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC)
MAY = datetime(2024, 5, 1, tzinfo=UTC)

GRID = Grid(
    lattice=Lattice(crs="EPSG:32632", res_x=10.0, res_y=10.0),
    box=PixelBox(-610_048, 69_120, -610_048 + 96, 69_120 + 128),
    shard_px=32,
    chunk_px=32,
)
"""Three by four shards."""

Place = tuple[datetime, int, int]
"""Time step, row and column of a tile."""


def every(*steps: datetime) -> list[Place]:
    """All tiles of some steps."""
    rows, columns = GRID.tile_shape
    return [(step, row, column) for step in steps for row in range(rows) for column in range(columns)]


def item(name: str, moment: datetime) -> dict[str, Any]:
    """A STAC item over all of the ground."""
    outline = shapely.box(11.9, 54.9, 12.1, 55.1)
    return {
        "type": "Feature", "stac_version": "1.1.0", "stac_extensions": [], "id": name, "collection": "scenes",
        "geometry": shapely.geometry.mapping(outline), "bbox": list(outline.bounds), "links": [],
        "properties": {"datetime": moment.isoformat().replace("+00:00", "Z")},
        "assets": {"red": {"href": f"https://example.com/{name}.tif", "roles": ["data"]}},
    }  # fmt: skip


@dataclass(kw_only=True)
class ByHand:
    """A mosaic, and what its runs have put there."""

    url: str
    spec: JobSpec
    area: bytes
    dice: np.random.Generator
    sources: int = 0
    """The next number for the source layer that no run has used."""

    renewals: int = 0
    runs: list[Run] = field(default_factory=list)
    pixels: dict[Place, NDArray[np.uint8]] = field(default_factory=dict)
    """``(prompt, y, x)`` of each tile that was put, as it was put last."""

    @property
    def mosaic(self) -> Mosaic:
        return Mosaic.open(self.url, writable=False)

    @property
    def path(self) -> Path:
        return Path(self.url)

    def copied(self, folder: Path) -> ByHand:
        """The same in another folder, to go on with or to be damaged."""
        there = shutil.copytree(self.url, folder / "map.zarr")
        return replace(self, url=str(there), dice=copy.deepcopy(self.dice), pixels=dict(self.pixels))

    def run(self, number: int = 0) -> Run:
        """A run that was planned: 0 is the ordinary one, 1 the first that renews."""
        return next(run for run in self.runs if run.renews == number).within(self)

    def plan(
        self,
        tiles: Sequence[Place],
        *,
        items: Sequence[Mapping[str, Any]],
        renews: bool = False,
        shows: Mapping[Place, Sequence[int]] | None = None,
        gone: Sequence[tuple[str, str]] = (),
        state: str = "planned",
        grow: bool = True,
    ) -> Run:
        """A run with its files, and nothing mapped.

        Args:
            tiles: that it plans.
            items: its table.
            renews: whether it is one more renewing run.
            shows: the rows of the items of a tile; all where nothing is said.
            gone: as in its facts.
            state: as in its facts.
            grow: whether the mosaic's axis gets the steps that it lacks.
        """
        steps = list(dict.fromkeys([*(self.mosaic.times if Mosaic.exists(self.url) else ()), *(t[0] for t in tiles)]))
        plain = run_id(self.spec, area_wkb=self.area)
        name, digest = plain.rsplit("-", 1)
        facts: dict[str, Any] = {
            "answer_key": answer_key(self.spec, area_wkb=self.area), "name": self.spec.name, "state": state,
            "grids": [GRID.name], "steps": [step.isoformat() for step in steps], "planned": len(tiles),
        }  # fmt: skip
        if renews:
            self.renewals += 1
            due = datetime(2024, 8, self.renewals, tzinfo=UTC)
            facts |= {"renews": self.renewals, "monitor": self.spec.name, "due": due.isoformat(),
                      "sources_from": self.sources, "gone": [list(key) for key in gone]}  # fmt: skip
            plain = f"{name}-{due:%Y%m%dT%H%M%SZ}-{digest}"
        folder = RunFolder(self.url, plain, engine=self.spec.output.engine)
        rows = TileTable.of(
            PlannedTile(
                grid=0, step=steps.index(step), row=row, column=column, clipped=False,
                items=tuple(shows[step, row, column] if shows else range(len(items))),
            )
            for step, row, column in tiles
        )  # fmt: skip
        job = yaml.safe_dump(canonical(self.spec), sort_keys=False)
        folder.save_plan(job=job, area=self.area, items=freeze(items), tiles=rows, facts={"run": plain, **facts})
        begin, self.sources = (self.sources if renews else 0), self.sources + len(items)
        if not Mosaic.exists(self.url):
            made = {"answer_key": facts["answer_key"], "model": self.spec.model.name}
            Mosaic.create(
                self.url,
                MosaicSpec(grids=(GRID,), prompts=self.spec.prompt_values(), times=tuple(steps), made_by=made),
                engine=self.spec.output.engine,
            )
        elif grow and len(steps) > len(self.mosaic.times):
            Mosaic.open(self.url).add_times(steps[len(self.mosaic.times) :])
        run = Run(made=self, folder=folder, tiles=list(tiles), sources=(begin, begin + len(items)),
                  renews=self.renewals if renews else 0)  # fmt: skip
        self.runs = [*self.runs, run]
        return run


@dataclass(kw_only=True)
class Run:
    """One run of it."""

    made: ByHand
    folder: RunFolder
    renews: int
    tiles: list[Place]
    sources: tuple[int, int]

    def put(self, places: Iterable[Place], *, seen: bool = True) -> list[Entry]:
        """Map these tiles: pixels by chance, or none that were seen. What their ledger rows would say comes back."""
        mosaic, entries, receipts = Mosaic.open(self.made.url), [], []
        for place in places:
            step, row, column = place
            tile, layers = GRID.tile(row, column), _layers(self.made, self.sources, seen=seen)
            receipts.append(mosaic.write(GRID, tile, mosaic.times.index(step), layers).receipt)
            self.made.pixels[place] = layers.mask
            assert layers.source is not None
            entries.append(
                Entry(
                    tile=self.tiles.index(place), state="done" if seen else "nodata", attempts=1, worker="w",
                    at=datetime(2024, 9, 1, tzinfo=UTC), prompts=tuple(prompt.name for prompt in mosaic.prompts),
                    checksums=tuple(checksum(*pair) for pair in zip(layers.mask, layers.score, strict=True)),
                    source_checksum=source_checksum(layers.source), present_px=(1,) * len(layers.prompts),
                    asked_px=1024, seen_px=1024 * seen,
                )
            )  # fmt: skip
        mosaic.commit([receipt for receipt in receipts if receipt is not None], "tiles", {})
        return entries

    def record(self, entries: Iterable[Entry]) -> None:
        ledger = self.folder.ledger()
        for entry in entries:
            ledger.record(entry)
        ledger.flush()

    def give_up(self, place: Place) -> None:
        """Say that a tile is given up for good."""
        at = datetime(2024, 9, 1, tzinfo=UTC)
        row = self.tiles.index(place)
        self.record([Entry(tile=row, state="quarantined", attempts=3, worker="w", at=at, cause="AssetError")])

    def levels(self, places: Iterable[Place] | None = None) -> list[Built]:
        """Build all that lies over these tiles, or all of them. What the ledger would say of it comes back."""
        mosaic, built = Mosaic.open(self.made.url), []
        over = {(level, *shard) for place in (places or self.tiles) for level, shard in _over(place)}
        for level, step, row, column in sorted(over):
            grid = GRID.pyramid()[level]
            prompts = tuple(range(len(mosaic.prompts)))
            task = LevelTask(id=0, grid=grid, tile=Tile(row=row, column=column, core=grid.tile(row, column).core),
                             time=mosaic.times.index(step), prompts=prompts)  # fmt: skip
            result = build_shard(mosaic, task)
            mosaic.commit([result.receipt] if result.receipt is not None else [], "a level", {})
            built.append(
                Built(
                    key=f"{GRID.name}/{step.isoformat()}/{level}/{row}/{column}",
                    prompts=tuple(prompt.name for prompt in mosaic.prompts), tiles=(len(self.tiles),) * len(prompts),
                    checksums=tuple(crc for _, crc in result.checksums), source_checksum=result.source_checksum,
                )
            )  # fmt: skip
        return built

    def record_levels(self, built: Iterable[Built]) -> None:
        ledger = self.folder.level_ledger()
        for shard in built:
            ledger.record(shard)
        ledger.flush()

    def within(self, made: ByHand) -> Run:
        """The same run of a copy."""
        return replace(self, made=made, folder=RunFolder(made.url, self.folder.run))

    def end(self, state: str = "done") -> None:
        self.folder.save_facts(self.folder.facts() | {"state": state, "levels_behind": False})

    def finish(self, *, seen: bool = True) -> None:
        """All that it plans, to its end."""
        self.record(self.put(self.tiles, seen=seen))
        self.record_levels(self.levels())
        self.end()


def by_hand(folder: Path, *, seed: int = 0, engine: EngineName = "zarr") -> ByHand:
    """A mosaic of nothing yet: the first run makes it."""
    url = str(folder / "map.zarr")
    spec = spec_from(
        {
            "name": "ground", "area": {"bbox": [11.95, 54.95, 12.05, 55.05]},
            "imagery": {"catalog": "https://example.com/stac", "collections": ["scenes"], "bands": ["red"],
                        "datetime": "2024-01-01/2025-01-01", "time_step": "month"},
            "grid": {"crs": "EPSG:32632", "resolution_m": 10.0, "shard_px": 128, "chunk_px": 64},
            "prompts": [{"name": "lake", "expression": "all lakes"}, {"name": "road", "expression": "the roads"}],
            "model": {"name": "colour"}, "output": {"mosaic": url, "engine": engine},
        }
    )  # fmt: skip
    return ByHand(url=url, spec=spec, area=shapely.to_wkb(shapely.box(11.95, 54.95, 12.05, 55.05)),
                  dice=np.random.default_rng(seed))  # fmt: skip


def _layers(made: ByHand, sources: tuple[int, int], *, seen: bool) -> TileLayers:
    prompts, side = len(made.spec.prompts), GRID.shard_px
    if not seen:
        gap = np.full((prompts, side, side), UNOBSERVED, np.uint8)
        return TileLayers(mask=gap, score=gap, source=np.full((side, side), NO_SOURCE, np.uint32),
                          prompts=tuple(range(prompts)))  # fmt: skip
    score = made.dice.integers(0, 251, (prompts, side, side)).astype(np.uint8)
    source = made.dice.integers(*sources, (side, side)).astype(np.uint32)
    return TileLayers(mask=(score > 125).astype(np.uint8), score=score, source=source, prompts=tuple(range(prompts)))


def _over(place: Place) -> Iterator[tuple[int, Place]]:
    step, row, column = place
    for grid in GRID.pyramid()[1:]:
        rows, columns = shards_over(GRID, grid)
        for above in set(rows[:, row].tolist()):
            for beside in set(columns[:, column].tolist()):
                yield grid.level, (step, above, beside)
