"""A job → its frozen plan: found beside the mosaic, or searched for, laid and put there."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from typing import TypeAlias

import shapely
import yaml
from pyproj import CRS
from shapely.geometry.base import BaseGeometry

from catalogs.hrefs import check_href, unsigned
from catalogs.items import FIELDS, items_from_stac
from catalogs.search import Query, StacItem, search
from catalogs.sensors import display_range
from catalogs.snapshot import freeze, thawed
from jobs.areas import METRES_PER_DEGREE, geometry_of, grown
from jobs.grids import lay_grids, native_lattice, same_grids
from jobs.job import Job
from jobs.ledger import RunFolder, reading_runs, run_names
from jobs.plan import Plan, lay_plan
from jobs.renewal import Renewal, kept_by, last_renewal
from jobs.spec import JobSpec, answer_key, canonical, run_id
from mapper import models
from mapper.errors import AssetError, ReadError, SpecError
from mapper.imagery import Item
from mapper.map_tile import ModelChoice, Setup
from mapper.mosaic import Mosaic
from mapper.raster import header_of

LIBRARIES = ("torch", "numpy", "rasterio", "zarr", "ray", "xarray", "pyproj", "shapely")


Find: TypeAlias = Callable[[JobSpec, BaseGeometry, int], Sequence[StacItem]]
"""Gives the items of a job that windows of some size may look at around an area."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prepared:
    """A job with its plan."""

    job: Job
    run: str
    area: BaseGeometry
    plan: Plan
    folder: RunFolder
    frozen: bytes
    """The item table, as it is kept beside the mosaic."""

    saved: bool
    """Whether the plan lies beside the mosaic already."""

    renewal: Renewal | None = None
    """What makes it a monitor's; None for an ordinary run."""

    def __repr__(self) -> str:
        plan = self.plan
        return (
            f"<plan of {self.run}: {len(plan.tiles)} tiles, {len(plan.items)} items, {len(plan.steps)} time steps, "
            f"{', '.join(grid.lattice.crs for grid in plan.grids)} → {self.job.spec.output.mosaic}>"
        )


def prepare(job: Job, *, tell: Callable[[str], None] = lambda _: None, find: Find | None = None) -> Prepared:
    """Find the run of this job, or plan it. Nothing is written.

    A job that adds a sentence to a mosaic takes over the items frozen there: all sentences of a mosaic are asked
    of the same pictures.

    Args:
        job: what was asked.
        tell: is told how it gets on.
        find: gives the items, in place of a search to which one that is broken is an error.
    """
    spec = job.spec
    area = geometry_of(spec.area, folder=job.folder)
    wkb = shapely.to_wkb(area)
    name = run_id(spec, area_wkb=wkb)
    folder = RunFolder(spec.output.mosaic, name, engine=spec.output.engine)
    window_px = models.window_px(spec.model.name)
    if folder.exists():
        tell(f"run {name} was planned before; going on with it")
        with reading_runs(folder.mosaic):
            return planned_before(job, folder)
    if (last := last_renewal(folder.mosaic, engine=spec.output.engine)) is not None:
        raise kept_by(folder.mosaic, last)
    with reading_runs(folder.mosaic):
        earlier = _first_run_like(spec, wkb)
        frozen = earlier.items() if earlier is not None else b""
    if earlier is not None:
        tell(f"taking over the imagery of run {earlier.run}")
        items = items_of(spec, thawed(frozen, fields=FIELDS))
    else:
        documents = _find(spec, area, window_px, tell) if find is None else find(spec, area, window_px)
        items = items_of(spec, documents)
        frozen = freeze(documents)
        del documents
    if earlier is None:
        _look_at_one(spec, items, tell)
    plan = lay_plan(spec, items, area, window_px=window_px)
    return Prepared(job=job, run=name, area=area, plan=plan, folder=folder, frozen=frozen, saved=False)


def planned_before(job: Job, folder: RunFolder) -> Prepared:
    """A run whose plan lies beside the mosaic, as it was laid.

    Raises:
        MosaicError: it renews a mosaic that is not there any more.
        FileNotFoundError, ValueError, KeyError: a file of it is missing or damaged, see ``reading_runs``.
    """
    spec = job.spec
    area = shapely.from_wkb(folder.area())
    frozen = folder.items()
    items = items_of(spec, thawed(frozen, fields=FIELDS))
    facts = folder.facts()
    renewal = Renewal.of(facts)
    if renewal is None:
        grids = lay_grids(spec, items, area)
    else:
        grids = same_grids(spec, Mosaic.open(folder.mosaic, writable=False).grids, area)
    plan = Plan(
        items=tuple(items),
        grids=tuple(grid for grid, _ in grids),
        areas={grid.name: shape for grid, shape in grids},
        steps=tuple(datetime.fromisoformat(step) for step in facts["steps"]),
        tiles=folder.tiles(),
        sources_from=0 if renewal is None else renewal.sources_from,
    )
    return Prepared(
        job=job, run=folder.run, area=area, plan=plan, folder=folder, frozen=frozen, saved=True, renewal=renewal
    )


def _find(spec: JobSpec, area: BaseGeometry, window_px: int, tell: Callable[[str], None]) -> Sequence[StacItem]:
    """All items a window of the area may look at, so that the answer does not depend on where the area ends."""
    query = Query(
        catalog=spec.imagery.catalog,
        collections=spec.imagery.collections,
        area=area,
        datetime=spec.imagery.datetime,
        filter=spec.imagery.filter,
        bands=spec.imagery.bands,
    )
    tell(f"searching {unsigned(spec.imagery.catalog)}")

    if spec.grid.resolution_m is not None:
        return search(replace(query, area=seen_from(area, window_px, spec.grid.resolution_m)))
    return search(query, around=lambda document: seen_from(area, window_px, metres(items_of(spec, [document]))))


def seen_from(area: BaseGeometry, window_px: int, resolution_m: float) -> BaseGeometry:
    """Where items lie that a window of the area may look at; longitude and latitude."""
    # A window that touches the area with one corner looks furthest with the opposite one.
    return grown(area, math.sqrt(2) * window_px * resolution_m)


def metres(items: Sequence[Item]) -> float:
    """Side of a native pixel in metres, rounded up where the CRS counts degrees."""
    lattice = native_lattice(items)
    side = max(lattice.res_x, lattice.res_y)
    return side * METRES_PER_DEGREE if CRS.from_user_input(lattice.crs).is_geographic else side


def items_of(spec: JobSpec, documents: Iterable[StacItem]) -> list[Item]:
    """The items in the mapper's words, their hrefs judged, and placed by their files where the catalog is silent."""
    judge = partial(check_href, catalog=spec.imagery.catalog)
    items = items_from_stac(documents, bands=spec.imagery.bands, judge=judge)
    if spec.grid.crs == "native":
        items = [_placed_by_file(item) for item in items]
    return items


def _look_at_one(spec: JobSpec, items: Sequence[Item], tell: Callable[[str], None]) -> None:
    """Open one item's files, so that what would fail for every tile is said before anything is made.

    A file that cannot be read is only told of: it may be the one bad file of many.

    Raises:
        SpecError: a band that the files do not have, or values that need ``imagery.scale``.
        CredentialsError: the store refuses us.
    """
    if not items:
        return
    for band in items[0].bands:
        try:
            dtypes = header_of(band.asset).dtypes
        except (AssetError, ReadError) as error:
            tell(f"warning: {error}")
            return
        if band.index > len(dtypes):
            raise SpecError(
                f"band {band.index} was asked of a file that has {len(dtypes)}",
                fix="correct imagery.bands",
                item=items[0].id,
                asset=band.asset.key,
            )
        if dtypes[band.index - 1] != "uint8" and spec.imagery.scale is None:
            known = display_range(items[0])
            low, high = known if known is not None else (0, 3000)
            raise SpecError(
                f"the imagery holds {dtypes[band.index - 1]}, and a model wants 0 to 255",
                fix=f"say which values become 0 and 255, as in imagery.scale: {{from: [{low:g}, {high:g}]}}",
                item=items[0].id,
                asset=band.asset.key,
            )


def _placed_by_file(item: Item) -> Item:
    if all(band.asset.placement is not None for band in item.bands):
        return item
    bands = tuple(
        band
        if band.asset.placement is not None
        else replace(band, asset=replace(band.asset, placement=header_of(band.asset).placement))
        for band in item.bands
    )
    return replace(item, bands=bands)


def _first_run_like(spec: JobSpec, area_wkb: bytes) -> RunFolder | None:
    """The oldest run of this mosaic whose values depend on the same things, sentences apart."""
    key = answer_key(spec, area_wkb=area_wkb)
    engine = spec.output.engine
    for name in run_names(spec.output.mosaic, engine=engine):
        folder = RunFolder(spec.output.mosaic, name, engine=engine)
        if folder.facts().get("answer_key") == key:
            return folder
    return None


def save(prepared: Prepared) -> None:
    """Put the plan beside the mosaic, before anything else is made there."""
    spec = prepared.job.spec
    area = shapely.to_wkb(prepared.area)
    prepared.folder.save_plan(
        job=yaml.safe_dump(canonical(spec), sort_keys=False),
        area=area,
        items=prepared.frozen,
        tiles=prepared.plan.tiles,
        facts={
            "run": prepared.run,
            "name": spec.name,
            "state": "planned",
            "answer_key": answer_key(spec, area_wkb=area),
            "grids": [grid.name for grid in prepared.plan.grids],
            "steps": [step.isoformat() for step in prepared.plan.steps],
            **(prepared.renewal.facts() if prepared.renewal is not None else {}),
            "versions": {"resmap": version("resmap"), "python": platform.python_version()}
            | {library: version(library) for library in LIBRARIES},
        },
    )


def model_choice(spec: JobSpec) -> ModelChoice:
    """A job's model in the mapper's words."""
    chosen = spec.model
    return ModelChoice(
        name=chosen.name,
        weights=chosen.weights,
        sha256=chosen.sha256,
        precision=chosen.precision,
        compiled=chosen.compiled,
    )


def setup_for(prepared: Prepared, mosaic: Mosaic) -> Setup:
    """What the workers of a prepared job must know."""
    spec = prepared.job.spec
    return Setup(
        mosaic=spec.output.mosaic,
        model=model_choice(spec),
        prompts=mosaic.prompts,
        bands=len(spec.imagery.bands),
        stretch=spec.imagery.scale.from_ if spec.imagery.scale else None,
        composite="median" if spec.imagery.composite == "median" else "first",
        overlap_px=spec.windows.overlap_px,
        blend=spec.windows.blend,
        batch=None if spec.compute.batch == "auto" else spec.compute.batch,
        areas=dict(prepared.plan.areas),
    )
