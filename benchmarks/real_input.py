"""Real pictures through the whole chain: STAC API → plan → Ray → mosaic → score, and a quick-look of each.

    python -m benchmarks.real_input [--data ../shared/data] [--out DIR] [--gpus 2]

Two sets, of places the shipped model was not trained on:

- ``oam-banepa``: a block of 6 × 8 drone tiles of Banepa, Nepal; "the buildings" against OpenStreetMap footprints.
- ``naip-nd-series``: one footprint in North Dakota on four dates; "lake" against water seen by the near infrared. Only
  the east of it is mapped: the west is learned from.

The items are built from file names and headers, served by ``rustac serve``, and the files by an HTTP server with
ranges; nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rioxarray  # noqa: F401  # gives datasets their .rio
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from benchmarks.pocket.labels import PRAIRIE_EAST
from benchmarks.record import record
from jobs.job import Job
from jobs.prepare import prepare
from jobs.progress import Lines
from jobs.quicklook import write_quicklook
from jobs.run import start
from mapper.masks import PRESENT, UNOBSERVED
from tests.servers import files_from_another_process, stac_api

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
ZOOM_EDGE_M = 20037508.342789244
"""Half the side of the Web Mercator square."""

WATER_BELOW = 90.0
"""Near infrared, 0 to 255: darker is water where green is brighter than near infrared (NDWI above 0)."""

Truth = Callable[[xr.Dataset, int], NDArray[np.bool_]]
"""Mosaic and time step → where the prompt truly is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Set:
    """One set of real pictures."""

    name: str
    title: str
    items: list[dict[str, Any]]
    folder: Path
    job: dict[str, Any]
    truth: Truth
    footnote: str


def main() -> None:
    """Run both sets, print and record what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, help="keep the mosaics here")
    parser.add_argument("--gpus", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        figures = {}
        for chosen in (banepa(options.data), naip(options.data)):
            figures[chosen.name] = mapped(chosen, out / chosen.name, gpus=options.gpus)
            print(json.dumps({chosen.name: figures[chosen.name]}, indent=2))
        print(record("real_input", {"sets": figures}))


def mapped(chosen: Set, out: Path, *, gpus: int) -> dict[str, Any]:
    """Serve, map, score and draw one set; its figures."""
    shutil.rmtree(out, ignore_errors=True)
    with ExitStack() as stack:
        files = stack.enter_context(files_from_another_process(chosen.folder.resolve()))
        items = [with_base(item, files) for item in chosen.items]
        api = stack.enter_context(stac_api(items, [collection_of(chosen, items)]))
        document = {
            **chosen.job,
            "imagery": {"catalog": api, "collections": [chosen.name], **chosen.job["imagery"]},
            "output": {"mosaic": "map.zarr"},
        }
        job = Job.from_dict(document, folder=out)
        summary = start(job, gpus=gpus, watcher=Lines(every_s=10)).wait()
        ds = xr.open_zarr(summary.mosaic, group="0")
        scores = {
            str(np.datetime_as_string(ds.time.values[n], "D")): _score(ds, n, chosen.truth)
            for n in range(ds.sizes["time"])
        }
        prepared = prepare(job)
        for step, (date, score) in enumerate(scores.items()):
            if step == min(1, len(scores) - 1):  # one picture a set is enough
                name = chosen.job["prompts"][0]["name"]
                caption = f"“{chosen.job['prompts'][0]['expression']}”   IoU {score['iou']:.2f}"
                suffix = f"-{date}" if len(scores) > 1 else ""
                target = out / f"quicklook{suffix}.png"
                write_quicklook(prepared, target, step=step, captions={name: caption}, footnote=chosen.footnote)
                keep_small(target, f"{chosen.name}{suffix}")
    return {
        "title": chosen.title,
        "state": summary.state,
        "tiles": dict(summary.tiles),
        "seconds": summary.seconds,
        "workers": [dict(worker) for worker in summary.workers],
        "seam": summary.seam,
        "scores": scores,
    }


def keep_small(picture: Path, name: str) -> None:
    """Put a picture among the README's, small enough for a repository."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with Image.open(picture) as whole:
        whole.thumbnail((1500, 1500))
        whole.convert("RGB").save(PICTURES / f"{name}.jpg", quality=85, optimize=True)


def _score(ds: xr.Dataset, step: int, truth: Truth) -> dict[str, float]:
    """Intersection over union, precision, recall, and the IoU of saying "everywhere": what chance would give."""
    mask = ds["mask"].isel(prompt=0, time=step).values
    seen = mask < UNOBSERVED
    there, here = truth(ds, step)[seen], mask[seen] == PRESENT
    hits = int((there & here).sum())
    return {
        "iou": round(hits / max(1, int((there | here).sum())), 4),
        "precision": round(hits / max(1, int(here.sum())), 4),
        "recall": round(hits / max(1, int(there.sum())), 4),
        "iou_of_everywhere": round(float(there.mean()), 4),
        "observed_px": int(seen.sum()),
    }


def banepa(data: Path) -> Set:
    """Drone tiles of Banepa; the items from tile names alone (x, y, zoom of the slippy map)."""
    folder = data / "oam-banepa" / "train"
    label = json.loads((data / "oam-banepa" / "buildings-banepa-segmentation" / "stac-item.json").read_text())
    moment = label["properties"].get("datetime") or label["properties"]["start_datetime"]
    items = []
    for path in sorted((folder / "oam").glob("OAM-*.tif")):
        x, y, zoom = (int(number) for number in re.findall(r"\d+", path.stem))
        side = 2 * ZOOM_EDGE_M / 2**zoom
        left, top = x * side - ZOOM_EDGE_M, ZOOM_EDGE_M - y * side
        transform = [side / 512, 0.0, left, 0.0, -side / 512, top]
        items.append(
            item_of(path.stem, "oam-banepa", moment, f"oam/{path.name}", "EPSG:3857", transform, (512, 512), 3)
        )
    footprints = json.loads(next((folder / "osm").glob("*.geojson")).read_text())

    def truth(ds: xr.Dataset, step: int) -> NDArray[np.bool_]:
        crs = ds.rio.crs
        shapes = [transform_geom("EPSG:4326", crs, feature["geometry"]) for feature in footprints["features"]]
        return np.asarray(rasterize(shapes, out_shape=ds["mask"].shape[-2:], transform=ds.rio.transform()), np.bool_)

    return Set(
        name="oam-banepa",
        title="Banepa, Nepal: the buildings, from a drone",
        items=items,
        folder=folder,
        job={
            "name": "Banepa: the buildings",
            "area": {"bbox": _bbox(items)},
            "imagery": {"bands": ["red", "green", "blue"]},
            "grid": {"crs": "EPSG:32645", "resolution_m": 0.3, "shard_px": 1024, "chunk_px": 256},
            "prompts": [{"name": "building", "expression": "the buildings"}],
        },
        truth=truth,
        footnote="Imagery © OpenAerialMap contributors, CC BY 4.0. Scored against © OpenStreetMap contributors (ODbL).",
    )


def naip(data: Path) -> Set:
    """Four flights over one footprint in North Dakota."""
    folder = data / "naip-nd-series"
    items, infrared = [], {}
    for path in sorted(folder.glob("*.tif")):
        year, month, day = re.search(r"_(\d{4})(\d\d)(\d\d)$", path.stem).groups()  # type: ignore[union-attr]  # all end so
        with rasterio.open(path) as file:
            placed = (file.crs.to_string(), list(file.transform)[:6], file.shape)
        infrared[f"{year}-{month}-{day}"] = path
        items.append(item_of(path.stem, "naip-nd-series", f"{year}-{month}-{day}T17:00:00Z", path.name, *placed, 4))

    def truth(ds: xr.Dataset, step: int) -> NDArray[np.bool_]:
        path = infrared[str(np.datetime_as_string(ds.time.values[step], "D"))]
        with (
            rasterio.open(path) as file,
            rasterio.vrt.WarpedVRT(
                file, crs=ds.rio.crs, transform=ds.rio.transform(), width=ds.sizes["x"], height=ds.sizes["y"]
            ) as there,
        ):
            green, near = there.read([2, 4]).astype(np.float32)
        # NDWI alone takes ripe fields for water on these pictures; in the near infrared the two lie far apart, and 90
        # is the valley between them on all four dates.
        return np.asarray((green > near) & (near < WATER_BELOW))

    return Set(
        name="naip-nd-series",
        title="North Dakota: lakes on four dates",
        items=items,
        folder=folder,
        job={
            "name": "North Dakota: lakes",
            "area": {"bbox": _east(_bbox(items))},
            "imagery": {"bands": ["red", "green", "blue"], "time_step": "day"},
            "grid": {"crs": "EPSG:26914", "resolution_m": 5, "shard_px": 512, "chunk_px": 256},
            "prompts": [{"name": "lake", "expression": "lake"}],
        },
        truth=truth,
        footnote="Imagery: USDA NAIP, public domain. Scored against water by NDWI > 0 and NIR < 90.",
    )


def _east(bbox: list[float]) -> list[float]:
    """The part of naip-nd-series that is held back from training."""
    west, south, east, north = bbox
    return [west + PRAIRIE_EAST * (east - west), south, east, north]


def item_of(
    name: str,
    collection: str,
    moment: str,
    href: str,
    crs: str,
    transform: list[float],
    shape: tuple[int, int],
    bands: int,
) -> dict[str, Any]:
    """A STAC item of one picture with the bands of NAIP, placed by its transform."""
    rows, columns = shape
    a, _, c, _, e, f = transform
    to_lonlat = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(c, f + rows * e, c + columns * a, f)
    corners = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v2.0.0/schema.json"],
        "id": name,
        "collection": collection,
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {
            "datetime": moment, "proj:code": crs, "proj:transform": transform, "proj:shape": list(shape),
        },
        "assets": {
            "image": {
                "href": href,
                "roles": ["data"],
                "bands": [{"name": band, "data_type": "uint8"} for band in ("red", "green", "blue", "nir")[:bands]],
            }
        },
        "links": [],
    }  # fmt: skip


def with_base(item: dict[str, Any], base: str) -> dict[str, Any]:
    """The item with its picture's href under an address."""
    image = item["assets"]["image"]
    return {**item, "assets": {"image": {**image, "href": f"{base.rstrip('/')}/{image['href']}"}}}


def collection_of(chosen: Set, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The collection that the items of a set are of."""
    times = sorted(item["properties"]["datetime"] for item in items)
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": chosen.name,
        "description": chosen.title,
        "license": "other",
        "extent": {"spatial": {"bbox": [_bbox(items)]}, "temporal": {"interval": [[times[0], times[-1]]]}},
        "links": [],
    }


def _bbox(items: Sequence[dict[str, Any]]) -> list[float]:
    west, south, east, north = zip(*(item["bbox"] for item in items), strict=True)
    return [min(west), min(south), max(east), max(north)]


if __name__ == "__main__":
    main()
