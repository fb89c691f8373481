"""The story of one tile: read, segment, keep the core, write."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from rasterio.features import rasterize
from shapely import box
from shapely.geometry.base import BaseGeometry

from mapper.composite import box_around
from mapper.failpoints import reach
from mapper.grid import BLOCK_PX, Grid, Lattice, PixelBox, Tile, Windows
from mapper.imagery import NO_SOURCE, PlacedItem, Valid, View
from mapper.look import Ask, Gathered, Model
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED, Blend, Stored, needed_windows, to_mask, to_score
from mapper.mosaic import Mosaic, TileLayers, checksum, source_checksum
from mapper.prompts import Prompt
from mapper.pyramid import LevelResult, LevelTask, build_shard
from mapper.read import RasterReader, Reader
from mapper.reuse import Remembered
from mapper.segmenter import Segmenter
from mapper.work import SPENT


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """Which model, whose weights, on what."""

    name: str
    weights: str | None = None
    sha256: str | None = None
    device: str = "auto"
    """As torch says it; ``auto`` is the GPU where the worker has one."""

    precision: Literal["fp32", "bf16"] = "fp32"
    compiled: bool = False

    def load(self) -> Segmenter:
        """The model, ready to segment.

        Raises:
            ModelError: no such model, or its weights are missing or not what they should be.
        """
        from mapper import models

        return models.load(
            self.name,
            weights=self.weights,
            sha256=self.sha256,
            device=self.device,
            precision=self.precision,
            compiled=self.compiled,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker must know that is the same for every tile of a run."""

    mosaic: str
    model: ModelChoice
    prompts: tuple[Prompt, ...]
    """All prompts of the mosaic, in the order of its axis."""

    bands: int
    stretch: tuple[float, float] | None
    composite: Literal["first", "median"]
    overlap_px: int
    blend: bool
    batch: int | None
    """Windows the model is given at once; None takes what suits the device. No pixel depends on it."""

    areas: Mapping[str, BaseGeometry]
    """Grid name → the area asked for, in that grid's CRS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileTask:
    """One tile of one run: a message of a few hundred bytes."""

    id: int
    """Row in the run's table of tiles."""

    grid: Grid
    tile: Tile
    time: int
    """Position on the mosaic's time axis."""

    items: tuple[PlacedItem, ...]
    """Those that may show any of it, in the order in which they are laid."""

    prompts: tuple[int, ...]
    """Positions on the mosaic's prompt axis that are still to be written."""

    clipped: bool
    """Whether the area's outline crosses the tile."""

    write_source: bool = True

    @property
    def name(self) -> str:
        """Zone, tile and time step, as people say it in logs."""
        return f"{self.grid.name or '0'}/{self.tile.name}/t{self.time}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TileResult:
    """What became of one tile."""

    id: int
    nodata: bool
    """Whether not one pixel of it was seen."""

    checksums: tuple[tuple[int, int], ...]
    """Prompt position and CRC-32 of its mask and score."""

    source_checksum: int | None
    """CRC-32 of the source layer; None where it was not written."""

    asked_px: int
    seen_px: int
    present_px: tuple[int, ...]
    """Pixels present, prompt by prompt as in the task."""

    windows: int
    """Looked at for it."""

    seam: float | None
    """Share of the pixels where windows meet on which they disagree, before they are blended."""

    read_bytes: int
    written_bytes: int
    reused: int = 0
    """Windows that a neighbouring tile had the model look at already."""

    receipt: bytes | None = None
    """What the driver must commit; None where the engine needs no commit."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds: read, infer (the model's own time), blend (on the CPU, beside it), write."""


Task: TypeAlias = TileTask | LevelTask
"""What a worker can be asked to do."""

Result: TypeAlias = TileResult | LevelResult


@dataclass(frozen=True, slots=True, kw_only=True)
class TileView:
    """What was read for one tile."""

    part: PixelBox
    """The box around what was asked of the core; ``empty`` where nothing was."""

    frame: PixelBox
    """What the view covers: all windows that touch the part."""

    view: View
    asked: Valid
    """``(y, x)`` over the part: inside the area."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TileScores:
    """What the model said of one tile."""

    score: Stored
    """``(prompt, y, x)`` over the part."""

    windows: int
    reused: int
    seam: float | None
    model_s: float
    """The model's own time."""

    blend_s: float
    """Of this thread: cutting windows, blending what was said of them."""


class TileMapper:
    """A loaded model, a reader and a mosaic: maps one tile after another.

    The three acts may run in any threads, for many tiles at once; ``model`` always answers in the one that loaded it.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        segmenter: Segmenter,
        reader: Reader,
        mosaic: Mosaic,
        remembered: Remembered | None = None,
    ) -> None:
        self.segmenter = segmenter
        self._setup = setup
        self._reader = reader
        self._mosaic = mosaic
        self._windows = Windows(size_px=segmenter.window_px, overlap_px=setup.overlap_px)
        self.model = Model(segmenter, setup.prompts, batch=setup.batch)
        self._remembered = remembered if remembered is not None else Remembered()

    @classmethod
    def load(cls, setup: Setup) -> TileMapper:
        """Load the model and open the mosaic that the setup names."""
        return cls(
            setup,
            segmenter=setup.model.load(),
            reader=RasterReader(bands=setup.bands, stretch=setup.stretch, composite=setup.composite),
            mosaic=Mosaic.open(setup.mosaic),
        )

    def read_with(self, made_of: Callable[[Reader], Reader]) -> None:
        """Read with another reader, made of the one there is."""
        self._reader = made_of(self._reader)

    def build(self, task: LevelTask) -> LevelResult:
        """Reduce what lies under one shard of a coarser level, and write it. Needs no model."""
        return build_shard(self._mosaic, task)

    def map_tile(self, task: TileTask) -> TileResult:
        """Read, segment, keep the core, write. Running it twice leaves the same mosaic."""
        view = self.read(task)
        scores = self.segment(task, view)
        return self.write(task, view, scores)

    def read(self, task: TileTask) -> TileView:
        """All that the windows of what is asked look at; no more than that where there is nothing to see."""
        with SPENT.computing("decode"):  # pixels of items laid over one another; cells are counted where they are read
            return self._read(task)

    def _read(self, task: TileTask) -> TileView:
        reach("before-read")
        started = clock.perf_counter()
        asked = asked_pixels(self._setup.areas.get(task.grid.name), task)
        part = box_around(asked, task.tile.core)
        frame = self._windows.frame(part) if task.items and not part.empty else part
        view = self._reader.read(task.items, task.grid.lattice, frame)
        reach("after-read")
        inside = asked[part.within(task.tile.core)]
        return TileView(part=part, frame=frame, view=view, asked=inside, seconds=clock.perf_counter() - started)

    def held_bytes(self, task: TileTask) -> int:
        """What a tile takes in memory from its reading to its end, about."""
        frame = self._windows.frame(task.tile.core)
        core_px = task.tile.core.height * task.tile.core.width
        # Read: pixels, valid, source. Made of it: sum and weight of logits, score, mask, source.
        return frame.height * frame.width * (self._setup.bands + 5) + core_px * (6 * len(task.prompts) + 9)

    def segment(self, task: TileTask, seen: TileView, ask: Ask | None = None) -> TileScores:
        """The stored score of what is asked, for each prompt of the task.

        Args:
            task: whose tile it is.
            seen: what was read for it.
            ask: how the model is reached; None has it answer here, in this thread.

        Raises:
            ModelError: the model refuses a sentence.
            MapperError: what it answered is no number.
        """
        begun = clock.perf_counter()
        valid = seen.view.valid[seen.part.within(seen.frame)]
        needed = valid & seen.asked
        blend = Blend(seen.part, self._windows, len(task.prompts), feather=self._setup.blend)
        windows = needed_windows(self._windows.touching(seen.part), seen.part, needed) if needed.any() else []
        gathered = Gathered(blend, self._remembered, task.prompts, ask or self.model.at_once)
        for first in range(0, len(windows), self.model.batch):
            some = windows[first : first + self.model.batch]
            gathered.look_at(some, [seen.view.pixels[:, *window.within(seen.frame)] for window in some], task.tile.core)
            gathered.blend_all_but(self.model.batch)  # so many more are with the model while these are blended
        gathered.blend_all_but(0)
        score = to_score(blend.logits(needed), valid=valid, asked=seen.asked)
        spent = clock.perf_counter() - begun - gathered.asked_s
        SPENT.add("blend", spent)
        return TileScores(
            score=score,
            windows=len(windows),
            reused=gathered.reused,
            seam=blend.seam,
            model_s=gathered.model_s,
            blend_s=spent,
        )

    def write(self, task: TileTask, seen: TileView, scores: TileScores) -> TileResult:
        """Put the tile's shards and say what was put."""
        with SPENT.computing("encode"):  # masks, checksums; shards are counted where they are encoded
            return self._write(task, seen, scores)

    def _write(self, task: TileTask, seen: TileView, scores: TileScores) -> TileResult:
        started = clock.perf_counter()
        core = task.tile.core
        here = seen.part.within(core)
        score = np.full((len(task.prompts), *core.shape), UNMAPPED, np.uint8)
        score[:, *here] = scores.score
        mask = to_mask(score, [self._setup.prompts[position].threshold for position in task.prompts])
        source = None
        if task.write_source:
            source = np.full(core.shape, NO_SOURCE, np.uint32)
            source[here] = np.where(seen.asked, seen.view.source[seen.part.within(seen.frame)], NO_SOURCE)
        layers = TileLayers(mask=mask, score=score, source=source, prompts=task.prompts)
        written = self._mosaic.write(task.grid, task.tile, task.time, layers)
        reach("after-put")
        observed_px = int((mask[0] < UNOBSERVED).sum())
        return TileResult(
            id=task.id,
            nodata=observed_px == 0,
            checksums=tuple(
                (prompt, checksum(mask[position], score[position])) for position, prompt in enumerate(task.prompts)
            ),
            source_checksum=None if source is None else source_checksum(source),
            asked_px=int(seen.asked.sum()),
            seen_px=observed_px,
            present_px=tuple(int((layer == PRESENT).sum()) for layer in mask),
            windows=scores.windows,
            reused=scores.reused,
            seam=scores.seam,
            read_bytes=seen.view.pixels.nbytes,
            written_bytes=written.nbytes,
            seconds={
                "read": seen.seconds,
                "infer": scores.model_s,
                "blend": scores.blend_s,
                "write": clock.perf_counter() - started,
            },
            receipt=written.receipt,
        )


def asked_pixels(area: BaseGeometry | None, task: TileTask) -> Valid:
    """``(y, x)`` over the core: True where the pixel's centre lies in the area."""
    core = task.tile.core
    if not task.clipped or area is None:
        return np.ones(core.shape, np.bool_)
    asked = np.zeros(core.shape, np.bool_)
    for cell in core.cells(BLOCK_PX):
        part = cell.intersection(core)
        asked[part.within(core)] = outline(area, task.grid.lattice, cell)[part.within(cell)]
    return asked


def outline(area: BaseGeometry, lattice: Lattice, cell: PixelBox) -> Valid:
    """``(y, x)`` over a lattice cell: True where the pixel's centre lies in an area of the lattice's CRS."""
    # A country's outline has a hundred thousand corners, of which a cell sees a few. A pixel of margin: where the area
    # only touches the frame, what they share is a line or a point, and those would be burnt as well.
    part = area.intersection(
        box(*lattice.bounds(PixelBox(cell.top - 1, cell.left - 1, cell.bottom + 1, cell.right + 1)))
    )
    if part.is_empty:
        return np.zeros(cell.shape, np.bool_)
    burnt = rasterize(
        [(part, PRESENT)], out_shape=cell.shape, transform=lattice.transform(cell), fill=ABSENT, dtype=np.uint8
    )
    return np.asarray(burnt == PRESENT)
