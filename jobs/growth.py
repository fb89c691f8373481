"""What a tick maps anew: the tiles of a mosaic whose picture is another now, and the run that does it.

    news, items that stand ──► steps they touch ──► the plan of those steps as it was, and as it is now
                                                        └─► tiles whose items differ, and those left by earlier runs

Both plans are laid on the mosaic's own grids, whatever lattice later items have. A tile's picture depends on the items
it shows and on nothing else, so what is mapped is what changed, each tile once: no more and no less.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from catalogs.items import lean, many_values
from catalogs.select import step_start, time_steps
from catalogs.snapshot import StacItem, freeze
from jobs.areas import geometry_of
from jobs.grids import same_grids
from jobs.job import Job
from jobs.ledger import RunFolder, reading_runs
from jobs.left_levels import behind
from jobs.monitors.mapped import Key, MappedItems
from jobs.monitors.news import News
from jobs.output import check_job
from jobs.places import Keys, Places, changed_tiles, items_of_tiles, rows_of_keys
from jobs.plan import Layout, Plan, lie_inside
from jobs.prepare import Prepared, items_of, planned_before
from jobs.renewal import Renewal
from jobs.spec import JobSpec, run_id
from jobs.tile_table import Flags, TileTable
from jobs.unfinished import left_over
from mapper import models
from mapper.errors import SpecError
from mapper.imagery import Item
from mapper.mosaic import Mosaic
from mapper.storage import state_folder


def run_of_tick(job: Job, due: datetime) -> str:
    """The name of the run that a tick makes: the same whoever makes it."""
    name, _, digest = run_id(job.spec, area_wkb=shapely.to_wkb(job_area(job))).rpartition("-")
    return f"{name}-{due.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest}"


def taken_up(job: Job, due: datetime) -> Prepared | None:
    """The run of a tick that was planned before; None where there is none.

    Raises:
        MosaicError: a file of it is missing or damaged.
    """
    output = job.spec.output
    folder = RunFolder(output.mosaic, run_of_tick(job, due), engine=output.engine)
    if not folder.exists():
        return None
    with reading_runs(output.mosaic):
        return planned_before(job, folder)


def renewed(job: Job, news: News, mapped: MappedItems, *, monitor: str, due: datetime) -> Prepared | None:
    """The run in which a tick maps what is new, planned. Nothing is written.

    Its item table has all that is new or changed, also what no tile shows yet: an item beside the area is seen by the
    windows of tiles that a later one brings. So there are runs without tiles, which only take note, or only build the
    coarser levels that a stopped one left.

    Args:
        job: the monitor's.
        news: what a look at the catalog found.
        mapped: what stands in the job's mosaic.
        monitor: its name.
        due: of the tick, aware.

    Returns:
        None where nothing is new, and nothing left.

    Raises:
        SpecError: the job has no steps of time.
        MosaicError: the mosaic is not there, or another job's, or a file of its runs is damaged.
    """
    spec = job.spec
    if spec.imagery.time_step == "all":
        raise SpecError("a monitor grows the time axis, and time_step: all has none", fix="set imagery.time_step")
    area = job_area(job)
    mosaic = Mosaic.open(spec.output.mosaic, writable=False)
    check_job(spec, area, mosaic, renews=True)
    pictures = _fresh(spec, news)
    gone = {key for key in (*news.gone, *pictures.keys()) if key in mapped.standing}
    moments = [item.datetime for item in pictures.items] + [mapped.standing[key].datetime for key in gone]
    steps = {step_start(moment, spec.imagery.time_step) for moment in moments}
    places = Places.of(mosaic, mapped.runs, also=steps)
    left = left_over(mapped.runs, places, mosaic, due)
    unbuilt = any(behind(mapped.runs))
    if not (moments or len(left) or unbuilt):
        return None
    steps |= {places.moments[step] for step in np.unique(places.split(left).step).tolist()}
    pictures = _with_standing(spec, pictures, mapped, gone, steps)
    plan, kept = _plan(spec, mosaic, area, places, left, pictures)
    if not (moments or len(plan.tiles) or unbuilt):
        return None
    run = run_of_tick(job, due)
    return Prepared(
        job=job,
        run=run,
        area=area,
        plan=replace(plan, sources_from=mapped.sources_end),
        folder=RunFolder(spec.output.mosaic, run, engine=spec.output.engine),
        frozen=freeze([pictures.documents[item] for item in kept]),
        saved=False,
        renewal=Renewal(
            number=mapped.renewals + 1,
            monitor=monitor,
            due=due.astimezone(UTC),
            sources_from=mapped.sources_end,
            gone=tuple(sorted(gone)),
        ),
    )


def job_area(job: Job) -> BaseGeometry:
    """The area of a monitor's job: as its mosaic was asked for it, whatever becomes of a file that it was read from.

    Raises:
        SpecError, CatalogError, CredentialsError: as ``geometry_of``, where there is no run yet.
    """
    output = job.spec.output
    folder = state_folder(output.mosaic, engine=output.engine).child("runs")
    for name in folder.names("*/area.wkb")[:1]:
        asked = shapely.from_wkb(folder.read(name))
        if job.spec.area.geojson is not None or asked.equals(geometry_of(job.spec.area, folder=job.folder)):
            return asked
    return geometry_of(job.spec.area, folder=job.folder)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pictures:
    """The items of the steps that are laid, each version of one by itself."""

    documents: Sequence[StacItem]
    items: Sequence[Item]
    """``index`` is the position here."""

    stood: Flags
    """Whether it was there before this tick."""

    stands: Flags
    """Whether it is there now."""

    def keys(self) -> list[Key]:
        """What makes each that item."""
        return [(item.collection, item.id) for item in self.items]


def _fresh(spec: JobSpec, news: News) -> _Pictures:
    """What came or changed."""
    documents = [lean(document, spec.imagery.bands) for document in (*news.new, *news.changed)]
    count = len(documents)
    return _Pictures(
        documents=documents,
        items=items_of(spec, documents),
        stood=np.zeros(count, np.bool_),
        stands=np.ones(count, np.bool_),
    )


def _with_standing(
    spec: JobSpec, fresh: _Pictures, mapped: MappedItems, gone: Collection[Key], steps: Collection[datetime]
) -> _Pictures:
    """The same, behind the items that stood in some steps of time."""
    in_steps = [
        key for key, item in mapped.standing.items() if step_start(item.datetime, spec.imagery.time_step) in steps
    ]
    stood = mapped.documents(in_steps)
    documents = [*stood.values(), *fresh.documents]
    with many_values():
        items = items_of(spec, documents)
    return _Pictures(
        documents=documents,
        items=items,
        stood=np.concatenate([np.ones(len(stood), np.bool_), fresh.stood]),
        stands=np.concatenate([np.array([key not in gone for key in stood], np.bool_), fresh.stands]),
    )


def _plan(
    spec: JobSpec, mosaic: Mosaic, area: BaseGeometry, places: Places, left: Keys, pictures: _Pictures
) -> tuple[Plan, list[int]]:
    """The plan, and which of the pictures are its items, by position."""
    laid = same_grids(spec, mosaic.grids, area)
    with many_values():
        layout = Layout(spec, pictures.items, laid, window_px=models.window_px(spec.model.name))
        inside = lie_inside(area, pictures.items)
        old, new = (
            layout.tiles(_steps(spec, pictures.items, there & inside, there, places))
            for there in (pictures.stood, pictures.stands)
        )
    changed, lost = changed_tiles(old, new, places)
    wanted = np.unique(np.concatenate([changed, lost, left]))
    # Where the axis has no such step, nothing was ever written, and what shows nothing now need not be either.
    shown = rows_of_keys(wanted, places.keys(new)) >= 0
    wanted = wanted[shown | (places.split(wanted).step < places.on_axis)]
    added = np.unique(places.split(wanted).step)
    axis = np.concatenate([np.arange(places.on_axis), added[added >= places.on_axis]])
    tiles = _tiles(wanted, new, layout, places, axis)
    kept = np.union1d(tiles.item, np.flatnonzero(pictures.stands & ~pictures.stood))
    items = [replace(pictures.items[position], index=n) for n, position in enumerate(kept.tolist())]
    plan = Plan(
        items=tuple(items),
        grids=tuple(grid for grid, _ in laid),
        areas={grid.name: shape for grid, shape in laid},
        steps=tuple(places.moments[step] for step in axis.tolist()),
        tiles=replace(tiles, item=kept.searchsorted(tiles.item).astype(np.int32)),
    )
    return plan, kept.tolist()


def _steps(
    spec: JobSpec, items: Sequence[Item], inside: Flags, there: Flags, places: Places
) -> list[tuple[int, Sequence[Item]]]:
    """The steps of time of the items that are there, by their number: those of which one lies inside the area."""
    begun = {step.start for step in time_steps(_chosen(items, inside), spec.imagery.time_step)}
    steps = time_steps(_chosen(items, there), spec.imagery.time_step)
    return [(places.position[step.start], step.items) for step in steps if step.start in begun]


def _chosen(items: Sequence[Item], which: Flags) -> list[Item]:
    return [items[n] for n in np.flatnonzero(which).tolist()]


def _tiles(wanted: Keys, new: TileTable, layout: Layout, places: Places, axis: Keys) -> TileTable:
    """The tiles of these numbers with what shows them now, in the order of every plan; steps as on the axis."""
    step, grid, row, column = places.split(wanted)
    along, clipped = np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    for number in np.unique(grid).tolist():
        here = np.flatnonzero(grid == number)
        asked, width = layout.area_tiles(number), places.grids[number].tile_shape[1]
        codes = asked.row.astype(np.int64) * width + asked.column
        along[here] = rows_of_keys(row[here] * width + column[here], codes)
        clipped[here] = asked.clipped[along[here]]
    at = axis.searchsorted(step)
    order = np.lexsort((along, grid, at))
    rows = rows_of_keys(wanted[order], places.keys(new))
    counts = np.where(rows >= 0, np.append(np.diff(new.first_item), 0)[rows], 0)
    return TileTable(
        grid=grid[order].astype(np.int16),
        step=at[order].astype(np.int32),
        row=row[order].astype(np.int32),
        column=column[order].astype(np.int32),
        clipped=clipped[order],
        first_item=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        item=items_of_tiles(new, rows[rows >= 0])[0],
    )
