"""Real flights posted one by one: what the monitor makes of them, against what is computed here in one go."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr

import mapper
from benchmarks.monitored import collection, kept, monitored, work_of
from benchmarks.real_input import collection_of, item_of, naip, with_base
from jobs.job import Job
from jobs.run import start
from jobs.spec import canonical
from mapper.changes import changed_places, open_changes
from mapper.masks import PRESENT, UNOBSERVED
from tests.pgstac import pgstac
from tests.servers import files_from_another_process


def lakes(data: Path, scratch: Path) -> dict[str, Any]:
    """Four flights, the third of them last; then all of them once more."""
    chosen = naip(data)
    order = (0, 1, 3, 2)
    with ExitStack() as stack:
        files = stack.enter_context(files_from_another_process(chosen.folder.resolve()))
        items = [with_base(item, files) for item in chosen.items]
        api = stack.enter_context(pgstac([collection_of(chosen, items)]))
        watched = stack.enter_context(kept(monitored(chosen.job, api, chosen.name, scratch), scratch))
        watched.tick()
        for number in order:
            api.post(items[number])
            watched.tick()
        for item in items:
            api.put(item)
        again = watched.tick()
        ds = mapper.open_mosaic(watched.job.spec.output.mosaic)
        px_km2 = 25 / 1e6
        dates = {}
        for step, moment in enumerate(ds["time"].values):
            mask = ds["mask"].isel(prompt=0, time=step).values
            seen = mask < UNOBSERVED
            truth = chosen.truth(xr.open_zarr(watched.job.spec.output.mosaic, group="0").sel(time=ds["time"]), step)
            here, there = (mask == PRESENT)[seen], truth[seen]
            dates[str(np.datetime_as_string(moment, "D"))] = {
                "lake_km2": round(float(here.sum()) * px_km2, 4),
                "ndwi_km2": round(float(there.sum()) * px_km2, 4),
                "iou": round(float((here & there).sum() / max(1, (here | there).sum())), 4),
            }
        return {
            "ticks": [end.state for end in watched.ends],
            "tick_s": [round(seconds, 2) for seconds in watched.seconds],
            "again": again.state,
            "axis": [str(np.datetime_as_string(t, "D"))
                     for t in xr.open_zarr(watched.job.spec.output.mosaic, group="0")["time"].values],
            "dates": dates,
            "changes": _changes(watched.job.spec.output.mosaic),
            "same_as_in_one_go": _same_as_in_one_go(watched.job, scratch),
            "work": work_of(watched.job.spec.output.mosaic),
        }  # fmt: skip


def river(data: Path, scratch: Path) -> dict[str, Any]:
    """Two years of a river that moves; their dates are known by the year alone."""
    folder = data / "landsat-river-series"
    items = []
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            placed = (file.crs.to_string(), list(file.transform)[:6], file.shape)
        item = item_of(path.stem, "landsat-river-series", f"{path.stem}-07-01T00:00:00Z", path.name, *placed, 4)
        names = ("swir", "nir", "red", "green")
        item["assets"]["image"]["bands"] = [{"name": name, "data_type": "uint8"} for name in names]
        items.append(item)
    job = {
        "name": "Ucayali: the river",
        "area": {"bbox": items[0]["bbox"]},
        # The order in which these are shown since Landsat: what the model takes for red, green and blue.
        "imagery": {"bands": ["swir", "nir", "red"], "time_step": "year"},
        "grid": {"crs": "EPSG:32718", "resolution_m": 90, "shard_px": 256, "chunk_px": 128},
        "prompts": [{"name": "river", "expression": "river"}],
    }
    with ExitStack() as stack:
        files = stack.enter_context(files_from_another_process(folder.resolve()))
        items = [with_base(item, files) for item in items]
        api = stack.enter_context(pgstac([collection("landsat-river-series", items[0]["bbox"])]))
        watched = stack.enter_context(kept(monitored(job, api, "landsat-river-series", scratch), scratch))
        for item in items:
            api.post(item)
            watched.tick()
        for item in items:
            api.put(item)
        again = watched.tick()
        return {
            "ticks": [end.state for end in watched.ends],
            "again": again.state,
            "said": [end.said for end in watched.ends],
            "changes": _changes(watched.job.spec.output.mosaic),
            "same_as_in_one_go": _same_as_in_one_go(watched.job, scratch),
            "work": work_of(watched.job.spec.output.mosaic),
        }


def _changes(mosaic: str) -> dict[str, Any]:
    """By step: what appeared and vanished, by its polygons; and whether the raster says the same, pixel by pixel."""
    raster = open_changes(mosaic)["change"]
    places = changed_places(mosaic)
    out = {}
    for step, moment in enumerate(raster["time"].values):
        values = raster.isel(prompt=0, time=step).values
        day = str(np.datetime_as_string(moment, "D"))
        here = places[places["time"].dt.strftime("%Y-%m-%d") == day]
        out[day] = {
            kind: {
                "km2": round(float(here.loc[here["kind"] == kind, "area_m2"].sum()) / 1e6, 4),
                "places": int((here["kind"] == kind).sum()),
                "pixels_of_raster": int((values == value).sum()),
                "pixels_of_polygons": int(here.loc[here["kind"] == kind, "pixels"].sum()),
            }
            for kind, value in (("appeared", 2), ("vanished", 3))
        }
    return out


def _same_as_in_one_go(job: Job, scratch: Path) -> bool:
    """Whether mask and score of all steps are those of a mosaic that was made at once, to the last bit."""
    document = {**canonical(job.spec), "output": {"mosaic": str(scratch / "whole.zarr")}, "monitor": None}
    start(Job.from_dict(document, folder=scratch), local=True).wait()
    one, other = mapper.open_mosaic(job.spec.output.mosaic), mapper.open_mosaic(str(scratch / "whole.zarr"))
    return all(
        np.array_equal(one["time"].values, other["time"].values)
        and np.array_equal(one[layer].values, other[layer].values, equal_nan=layer == "score")
        for layer in ("mask", "score")
    )
