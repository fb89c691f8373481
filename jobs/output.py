"""The mosaic of a prepared job: made or opened, given room, refused where it is another job's or another run's turn."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import shapely
from shapely.geometry.base import BaseGeometry

from jobs.prepare import Prepared
from jobs.renewal import kept_by, last_renewal
from jobs.spec import JobSpec, answer_key
from mapper.errors import MosaicError
from mapper.grid import Grid
from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic
from mapper.storage import REPOSITORY, EngineName, Folder, state_folder


def open_output(prepared: Prepared) -> Mosaic:
    """The mosaic of a prepared job: made, or opened and given room for new sentences, or for new steps of time.

    Raises:
        MosaicError: what is there is another job's, or has grown since this was planned.
    """
    spec, plan, url = prepared.job.spec, prepared.plan, prepared.job.spec.output.mosaic
    made_by = {
        "answer_key": answer_key(spec, area_wkb=shapely.to_wkb(prepared.area)),
        "model": spec.model.name,
    }
    if prepared.renewal is None and not Mosaic.exists(url):
        return Mosaic.create(
            url,
            MosaicSpec(
                grids=plan.grids,
                prompts=spec.prompt_values(),
                times=plan.steps,
                made_by=made_by,
                pyramid=spec.output.pyramid,
            ),
            engine=spec.output.engine,
        )
    mosaic = Mosaic.open(url)
    check_output(prepared, mosaic)
    known = {prompt.name for prompt in mosaic.prompts}
    new = [prompt for prompt in spec.prompt_values() if prompt.name not in known]
    if new:
        mosaic.add_prompts(new)
    if prepared.renewal is not None:
        _give_room(mosaic, plan.steps)
    return mosaic


def _give_room(mosaic: Mosaic, steps: Sequence[datetime]) -> None:
    """Put those steps of a plan at the end of the mosaic's axis that it lacks: none twice, however often it is asked.

    Raises:
        MosaicError: another run has grown the axis since this was planned.
    """
    times = mosaic.times
    common = min(len(times), len(steps))
    if times[:common] != tuple(steps[:common]):
        raise MosaicError(
            "the time axis of this mosaic has grown since the run was planned",
            fix="leave this run; the monitor's next tick takes up what it left",
            mosaic=mosaic.url,
        )
    if len(steps) > common:
        mosaic.add_times(steps[common:])


def check_room(mosaic: str) -> None:
    """Whether a new mosaic may be made here: in no folder that holds other people's files.

    Raises:
        MosaicError: it may not.
    """
    folder = Folder(mosaic)
    try:
        here = {name for pattern in ("*", ".resmap") for name in folder.names(pattern)}
    except OSError as error:
        raise MosaicError(
            f"the mosaic cannot be made here: {error.strerror or error}",
            fix="choose another output.mosaic",
            mosaic=mosaic,
        ) from error
    if here and not here & {".resmap", "zarr.json", *REPOSITORY}:
        raise MosaicError(
            "the folder holds other files", fix="choose another output.mosaic, or an empty folder", mosaic=mosaic
        )


def unmake(mosaic: str, engine: EngineName, grids: Sequence[Grid]) -> None:
    """Take away a mosaic that this process has made and in which nothing was mapped: what we put there, no more."""
    trees = {level.path.partition("/")[0] for grid in grids for level in grid.pyramid()}
    state_folder(mosaic, engine=engine).remove_tree(["runs", "lease.json", "epoch.json", ".lease.lock"])
    Folder(mosaic).remove_tree(REPOSITORY if engine == "icechunk" else ["zarr.json", *sorted(trees)])


def check_output(prepared: Prepared, mosaic: Mosaic) -> None:
    """Whether this job may write to that mosaic.

    Raises:
        MosaicError: it is another job's, or holds another sentence under one of our names.
    """
    check_job(prepared.job.spec, prepared.area, mosaic, renews=prepared.renewal is not None)


def check_job(spec: JobSpec, area: BaseGeometry, mosaic: Mosaic, *, renews: bool) -> None:
    """Whether a job may write to a mosaic; ``renews`` asks for one that has all its sentences. Raises as above."""
    if mosaic.made_by.get("answer_key") != answer_key(spec, area_wkb=shapely.to_wkb(area)):
        raise MosaicError(
            "this mosaic was made by another job: its area, imagery, grid, model or windows differ",
            fix="choose another output.mosaic; only prompts may be added to one",
            mosaic=mosaic.url,
        )
    known = {prompt.name: prompt for prompt in mosaic.prompts}
    if (mosaic.engine, mosaic.pyramid) != (spec.output.engine, spec.output.pyramid):
        raise MosaicError(
            f"this mosaic has engine {mosaic.engine} and pyramid {mosaic.pyramid}",
            fix="say the same under output, or choose another output.mosaic",
            mosaic=mosaic.url,
        )
    for prompt in spec.prompt_values():
        if prompt.name in known and known[prompt.name] != prompt:
            raise MosaicError(
                f"prompt {prompt.name!r} stands in this mosaic for {known[prompt.name].expression!r} "
                f"at {known[prompt.name].threshold:g}",
                fix="give the new sentence another name",
                mosaic=mosaic.url,
            )
        if renews and prompt.name not in known:
            raise MosaicError(
                f"prompt {prompt.name!r} is not in this mosaic, and a monitor maps anew what was mapped before",
                fix="take it out of the job, or choose another output.mosaic",
                mosaic=mosaic.url,
            )


def check_turn(prepared: Prepared) -> None:
    """Whether it is this run's turn: once a monitor has renewed a mosaic, what an earlier run left undone is for the
    next tick, which maps it with the imagery that stands then.

    Raises:
        MosaicError: it is over.
    """
    url, renewal = prepared.job.spec.output.mosaic, prepared.renewal
    last = last_renewal(url, engine=prepared.job.spec.output.engine)
    if last is None or (renewal is not None and last.number < renewal.number):
        return
    if renewal is None:
        raise kept_by(url, last)
    if (last.number, last.due) != (renewal.number, renewal.due) or not prepared.folder.exists():
        raise MosaicError(
            f"monitor {last.monitor!r} has renewed this mosaic since run {prepared.run} was planned",
            fix="leave this run; the monitor's next tick takes up what it left",
            mosaic=url,
        )
