"""A mosaic as xarray knows it: lazy, in chunks of one shard, with the views people ask for.

ds = mapper.open_mosaic(url)          Dataset; a DataTree with a child a zone where there are several
ds.score.sel(prompt="building")       float32, 0 to 1, NaN in gaps; time runs from the oldest step to the latest
ds.resmap                             what is asked, where it lies, how to go on
ds.resmap.items                       the scenes it was made of; ds.source holds rows of it
ds.resmap.level(3)                    the same in pixels 8 times as wide
ds.resmap.area((12, 55, 12.1, 55.1))  answers, see mapper/questions/answers.py
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from shapely.geometry import box

from mapper.errors import MosaicError, QuestionError
from mapper.grid import Grid, PixelBox
from mapper.masks import SCORE_ONE, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.questions.asking import Place
from mapper.questions.placed import own_land
from mapper.questions.places import Places, did_you_mean, polygons_of

if TYPE_CHECKING:
    import geopandas as gpd

    from mapper.questions import Answer, AreaRow, ChangeRow, CountRow

_STORED = np.arange(256, dtype=np.float32)
_PROBABILITY = np.where(_STORED <= SCORE_ONE, _STORED / np.float32(SCORE_ONE), np.float32(np.nan))
"""Stored score → probability."""

_LONG = ("zarr_conventions", "proj:", "spatial:", "multiscales")
"""Beginnings of the attributes that other readers need in the file and nobody wants to see in a notebook: where the
pixels lie is in ``spatial_ref``, ``x`` and ``y``."""


@overload
def open_mosaic(url: str | Path, *, tree: str, level: int = ..., at: str | None = ...) -> xr.Dataset: ...
@overload
def open_mosaic(url: str | Path, *, tree: None = ..., level: int = ..., at: str | None = ...) -> Any: ...
def open_mosaic(
    url: str | Path, *, tree: str | None = None, level: int = 0, at: str | None = None
) -> xr.Dataset | xr.DataTree:
    """The mosaic as a lazy Dataset with chunks of one shard; of several zones a DataTree, a child a zone.

    Times are in order, though a monitor adds steps behind those that are stored, whenever they begin. Beyond what is
    stored, ``observed`` is a bool view of ``mask`` (False in both kinds of gap), and ``score`` is
    float32, 0 to 1, NaN in gaps. Metadata and coordinates are read, and no pixel.

    Args:
        url: path or URL of the mosaic.
        tree: one zone, such as ``utm33n``, as a Dataset.
        level: 0 is what the model answered; each further level has pixels twice as wide.
        at: a tag, a run or a snapshot of a mosaic that keeps its history.

    Raises:
        MosaicError: no mosaic there, or no such zone or level.
        QuestionError: no such version.
    """
    mosaic = Mosaic.open(str(url), writable=False, at=at)
    grids = {grid.name: grid for grid in mosaic.grids}
    if tree is not None and tree not in grids:
        raise MosaicError(
            f"this mosaic has no zone {tree}", fix=did_you_mean(tree, [name or "''" for name in grids]), mosaic=str(url)
        )
    if tree is not None or len(grids) == 1:
        return _dataset(mosaic, grids[tree] if tree is not None else mosaic.grids[0], level)
    opened = xr.DataTree.from_dict({name: _dataset(mosaic, grid, level) for name, grid in grids.items()}, name="mosaic")
    opened.attrs = _attributes(mosaic, level=level)
    return opened


def _dataset(mosaic: Mosaic, grid: Grid, level: int) -> xr.Dataset:
    """One level of one grid."""
    import rioxarray  # noqa: F401  # gives the Dataset its .rio

    levels = grid.pyramid()
    if not 0 <= level < len(levels):
        raise MosaicError(f"this mosaic has no level {level}", fix=f"choose 0 to {len(levels) - 1}", mosaic=mosaic.url)
    store, group = mosaic.store, levels[level].path
    chunks = {"prompt": 1, "time": 1, "y": grid.shard_px, "x": grid.shard_px}
    consolidated = None if store.supports_consolidated_metadata else False
    stored = xr.open_zarr(store, group=group, chunks=chunks, mask_and_scale=False, consolidated=consolidated)
    if (order := _by_date(stored["time"].to_numpy())) is not None:
        stored = stored.isel(time=order)
    score = stored["score"].copy(data=stored["score"].data.map_blocks(_PROBABILITY.__getitem__, dtype=np.float32))
    score.attrs = {"long_name": "probability that the prompt is here", "units": "1", "grid_mapping": "spatial_ref"}
    observed = stored["mask"] < UNOBSERVED
    observed.attrs = {"long_name": "whether the ground was seen", "grid_mapping": "spatial_ref"}
    opened: xr.Dataset = stored.assign(score=score, observed=observed)[["mask", "score", "observed", "source"]]
    for variable in opened.variables.values():
        variable.attrs = {
            name: value for name, value in variable.attrs.items() if not name.startswith((*_LONG, "coordinates"))
        }
    opened.attrs = _attributes(mosaic, level=level) | ({"zone": grid.name} if grid.name else {})
    return opened


def _by_date(times: NDArray[Any]) -> NDArray[np.intp] | None:
    """The order of time steps; None where they have it already."""
    return None if (times[1:] >= times[:-1]).all() else np.argsort(times, kind="stable")


def _attributes(mosaic: Mosaic, *, level: int) -> dict[str, Any]:
    prompts = {prompt.name: prompt.expression for prompt in mosaic.prompts}
    return {"mosaic": mosaic.url, "prompts": prompts} | ({"level": level} if level else {})


class _Opened:
    """What a Dataset and a DataTree of a mosaic have in common."""

    def __init__(self, opened: xr.Dataset | xr.DataTree) -> None:
        if "mosaic" not in opened.attrs:
            raise MosaicError("this Dataset did not come from a mosaic", fix="open it with mapper.open_mosaic")
        self._opened = opened

    @property
    def url(self) -> str:
        """Where the mosaic is."""
        return str(self._opened.attrs["mosaic"])

    @property
    def prompts(self) -> Mapping[str, str]:
        """Names → sentences."""
        return dict(self._opened.attrs["prompts"])

    @cached_property
    def mosaic(self) -> Mosaic:
        """The mosaic itself, open for reading."""
        return Mosaic.open(self.url, writable=False)

    @cached_property
    def items(self) -> gpd.GeoDataFrame:
        """The scenes it was made of, in longitude and latitude; its index is what ``source`` holds."""
        from mapper.runs import item_table

        return item_table(self.url)

    @property
    def levels(self) -> tuple[Grid, ...]:
        """The levels of its pyramid, the finest first; of the zone with the most."""
        return max((grid.pyramid() for grid in self.mosaic.grids), key=len)

    def reopen(self) -> Any:
        """The whole mosaic as it is now, with what was added since: a Dataset or DataTree, as this is."""
        zone = self._opened.attrs.get("zone")
        return open_mosaic(self.url, tree=zone, level=self._opened.attrs.get("level", 0))

    def level(self, number: int) -> Any:
        """The whole mosaic on another level of its pyramid: a Dataset or DataTree, as this is."""
        return open_mosaic(self.url, tree=self._opened.attrs.get("zone"), level=number)

    def area(self, place: Place = None, **how: Any) -> Answer[AreaRow]:
        """How much is there, of the prompts, times and pixels that are left here; see ``mapper.questions.area``."""
        from mapper.questions import area

        return area(self.mosaic, self._place(place), **self._selected() | how)

    def count(self, place: Place = None, **how: Any) -> Answer[CountRow]:
        """How many objects there are; see ``mapper.questions.count``."""
        from mapper.questions import count

        return count(self.mosaic, self._place(place), **self._selected() | how)

    def where(self, place: Place = None, **how: Any) -> gpd.GeoDataFrame:
        """The objects themselves; see ``mapper.questions.where``."""
        from mapper.questions import where

        return where(self.mosaic, self._place(place), **self._selected() | how)

    def change(self, before: Any, after: Any, place: Place = None, **how: Any) -> Answer[ChangeRow]:
        """What appeared and vanished between two times; see ``mapper.questions.change``."""
        from mapper.questions import change

        selected = {name: value for name, value in self._selected().items() if name != "times"}
        return change(self.mosaic, before, after, self._place(place), **selected | how)

    def _place(self, place: Place) -> Place:
        return place

    def _selected(self) -> dict[str, Any]:
        """The prompts and times that are left after selecting."""
        opened = self._opened
        one = opened if isinstance(opened, xr.Dataset) else next(iter(opened.children.values())).to_dataset()
        prompts, times = np.atleast_1d(one["prompt"].to_numpy()), np.atleast_1d(one["time"].to_numpy())
        return {
            "prompts": [str(prompt) for prompt in prompts],
            "times": [str(time) for time in times.astype("datetime64[s]")],
        }

    def __repr__(self) -> str:
        from mapper.card import card_text

        return card_text(self.mosaic)

    def _repr_html_(self) -> str:
        from mapper.card import card_html

        return card_html(self.mosaic)


@xr.register_dataset_accessor("resmap")  # type: ignore[no-untyped-call]  # xarray has no types for it
class OpenedDataset(_Opened):
    """``.resmap`` of a Dataset: what is known of it, and its answers."""

    def _place(self, place: Place) -> Place:
        """Where nothing is said and a part was cut out: that part."""
        if place is not None:
            return place
        grid = self._grid()
        rows, columns = self._run_of("y", grid), self._run_of("x", grid)
        part = PixelBox(rows[0], columns[0], rows[1], columns[1])
        if part == grid.box and len(self.mosaic.grids) == 1:
            return None
        outline = box(*grid.lattice.bounds(part))
        if len(self.mosaic.grids) > 1:
            outline = polygons_of(outline.intersection(own_land(grid)))
        return Places(names=("selection",), geometries=(outline,), crs=grid.lattice.crs)

    def _grid(self) -> Grid:
        zone = self._opened.attrs.get("zone", "")
        base = next(grid for grid in self.mosaic.grids if grid.name == zone)
        return base.pyramid()[int(self._opened.attrs.get("level", 0))]

    def _run_of(self, axis: Literal["x", "y"], grid: Grid) -> tuple[int, int]:
        """First lattice pixel of an axis and the one behind its last."""
        assert isinstance(self._opened, xr.Dataset)  # its accessor is registered for nothing else
        centres: NDArray[np.float64] = np.atleast_1d(self._opened[axis].to_numpy())
        lattice = grid.lattice
        along = (
            (centres - lattice.phase_x) / lattice.res_x if axis == "x" else (lattice.phase_y - centres) / lattice.res_y
        )
        pixels = np.rint(along - 0.5).astype(np.int64)
        if not len(pixels) or (np.diff(pixels) != 1).any():
            raise QuestionError(
                f"the selection is no run of neighbouring pixels along {axis}",
                fix="ask about a place, as in area(bbox)",
            )
        return int(pixels[0]), int(pixels[-1]) + 1


@xr.register_datatree_accessor("resmap")  # type: ignore[no-untyped-call]  # xarray has no types for it
class OpenedTree(_Opened):
    """``.resmap`` of a DataTree: the zones as one mosaic."""
