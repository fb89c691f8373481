"""The live map: what it shows, and its pictures.

    state · seconds · present    of the planned tiles, drawn from columns
    score · mask                 the mosaic's pixels, as ``resmap preview`` shows them
    imagery                      what the models saw, under the masks

What does not change while a run goes on is found out once and kept for the runs looked at last; what does, as long as
the columns stay the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from jobs.dashboard.map_colours import (
    Scale,
    classes_png,
    empty_png,
    present_scale,
    rgba_png,
    seconds_scale,
    state_scale,
)
from jobs.dashboard.states import RunView
from jobs.dashboard.views import MapInfo
from jobs.planned_map import DEEPEST_PIXELS, NOWHERE, ZOOMS_KEPT, Codes, PlannedMap
from jobs.preview.shown import Shown
from jobs.speaking import renews_of
from jobs.web_imagery import WebImagery, kept_spec
from mapper.errors import MosaicError, QuestionError, SpecError
from mapper.exports.chosen import iso
from mapper.kept import Kept
from mapper.web.degrees import Bounds, GridInDegrees
from mapper.web.tile_picture import colour_of, legend
from mapper.web.webtiles import Layer, centres, largest_zoom, map_bounds

TILE_LAYERS = ("state", "seconds", "present")
LAYERS = (*TILE_LAYERS, "score", "mask", "imagery")

_OF_MOSAIC: dict[str, Layer] = {"score": "score", "mask": "mask"}

RUNS_KEPT = 8
PLANNED_KEPT = 12_000_000
"""Tiles, of all runs and time steps together, of which it is kept where they lie: 52 bytes each at most."""

DRAWN_KEPT = 40_000_000
"""Tiles, layer by layer, of which it is kept what is drawn of them: four bytes each at most."""

_LINED_PX = 8.0
"""Tiles with longer sides have lines between them."""


def map_info(view: RunView) -> MapInfo:
    """What the live map of a run shows."""
    run = _run_map(view)
    scales = {layer: _scale(view, layer) for layer in TILE_LAYERS} if view.grids else {}
    told = {layer: scale.lines for layer, scale in scales.items()}
    shown, layers = run.shown(), list(scales)
    if shown is not None and run.prompts:
        layers += ["score", "mask"]
        told["mask"] = told["score"] = tuple(_mask_lines(run.prompts, shown))
    if view.grids and run.imagery is not None:
        layers.append("imagery")
    return MapInfo(
        bounds=map_bounds(run.zones) if run.zones else area_bounds(view),
        steps=run.steps,
        prompts=run.prompts,
        layers=tuple(layers),
        max_zoom=largest_zoom(run.zones) if run.zones else 0,
        version=_version(view, growing=shown is not None and shown.tiles.growing),
        legend=told,
    )


def picture(view: RunView, layer: str, prompt: int, step: int, z: int, x: int, y: int) -> bytes:
    """One picture of 256 × 256 px as PNG; the same bytes while nothing changes.

    Args:
        view: the run.
        layer: one of ``LAYERS``; transparent where the run has it not yet.
        prompt: position in ``MapInfo.prompts``; of no meaning for tiles and imagery.
        step: position in ``MapInfo.steps``.
        z: zoom, at which there are 2^z pictures an axis.
        x: column, counted from the 180th meridian eastwards.
        y: row, counted from the north.

    Raises:
        QuestionError: there is no such picture.
        StoreError, VerifyError: a shard of the mosaic under it cannot be read.
    """
    run = _run_map(view)
    centres(z, x, y, 1)  # raises where there is no such picture
    if layer not in LAYERS:
        raise QuestionError("there is no such layer", fix=f"ask for one of {', '.join(LAYERS)}", layer=layer)
    if not (0 <= step < len(run.steps) and (layer not in _OF_MOSAIC or 0 <= prompt < len(run.prompts))):
        raise QuestionError("there is no such prompt or time step", fix="the map's legend lists those there are")
    if layer in _OF_MOSAIC:
        return run.mosaic_picture(layer, prompt, step, z, x, y)
    if not view.grids:
        return empty_png()
    return run.imagery_picture(view, step, z, x, y) if layer == "imagery" else run.tiles(view, layer, step, z, x, y)


def planned_map(view: RunView, step: int) -> PlannedMap | None:
    """The planned tiles of a time step as places on the map; None while there is no mosaic, or of no such step."""
    run = _run_map(view)
    return run.planned(view, step) if view.grids and 0 <= step < len(run.steps) else None


class RunMap:
    """What is known of the map of one run. Threads may share one."""

    def __init__(self, view: RunView, known: _Known) -> None:
        self._folder = view.folder
        self._known = known
        moments = [datetime.fromisoformat(step) for step in view.facts.get("steps", ())]
        self._positions = _shown_steps(view, moments)
        self._moments = tuple(moments[position] for position in self._positions)
        self.steps = tuple(iso(moment) for moment in self._moments)
        self.zones = tuple(GridInDegrees(grid) for grid in view.grids)
        self._shown: Shown | None = None

    @cached_property
    def prompts(self) -> tuple[tuple[str, str], ...]:
        """Name and expression of each; none where the job beside the mosaic cannot be read."""
        try:
            return tuple((prompt.name, prompt.expression) for prompt in kept_spec(self._folder).prompts)
        except (SpecError, FileNotFoundError):
            return ()

    @cached_property
    def imagery(self) -> WebImagery | None:
        """What the models saw; None where the job cannot be read."""
        try:
            return WebImagery(self._folder)
        except (SpecError, FileNotFoundError):
            return None

    def shown(self) -> Shown | None:
        """The mosaic; None while there is none."""
        if self._shown is None:
            try:
                self._shown = Shown(self._folder.mosaic)
            except MosaicError:
                return None
        return self._shown

    def planned(self, view: RunView, step: int) -> PlannedMap:
        """The planned tiles of a time step."""
        return _PLANNED.get((self._known, step), lambda: PlannedMap(self.zones, view.places, self._positions[step]))

    def tiles(self, view: RunView, layer: str, step: int, z: int, x: int, y: int) -> bytes:
        """A picture of the planned tiles."""
        planned = self.planned(view, step)
        now = id(view.states), view.states.version  # what is drawn holds on to the columns, so no others have their id
        drawn = _DRAWN.get((self._known, step, layer, *now), lambda: _Drawn(view, layer, planned))
        under = planned.under(z, x, y)
        inner = under.tile[1:-1, 1:-1]
        codes = np.where(inner == NOWHERE, np.uint8(0), drawn.of(inner))
        if under.crowded and z <= DEEPEST_PIXELS:
            which, row, column = planned.fallen(z, x, y)
            codes[row, column] = np.maximum(codes[row, column], drawn.worst(z)[which])
        edges = _edges(under.tile) if under.side_px >= _LINED_PX else np.zeros(codes.shape, np.bool_)
        return classes_png(codes, edges, drawn.scale) if codes.any() else empty_png()

    def mosaic_picture(self, layer: str, prompt: int, step: int, z: int, x: int, y: int) -> bytes:
        """A picture of the mosaic's pixels."""
        shown = self.shown()
        if shown is None:
            return empty_png()
        mosaic = shown.tiles.mosaic
        names = [asked.name for asked in mosaic.prompts]
        if self.prompts[prompt][0] not in names or self._moments[step] not in mosaic.times:
            return empty_png()
        which = names.index(self.prompts[prompt][0]), mosaic.times.index(self._moments[step])
        return shown.tile(_OF_MOSAIC[layer], *which, z, x, y)

    def imagery_picture(self, view: RunView, step: int, z: int, x: int, y: int) -> bytes:
        """A picture of what the models saw."""
        if self.imagery is None:
            return empty_png()
        tile = self.planned(view, step).under(z, x, y).tile[1:-1, 1:-1]
        pixels = self.imagery.picture(self.zones, tile, view.places.grid, (z, x, y))
        return empty_png() if pixels is None else rgba_png(pixels)


def _shown_steps(view: RunView, moments: Sequence[datetime]) -> list[int]:
    """Positions of the time steps that a run maps, oldest first: one that renews knows all steps of its mosaic, and
    has tiles in a few."""
    everything = list(range(len(moments)))
    own = np.unique(view.places.step[view.places.step < len(moments)]).tolist() if renews_of(view.facts) else []
    return sorted(own or everything, key=lambda position: moments[position])


class _Drawn:
    """One layer of one time step, as it is now."""

    def __init__(self, view: RunView, layer: str, planned: PlannedMap) -> None:
        self.scale = _scale(view, layer)
        self._columns = view.states
        self._layer = layer
        self.planned = planned
        self._worst: Kept[int, Codes] = Kept(ZOOMS_KEPT)

    def of(self, tile: NDArray[np.int32]) -> Codes:
        """What is drawn of tiles, by row of the plan."""
        if self._layer == "state":
            return self.scale.of_states(self._columns.state[tile])
        return self.scale.of_numbers(
            (self._columns.seconds if self._layer == "seconds" else self._columns.present)[tile]
        )

    def worst(self, z: int) -> Codes:
        """What is drawn of each pixel of a zoom that tiles fall in."""
        return self._worst.get(z, lambda: self.planned.worst(self._codes, z))

    @cached_property
    def _codes(self) -> Codes:
        return self.of(self.planned.tile)


def _run_map(view: RunView) -> RunMap:
    """What is known of the map of a run, found out when it is first asked for and when its mosaic is made."""
    known = (view.key, str(view.facts.get("created")), len(view.places.row), bool(view.grids))
    return _RUNS.get(known, lambda: RunMap(view, known))


_Known: TypeAlias = tuple[str, str, int, bool]
"""Which run it is, and whether its mosaic is made."""

_RUNS: Kept[_Known, RunMap] = Kept(RUNS_KEPT)
_PLANNED: Kept[tuple[_Known, int], PlannedMap] = Kept(PLANNED_KEPT, weigh=lambda planned: len(planned.tile) + 1)
_DRAWN: Kept[tuple[_Known, int, str, int, int], _Drawn] = Kept(
    DRAWN_KEPT, weigh=lambda drawn: len(drawn.planned.tile) + 1
)


def _scale(view: RunView, layer: str) -> Scale:
    if layer == "state":
        return state_scale()
    return seconds_scale(view.states.seconds) if layer == "seconds" else present_scale()


def _edges(tile: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Where a line is drawn: towards the next tile, and around the area.

    Args:
        tile: as ``Under.tile``; with one pixel more on each side than what is returned.
    """
    inner, right, below = tile[1:-1, 1:-1], tile[1:-1, 2:], tile[2:, 1:-1]
    outside = (tile[1:-1, :-2] == NOWHERE) | (tile[:-2, 1:-1] == NOWHERE)
    return np.asarray((inner != right) | (inner != below) | outside)


def _mask_lines(prompts: Sequence[tuple[str, str]], shown: Shown) -> Iterator[tuple[str, str]]:
    """The colour of each prompt, and of what is no answer."""
    names = [prompt.name for prompt in shown.tiles.mosaic.prompts]
    for name, expression in prompts:
        if name in names:
            yield "#" + bytes(colour_of(names.index(name))).hex(), expression
    for line in legend(0):
        if line.pattern in ("hatched", "dotted"):
            yield line.colour[:7], f"{line.pattern}: {line.meaning}"


def area_bounds(view: RunView) -> Bounds:
    """Of the area, while there are no grids."""
    west, south, east, north = shapely.from_wkb(view.folder.area()).bounds
    return west, south, east, north


def _version(view: RunView, *, growing: bool) -> str:
    """What the pictures depend on, in few letters; the same in every process."""
    digest = 0
    for column in (view.states.state, view.states.seconds, view.states.present):
        digest = zlib.crc32(column.data, digest)
    return f"{zlib.crc32(repr((view.facts.get('state'), bool(view.grids), growing)).encode(), digest):08x}"
