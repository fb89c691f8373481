"""The story of one tile: read, segment, keep the core, write."""

from __future__ import annotations

import time as clock
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry.base import BaseGeometry

from mapper.composite import box_around
from mapper.grid import BLOCK_PX, Grid, Lattice, PixelBox, Tile, Windows
from mapper.imagery import NO_SOURCE, PlacedItem, Valid, View
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED, Blend, Stored, needed_windows, to_mask, to_score
from mapper.mosaic import Mosaic, TileLayers, checksum, source_checksum
from mapper.prompts import Prompt
from mapper.pyramid import LevelResult, LevelTask, build_shard
from mapper.read import RasterReader, Reader
from mapper.segmenter import Segmenter

CPU_BATCH, GPU_BATCH = 2, 16
"""Windows the model is given at once: on a CPU more of them gain nothing and cost memory."""


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
    seam: float | None
    """Share of the pixels where windows meet on which they disagree, before they are blended."""

    read_bytes: int
    written_bytes: int
    receipt: bytes | None = None
    """What the driver must commit; None where the engine needs no commit."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds: read, infer, write."""


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
    seam: float | None
    seconds: float


class TileMapper:
    """A loaded model, a reader and a mosaic: maps one tile after another.

    The three acts may run in threads of their own, as long as ``segment`` always runs in the same one.
    """

    def __init__(self, setup: Setup, *, segmenter: Segmenter, reader: Reader, mosaic: Mosaic) -> None:
        self.segmenter = segmenter
        self._setup = setup
        self._reader = reader
        self._mosaic = mosaic
        self._windows = Windows(size_px=segmenter.window_px, overlap_px=setup.overlap_px)
        self._batch = setup.batch or (CPU_BATCH if segmenter.device == "cpu" else GPU_BATCH)
        self._texts: dict[tuple[int, ...], Any] = {}

    @classmethod
    def load(cls, setup: Setup) -> TileMapper:
        """Load the model and open the mosaic that the setup names."""
        return cls(
            setup,
            segmenter=setup.model.load(),
            reader=RasterReader(bands=setup.bands, stretch=setup.stretch, composite=setup.composite),
            mosaic=Mosaic.open(setup.mosaic),
        )

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
        started = clock.perf_counter()
        asked = asked_pixels(self._setup.areas.get(task.grid.name), task)
        part = box_around(asked, task.tile.core)
        frame = self._windows.frame(part) if task.items and not part.empty else part
        view = self._reader.read(task.items, task.grid.lattice, frame)
        inside = asked[part.within(task.tile.core)]
        return TileView(part=part, frame=frame, view=view, asked=inside, seconds=clock.perf_counter() - started)

    def segment(self, task: TileTask, seen: TileView) -> TileScores:
        """The stored score of what is asked, for each prompt of the task."""
        started = clock.perf_counter()
        valid = seen.view.valid[seen.part.within(seen.frame)]
        needed = valid & seen.asked
        blend = Blend(seen.part, self._windows, len(task.prompts), feather=self._setup.blend)
        windows = needed_windows(self._windows.touching(seen.part), seen.part, needed) if needed.any() else []
        text = self._text(task.prompts) if windows else None
        for first in range(0, len(windows), self._batch):
            batch = windows[first : first + self._batch]
            pixels = np.stack([seen.view.pixels[:, *window.within(seen.frame)] for window in batch])
            for window, logits in zip(batch, self.segmenter.logits(self._padded(pixels), text), strict=False):
                blend.add(window, logits)
        score = to_score(blend.logits(needed), valid=valid, asked=seen.asked)
        return TileScores(score=score, windows=len(windows), seam=blend.seam, seconds=clock.perf_counter() - started)

    def _padded(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The batch, filled up with black windows where it runs on a GPU: there the kernel chosen, and with it the
        last bit, depends on the batch's shape. On a CPU it does not (measured), and black windows cost time."""
        missing = 0 if self.segmenter.device == "cpu" else self._batch - len(pixels)
        return np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)]) if missing else pixels

    def write(self, task: TileTask, seen: TileView, scores: TileScores) -> TileResult:
        """Put the tile's shards and say what was put."""
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
            seam=scores.seam,
            read_bytes=seen.view.pixels.nbytes,
            written_bytes=written.nbytes,
            seconds={"read": seen.seconds, "infer": scores.seconds, "write": clock.perf_counter() - started},
            receipt=written.receipt,
        )

    def _text(self, prompts: tuple[int, ...]) -> Any:
        """The encoding of these prompts: made at the first tile that asks, then kept for the run."""
        if prompts not in self._texts:
            self._texts[prompts] = self.segmenter.encode_text([self._setup.prompts[p].expression for p in prompts])
        return self._texts[prompts]


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
    burnt = rasterize(
        [(area, PRESENT)], out_shape=cell.shape, transform=lattice.transform(cell), fill=ABSENT, dtype=np.uint8
    )
    return np.asarray(burnt == PRESENT)
