"""Change as others know it: a lazy Dataset of xarray, a table of geopandas.

ds = open_changes(url)                      Dataset, or a DataTree with a child a zone; steps in order of time
(ds.change == 2).sel(prompt="lake")         what appeared, step by step
ds.state                                    what holds after each step, wherever its ground was seen last
changed_places(url, kinds=["appeared"])     polygons, with first_seen, last_seen, area_m2 and score
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mapper.changes.polygons import KINDS, POLYGONS, SCHEMA, file_name
from mapper.changes.raster import Raster, changes_folder
from mapper.errors import MosaicError, QuestionError
from mapper.grid import Grid
from mapper.mosaic import Mosaic
from mapper.questions.asking import When, prompts_of, times_of
from mapper.questions.places import did_you_mean
from mapper.storage import Folder

if TYPE_CHECKING:
    import geopandas as gpd


def open_changes(mosaic_url: str, *, tree: str | None = None) -> Any:
    """The changes of a mosaic, lazily, in chunks of one shard, steps in order of time.

    ``change`` is as stored, see ``mapper/changes/raster.py``. ``state`` (0, 1, 254 never seen), ``since`` and ``seen``
    (datetime64, NaT where there is none) hold after each step, also where a step mapped nothing.

    Args:
        mosaic_url: path or URL of the mosaic.
        tree: one zone, such as ``utm33n``, as a Dataset.

    Returns:
        A Dataset; of several zones a DataTree, a child a zone.

    Raises:
        MosaicError: there are no changes beside this mosaic, or there is no such zone.
    """
    mosaic = Mosaic.open(str(mosaic_url), writable=False)
    raster = Raster.open(mosaic.url, writable=False)
    if raster is None:
        raise MosaicError(
            "there are no changes beside this mosaic", fix="make them with find_changes", mosaic=mosaic.url
        )
    grids = {grid.name: grid for grid in mosaic.grids}
    if tree is not None and tree not in grids:
        fix = did_you_mean(tree, [name or "''" for name in grids])
        raise MosaicError(f"this mosaic has no zone {tree}", fix=fix, mosaic=mosaic.url)
    if tree is not None or len(grids) == 1:
        return _dataset(raster, grids[tree] if tree is not None else mosaic.grids[0])
    return xr.DataTree.from_dict({name: _dataset(raster, grid) for name, grid in grids.items()}, name="changes")


def _dataset(raster: Raster, grid: Grid) -> xr.Dataset:
    import rioxarray  # noqa: F401  # gives the Dataset its .rio

    stored = xr.open_zarr(raster.tree().root.store, group=grid.path, chunks=None, mask_and_scale=False)
    place = {name: stored[name] for name in ("prompt", "y", "x", "spatial_ref")}
    times = np.array([np.datetime64(time.replace(tzinfo=None), "s") for time in _utc(raster)])
    axes = ("prompt", "time", "y", "x")
    layers = {}
    for name, dtype in (("change", "u1"), ("state", "u1"), ("since", "M8[s]"), ("seen", "M8[s]")):
        about = {key: stored[name].attrs[key] for key in ("flag_values", "flag_meanings") if key in stored[name].attrs}
        about["long_name"] = stored[name].attrs["long_name"]
        layers[name] = (axes, _lazily(raster, grid, name, np.dtype(dtype)), about | {"grid_mapping": "spatial_ref"})
    coords = {**place, "time": ("time", times, {"long_name": stored["time"].attrs.get("long_name", "time")})}
    return xr.Dataset(layers, coords=coords, attrs=dict(raster.facts["rule"]))


def _utc(raster: Raster) -> list[datetime]:
    return [raster.times[at].astimezone(UTC) for at in raster.order]


def _lazily(raster: Raster, grid: Grid, name: str, dtype: np.dtype[Any]) -> Any:
    """One layer as a dask array, in chunks of one shard, steps in order of time."""
    import dask.array as da

    def shard(block_info: Any = None) -> NDArray[Any]:
        prompt, rank, row, column = block_info[None]["chunk-location"]
        tile = grid.tile(row, column)
        if name == "change":
            return raster.change(grid, tile, prompt, raster.order[rank])[None, None]
        known = raster.known_before(grid, tile, prompt, rank + 1)
        return np.asarray(getattr(known, name)).view(dtype)[None, None]

    rows, columns = grid.tile_shape
    chunks = (
        (1,) * len(raster.prompts),
        (1,) * len(raster.order),
        (grid.shard_px,) * rows,
        (grid.shard_px,) * columns,
    )
    empty = np.empty((0,) * 4, dtype)
    return da.map_blocks(shard, chunks=chunks, dtype=dtype, meta=empty)  # type: ignore[no-untyped-call]


def changed_places(
    mosaic_url: str,
    *,
    times: Sequence[When] | When | None = None,
    prompts: Sequence[str] | str | None = None,
    kinds: Sequence[str] | str | None = None,
) -> gpd.GeoDataFrame:
    """Changed places as polygons in longitude and latitude, columns as ``mapper/changes/polygons.py`` says.

    Args:
        mosaic_url: path or URL of the mosaic.
        times: beginnings of steps, or days, months or years they begin in; None for all.
        prompts: by name; None for all.
        kinds: of ``appeared``, ``vanished``, ``stayed``; None for all.

    Returns:
        Sorted by time, prompt, kind and id; no row where nothing changed.

    Raises:
        QuestionError: there is no such time, prompt or kind.
        MosaicError: there is no mosaic here.
        StoreError, CredentialsError: as ``store_failure`` says.
    """
    import geopandas as gpd
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely

    mosaic = Mosaic.open(str(mosaic_url), writable=False)
    names = [mosaic.prompts[number].name for number in prompts_of(mosaic, prompts)]
    wanted = [kinds] if isinstance(kinds, str) else list(KINDS) if kinds is None else list(kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise QuestionError(f"there is no kind of change {kind!r}", fix=did_you_mean(kind, list(KINDS)))
    folder = Folder(changes_folder(mosaic.url)).child(POLYGONS)
    files = [file_name(grid.name, mosaic.times[at]) for at in times_of(mosaic, times) for grid in mosaic.grids]
    there = {*folder.names("*.parquet")}
    tables = [
        pq.read_table(
            io.BytesIO(folder.read(name)),
            columns=SCHEMA.names,
            filters=[("prompt", "in", names), ("kind", "in", wanted)],
        )
        for name in files
        if name in there
    ]
    table = pa.concat_tables([SCHEMA.empty_table(), *(one.cast(SCHEMA) for one in tables)])
    frame = table.drop_columns(["geometry"]).to_pandas()
    frame["geometry"] = shapely.from_wkb(table["geometry"].to_numpy())
    places = gpd.GeoDataFrame(frame, geometry="geometry", crs="OGC:CRS84")
    return places.sort_values(["time", "prompt", "kind", "id"], ignore_index=True)
