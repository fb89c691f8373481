"""The objects of a mosaic in a file that others open: GeoParquet, GeoPackage, FlatGeobuf, GeoJSON.

Rows go to the file as objects are found; the file stands beside its place as a draft until it is whole. An object's
``id`` is made of the prompt, the time and where on the lattice the object begins, so the same object has the same id
in every export.

A gap is no object, and where there is no object may be a gap: GeoParquet's metadata say under ``resmap`` how many
pixels were observed, were not, and were never looked at.
"""

from __future__ import annotations

import json
import posixpath
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from mapper.errors import MapperError, MosaicError, QuestionError
from mapper.exports.antimeridian import parted
from mapper.exports.chosen import file_stem
from mapper.exports.simplified import simplified
from mapper.grid import Grid, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.mosaic import Mosaic
from mapper.outlines import ObjectBatch, ShardsSeen, map_objects
from mapper.questions.asking import LATEST, When, prompts_of, time_of
from mapper.questions.placed import to_lonlat
from mapper.questions.places import did_you_mean
from mapper.runs import SourceItems, source_items
from mapper.storage import is_local, store_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

DRIVERS = {".parquet": "", ".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON"}
"""File ending → GDAL's driver; GeoParquet is written without one."""

KINDS = {"polygons": "MultiPolygon", "boxes": "MultiPolygon", "points": "Point"}
"""What an object may be drawn as → its geometry type where a file has one for all."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("expression", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("area_m2", pa.float64(), nullable=False),
        pa.field("source", pa.int64()),
        pa.field("item", pa.string()),
        pa.field("geometry", pa.binary(), nullable=False),
    ]
)
"""``score`` is 0 to 1; ``area_m2`` of the object's pixels on the ellipsoid, however it is drawn; ``source`` the
number of the scene most of its pixels show, and ``item`` that one's STAC id, where a run's item table is there."""

CONNECTIVITY = 8
"""What touches by a corner is one object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorFile:
    """What was written."""

    path: str
    objects: int
    crs: str
    pixels: dict[str, int]
    """``observed``, ``unobserved``, ``unmapped``: over all prompts; unmapped is what lies beyond the area, too."""


def write_vectors(
    mosaic_url: str,
    out: str | Path,
    *,
    prompt: str | Sequence[str] | None = None,
    time: When | None = None,
    kind: str = "polygons",
    simplify_px: float | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> VectorFile:
    """Write the objects of a time step to one file, in place of one that is there.

    The CRS is the mosaic's own, so that nothing is bent; with several zones it is longitude and latitude, in which
    alone they fit together, and so it is in GeoJSON, which knows no other. Zones are maps of their own: what crosses
    from one into the next is an object in each.

    Args:
        mosaic_url: path or URL of the mosaic.
        out: path or URL of the file; its ending says the format.
        prompt: one by name, or several; None for all of them.
        time: when the step begins; None for the latest.
        kind: ``polygons``, ``boxes`` along the pixels, or ``points`` inside the objects.
        simplify_px: how far an outline may move inwards to have fewer points, see
            ``mapper/exports/simplified.py``; None or 0 for outlines along the pixels.
        workers: as for ``map_objects``.
        progress: told how many shards were looked through, and of how many.

    Raises:
        QuestionError: there is no such prompt, time, format or kind.
        MosaicError: there is no mosaic, or nothing can be written at ``out``.
        StoreError: a shard is damaged.
    """
    driver = _driver(str(out))
    _check(kind, simplify_px)
    mosaic = Mosaic.open(mosaic_url, writable=False)
    ask = _Ask(
        mosaic=mosaic,
        prompts=prompts_of(mosaic, prompt),
        time=time_of(mosaic, LATEST if time is None else time),
        kind=kind,
        simplify_px=simplify_px,
        crs=_crs(mosaic, driver),
        multi=kind != "points" and driver in ("GPKG", "FlatGeobuf"),
        items=_item_ids(mosaic_url),
        workers=workers,
    )
    tally = _Tally(ask, progress)
    with _put(str(out)) as draft:
        if driver:
            _write_with_gdal(draft, driver, tally)
        else:
            from mapper.exports.geoparquet import write_geoparquet

            write_geoparquet(draft, SCHEMA, tally.rows(), ask.crs, lambda: tally.facts() | tally.counts())
    return VectorFile(path=str(out), objects=tally.objects, crs=ask.crs.to_string(), pixels=tally.pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """What is to be written."""

    mosaic: Mosaic
    prompts: list[int]
    time: int
    kind: str
    simplify_px: float | None
    crs: CRS
    multi: bool
    """Whether all polygons become multipolygons: the format has one type a layer."""

    items: SourceItems | None
    """Their STAC ids; None where no run lies beside the mosaic."""

    workers: int | None


class _Tally:
    """The rows of a file, counted as they are made."""

    def __init__(self, ask: _Ask, progress: Callable[[int, int], None]) -> None:
        self.ask, self._progress = ask, progress
        self.objects = 0
        self.pixels = {"observed": 0, "unobserved": 0, "unmapped": 0}
        self.error: Exception | None = None
        """Why the rows ended early: GDAL's writer tells no more than that they did."""

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Row batches, as objects are found."""
        ask = self.ask
        looks = [(grid, prompt) for grid in ask.mosaic.grids for prompt in ask.prompts]
        total = sum(grid.tile_shape[0] * grid.tile_shape[1] for grid, _ in looks)
        before = 0
        try:
            for grid, prompt in looks:
                found = map_objects(
                    ask.mosaic,
                    grid,
                    prompt=prompt,
                    time=ask.time,
                    outlines=ask.kind != "boxes",
                    workers=ask.workers,
                    progress=partial(self._saw, before, total),
                )
                for batch in found:
                    self.objects += len(batch)
                    yield _rows(ask, grid, prompt, batch)
                before += grid.tile_shape[0] * grid.tile_shape[1]
        except Exception as error:
            self.error = error
            raise

    def _saw(self, before: int, total: int, seen: ShardsSeen) -> None:
        for name, pixels in zip(self.pixels, seen.pixels, strict=True):
            self.pixels[name] += pixels
        self._progress(before + seen.shards, total)

    def facts(self) -> dict[str, Any]:
        """What a file tells of itself, without the place of a file on this machine."""
        ask, url = self.ask, self.ask.mosaic.url.rstrip("/")
        address = urlsplit(url)
        plain = address._replace(netloc=address.netloc.rpartition("@")[2], query="", fragment="").geturl()
        prompts = [ask.mosaic.prompts[number] for number in ask.prompts]
        return {
            "mosaic": posixpath.basename(url) if is_local(url) else plain,
            "prompts": [
                {"name": one.name, "expression": one.expression, "threshold": one.threshold} for one in prompts
            ],
            "time": ask.mosaic.times[ask.time].isoformat(),
            "connectivity": CONNECTIVITY,
            "kind": ask.kind,
            "simplify_px": ask.simplify_px,
        }

    def counts(self) -> dict[str, Any]:
        """What is known when all rows are made."""
        return {"objects": self.objects, "pixels": self.pixels}


def _rows(ask: _Ask, grid: Grid, prompt: int, batch: ObjectBatch) -> pa.RecordBatch:
    said, moment, many = ask.mosaic.prompts[prompt], ask.mosaic.times[ask.time], len(batch)
    stem = file_stem(prompt=said.name, time=moment, zone=grid.name)
    shown = batch.source != NO_SOURCE
    item = np.full(many, None, np.object_) if ask.items is None else ask.items.of("id", batch.source)
    columns = [
        pa.array([f"{stem}_r{row}c{column}" for row, column in batch.anchor.tolist()], pa.string()),
        pa.repeat(pa.scalar(said.name), many),
        pa.repeat(pa.scalar(said.expression), many),
        pa.repeat(pa.scalar(moment, pa.timestamp("ms", tz="UTC")), many),
        pa.array(batch.score),
        pa.array(batch.area_m2),
        pa.array(batch.source.astype(np.int64), mask=~shown),
        pa.array(item, pa.string()),
        pa.array(shapely.to_wkb(_geometry(ask, grid, batch)), pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _geometry(ask: _Ask, grid: Grid, batch: ObjectBatch) -> NDArray[np.object_]:
    shapes = batch.geometry
    if ask.kind == "boxes":
        shapes = shapely.box(*np.array([grid.lattice.bounds(PixelBox(*box)) for box in batch.bounds.tolist()]).T)
    elif ask.kind == "points":
        shapes = shapely.point_on_surface(shapes)
    elif ask.simplify_px:
        shapes = simplified(shapes, grid.lattice, ask.simplify_px)
    if ask.crs != CRS.from_user_input(grid.lattice.crs):
        shapes = parted(to_lonlat(shapes, grid.lattice.crs))
    if ask.multi:
        parts, owner = shapely.get_parts(shapes, return_index=True)
        shapes = shapely.multipolygons(parts, indices=owner)
    return np.asarray(shapes, np.object_)


def _write_with_gdal(draft: Path, driver: str, tally: _Tally) -> None:
    from pyogrio import write_arrow
    from pyogrio.errors import DataLayerError, DataSourceError

    ask = tally.ask
    options: dict[str, str] = {}
    if driver == "GeoJSON":
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": "9", "ID_FIELD": "id"}
    if driver == "GPKG":
        options = {"DESCRIPTION": json.dumps(tally.facts())}
    kind = "Unknown" if driver == "GeoJSON" and ask.kind != "points" else KINDS[ask.kind]
    try:
        write_arrow(
            pa.RecordBatchReader.from_batches(SCHEMA, tally.rows()),
            draft,
            layer="objects",
            driver=driver,
            geometry_name="geometry",
            geometry_type=kind,
            crs="EPSG:4326" if ask.crs.is_geographic else ask.crs.to_string(),
            layer_options=options,
        )
    except (DataLayerError, DataSourceError, pa.ArrowException, RuntimeError) as error:
        if tally.error is not None:
            raise tally.error from None
        raise MosaicError(f"the file could not be written: {error}", fix="choose another place", out=draft) from error


def _driver(out: str) -> str:
    ending = posixpath.splitext(out)[1].lower()
    if ending not in DRIVERS:
        raise QuestionError(
            f"a file that ends in {ending or 'nothing'} is not written here",
            fix=f"let it end in {', '.join(list(DRIVERS)[:-1])} or {list(DRIVERS)[-1]}",
            out=out,
        )
    return DRIVERS[ending]


def _check(kind: str, simplify_px: float | None) -> None:
    if kind not in KINDS:
        raise QuestionError(f"objects are not drawn as {kind!r}", fix=did_you_mean(kind, list(KINDS)))
    if simplify_px is not None and not 0 <= simplify_px <= 100:
        raise QuestionError(f"outlines are not simplified by {simplify_px:g} pixels", fix="give 1 or 2, at most 100")


def _crs(mosaic: Mosaic, driver: str) -> CRS:
    codes = {grid.lattice.crs for grid in mosaic.grids}
    if driver == "GeoJSON" or len(codes) > 1:
        return CRS.from_user_input("OGC:CRS84")
    return CRS.from_user_input(codes.pop())


def _item_ids(mosaic_url: str) -> SourceItems | None:
    try:
        return source_items(mosaic_url)
    except MosaicError:
        return None


@contextmanager
def _put(out: str) -> Iterator[Path]:
    """A draft to write, which takes its place when all went well and is gone otherwise."""
    import fsspec

    if is_local(out):
        target = Path(out.removeprefix("file://"))
        draft = target.with_name(f".{uuid.uuid4().hex}.{target.name}")
        try:
            draft.touch()
            draft.unlink()
        except OSError as error:
            raise MosaicError(
                f"nothing can be written there: {error.strerror}",
                fix="choose another place, or make the folder",
                out=out,
            ) from error
        try:
            yield draft
            draft.replace(target)
        finally:
            for left in draft.parent.glob(f"{draft.name}*"):
                left.unlink()
        return
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / posixpath.basename(out)
        yield draft
        try:
            fs, path = fsspec.core.url_to_fs(out)
            fs.put_file(str(draft), path)
        except MapperError:
            raise
        except Exception as error:  # every store's library has errors of its own
            raise store_failure(error, out, "written") from error
