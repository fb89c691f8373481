"""The collection of a mosaic, and its items: one a time step and zone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pystac
import shapely
from pyproj import CRS
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from shapely.geometry import mapping

from jobs.exports import SUFFIXES
from jobs.mapped import Known, Part, pixels_of
from jobs.stac.fields import (
    CLASSIFICATION,
    DATACUBE,
    PARQUET_TYPE,
    PMTILES_TYPE,
    PROCESSING,
    RASTER,
    RENDER,
    VERSION,
    WEB_MAP_LINKS,
    ZARR,
    cog_asset,
    cube,
    key_of,
    placement,
    processing_fields,
    render,
    resmap_fields,
    resolution_m,
    zarr_asset,
)
from jobs.stac.places import bbox_of, footprint
from mapper.exports.chosen import file_stem
from mapper.exports.cog import framed
from mapper.models.fetch import sha256_of, shown
from mapper.models.mlm import SHA256_MULTIHASH
from mapper.storage import is_local


def collection_of(known: Known, items: list[pystac.Item], out: Path, *, licence: str) -> pystac.Collection:
    """The mosaic as a collection that holds these items.

    Args:
        known: what the runs tell.
        items: of all its parts.
        out: folder of the catalog.
        licence: of the map.
    """
    mosaic = known.mosaic
    sentences = [prompt.expression for prompt in mosaic.prompts]
    everywhere = shapely.union_all([shapely.geometry.shape(item.geometry) for item in items])
    whole = [min(part.first for part in known.parts), max(part.last for part in known.parts)]
    fields = resmap_fields(mosaic, known.facts, known.job)
    sizes = sorted({resolution_m(grid) for grid in mosaic.grids})
    collection = pystac.Collection(
        id=known.id,
        title=known.title,
        description=f"Where {', '.join(f'“{sentence}”' for sentence in sentences)} "
        f"{'is' if len(sentences) == 1 else 'are'}, as {fields['resmap:model']['name'] or 'a model'} saw it. "
        "Absent, unobserved and unmapped ground are told apart.",
        license=licence,
        keywords=sentences,
        extent=pystac.Extent(
            pystac.SpatialExtent([list(bbox_of(everywhere))]), pystac.TemporalExtent([[whole[0], whole[1]]])
        ),
        summaries=pystac.Summaries(
            {
                "gsd": {"minimum": sizes[0], "maximum": sizes[-1]},
                "resmap:prompts": fields["resmap:prompts"],
                "resmap:model": [fields["resmap:model"]],
            }
        ),
        assets={"zarr": zarr_asset(zarr_href(known, out, up=1), engine=mosaic.engine, title="The mosaic")},
    )
    collection.item_assets = _item_assets(items)
    codes = sorted({code_of(grid.lattice.crs)[0] for grid in mosaic.grids} - {""})
    if codes:
        ProjectionExtension.summaries(collection, add_if_missing=True).code = codes
    if any("classification:classes" in asset.properties for asset in collection.item_assets.values()):
        _declare(collection, CLASSIFICATION)
    if mosaic.engine == "zarr":
        _declare(collection, ZARR)
    _set_version(collection, known)
    return collection


def item_of(known: Known, part: Part, out: Path) -> pystac.Item:
    """One time step and zone, without its exports.

    Args:
        known: what the runs tell.
        part: which.
        out: folder of the catalog.
    """
    mosaic, grid = known.mosaic, part.grid
    geometry = footprint(grid, known.areas.get(grid.name), part.shards)
    code, wkt = code_of(grid.lattice.crs)
    moment = part.first == part.last
    day = (
        f"{part.first:%Y-%m-%d}"
        if part.first.date() == part.last.date()
        else f"{part.first:%Y-%m-%d} to {part.last:%Y-%m-%d}"
    )
    said = ", ".join(f"“{prompt.expression}”" for prompt in mosaic.prompts)
    item = pystac.Item(
        id=f"{known.id}_{file_stem(time=mosaic.times[part.time], zone=grid.name)}",
        geometry=mapping(geometry),
        bbox=list(bbox_of(geometry)),
        datetime=part.first if moment else None,
        start_datetime=None if moment else part.first,
        end_datetime=None if moment else part.last,
        properties={
            "title": f"{said}, {day}" + (f", {grid.name}" if grid.name else ""),
            "gsd": resolution_m(grid),
            **_made(known),
            **processing_fields(mosaic, known.facts),
            **resmap_fields(mosaic, known.facts, known.job),
            **cube(mosaic, grid, int(code.partition(":")[2]) if code.startswith("EPSG:") else wkt),
        },
        stac_extensions=[PROCESSING, DATACUBE],
    )
    projection = ProjectionExtension.ext(item, add_if_missing=True)
    projection.apply(code=code or None, wkt2=None if code else wkt)
    item.properties.update(placement(grid, grid.box))
    group = f"{grid.name}/0".lstrip("/") if mosaic.engine == "zarr" else ""
    item.add_asset(
        "zarr",
        zarr_asset(
            "/".join(filter(None, (zarr_href(known, out, up=2), group))),
            engine=mosaic.engine,
            title=f"Zarr group{f' of {grid.name}' if grid.name else ''}: mask, score, source",
            group=f"{grid.name}/0".lstrip("/"),
        ),
    )
    if mosaic.engine == "zarr":
        _declare(item, ZARR)
    _set_version(item, known)
    _add_exports(item, known, part, out)
    return item


def describe_file(asset: pystac.Asset, path: Path) -> None:
    """``file:`` fields of an asset, from the file itself."""
    FileExtension.ext(asset, add_if_missing=asset.owner is not None).apply(
        checksum=SHA256_MULTIHASH + sha256_of(path), size=path.stat().st_size
    )


def zarr_href(known: Known, out: Path, *, up: int) -> str:
    """Where the mosaic is, for a document so many folders below ``out``: relative where it lies in there."""
    url = known.mosaic.url.rstrip("/")
    if not is_local(url):
        return shown(url)
    path = Path(url.removeprefix("file://")).resolve()
    if path.is_relative_to(out.resolve()):
        return "../" * up + path.relative_to(out.resolve()).as_posix()
    return path.as_posix()


def code_of(crs: str) -> tuple[str, str]:
    """``EPSG:32632`` and the like, empty where there is none, and WKT2."""
    found = CRS.from_user_input(crs)
    authority = found.to_authority(min_confidence=100)
    return ":".join(authority) if authority else "", found.to_wkt("WKT2_2019")


def add_map_link(where: pystac.Item | pystac.Collection, link: pystac.Link) -> None:
    """A link that STAC browsers show as a map."""
    where.add_link(link)
    _declare(where, WEB_MAP_LINKS)


def _declare(where: pystac.Item | pystac.Collection, schema: str) -> None:
    if schema not in where.stac_extensions:
        where.stac_extensions.append(schema)


def _add_exports(item: pystac.Item, known: Known, part: Part, out: Path) -> None:
    """The exports in the catalog's folder, under the names that ``resmap export`` gives them."""
    mosaic, grid = known.mosaic, part.grid
    time = mosaic.times[part.time]
    renders: dict[str, Any] = {}
    area = known.areas.get(grid.name)
    frame, _ = framed(grid, None if area is None else pixels_of(grid, area))
    for number, asked in enumerate(mosaic.prompts):
        tiff, plain = file_stem(prompt=asked.name, time=time, zone=grid.name), file_stem(prompt=asked.name, time=time)
        for layer, ending in (("mask", ""), ("score", "-score")):
            href = f"{tiff}{ending}{SUFFIXES['cog'][0]}"
            asset = cog_asset(f"../../{href}", layer=layer, prompt=number, asked=asked, grid=grid, frame=frame)
            if _added(item, key_of(layer, asked), asset, out / href):
                _declare(item, RASTER)
                if layer == "mask":
                    _declare(item, CLASSIFICATION)
                    renders[key_of("mask", asked)] = render(key_of("mask", asked), number, asked)
        for suffix in SUFFIXES["vectors"]:
            asset = pystac.Asset(
                f"../../{plain}{suffix}", title=f"“{asked.expression}”: objects", media_type=_VECTORS[suffix],
                roles=["data"],
            )  # fmt: skip
            if _added(item, key_of("vectors", asked), asset, out / f"{plain}{suffix}"):
                break
        tiles = f"{plain}{SUFFIXES['pmtiles'][0]}"
        asset = pystac.Asset(
            f"../../{tiles}", title=f"“{asked.expression}”: web map", media_type=PMTILES_TYPE, roles=["visual"]
        )
        if _added(item, key_of("pmtiles", asked), asset, out / tiles):
            link = pystac.Link(rel="pmtiles", target=f"../../{tiles}", media_type=PMTILES_TYPE, title=asset.title)
            if key_of("mask", asked) in renders:
                link.extra_fields["render"] = key_of("mask", asked)
            add_map_link(item, link)
    picture = f"{file_stem(time=time)}{SUFFIXES['png'][0]}"
    asset = pystac.Asset(f"../../{picture}", title="Picture", media_type=pystac.MediaType.PNG, roles=["thumbnail"])
    _added(item, "thumbnail", asset, out / picture)
    if renders:
        item.properties["renders"] = renders
        _declare(item, RENDER)


_VECTORS = {
    ".parquet": PARQUET_TYPE,
    ".fgb": pystac.MediaType.FLATGEOBUF,
    ".gpkg": pystac.MediaType.GEOPACKAGE,
    ".geojson": pystac.MediaType.GEOJSON,
}


def _added(item: pystac.Item, key: str, asset: pystac.Asset, path: Path) -> bool:
    """Whether the file is there; its asset is then added."""
    if path.is_file():
        item.add_asset(key, asset)
        describe_file(asset, path)
    return path.is_file()


def _item_assets(items: list[pystac.Item]) -> dict[str, Any]:
    """What assets the items have: what they are and what their values mean, not what one file is."""
    own = re.compile(r"^(href|title|(file|proj|raster|processing):.*)$")
    found: dict[str, Any] = {}
    for item in items:
        for key, asset in item.assets.items():
            fields = {name: value for name, value in asset.to_dict().items() if not own.match(name)}
            found.setdefault(key, fields | ({"title": asset.title} if asset.title and key != "zarr" else {}))
    return found


def _made(known: Known) -> dict[str, Any]:
    """When the map was begun, and when it was last grown."""
    found = {"created": known.begun, "updated": known.facts.get("ended") or known.facts.get("created")}
    return {key: str(value).replace("+00:00", "Z") for key, value in found.items() if value}


def _set_version(where: pystac.Item | pystac.Collection, known: Known) -> None:
    """The mosaic's version is when it was last grown: it changes with what a reader may find in it."""
    updated = _made(known).get("updated")
    if updated:
        fields = where.properties if isinstance(where, pystac.Item) else where.extra_fields
        fields["version"] = updated
        _declare(where, VERSION)
