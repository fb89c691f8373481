"""What verify found is put right: documents written anew, tiles and levels above them mapped again.

    files of the run     what follows from the job is put back; damaged parts of ledgers are taken away
    documents            written anew from the job (zarr)
    verify --full        which tiles, which coarser shards
    the runs             each maps its own tiles again and builds the levels above, in the order in which they renewed
                         one another, from the items it froze; then the job's run goes on to its end
    leftovers            what lies among the shards and belongs to no run is taken away

A repair may be killed at any moment: nothing of it is remembered, and the next one looks again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
import shapely
import yaml
import zarr
from zarr.core.sync import sync

from jobs.areas import geometry_of
from jobs.faults import FROM_COPY, Fault
from jobs.job import Job
from jobs.lease import Lease
from jobs.ledger import RunFolder, reading_runs
from jobs.level_check import positions
from jobs.prepare import Prepared, planned_before
from jobs.run_check import KnownRun, is_of_a_tick, look_at_runs
from jobs.speaking import renews_of
from jobs.spec import answer_key, canonical, run_id
from jobs.standing import Redo
from jobs.summary import Summary
from jobs.tree_check import strays
from jobs.tree_metadata import has_grown_to, mend_metadata, metadata_faults
from jobs.verify import open_or_fault, verify
from mapper.engines import open_engine
from mapper.errors import VerifyError
from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from mapper.storage import EngineName, Folder, plain_store, state_folder, store_failure

Tell = Callable[[str], None]

SHARED = ("items.parquet", "tiles.parquet")
"""Files that runs of one mosaic have in common: a later sentence is asked of the same items, tile by tile."""

NAMED = 5
"""Things that are named one by one before the rest is counted."""


class Execute(Protocol):
    """Runs a prepared job, and does again what it is told to."""

    def __call__(self, prepared: Prepared, redo: Redo | None) -> Summary:
        """How it ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What is to be done, run by run."""

    tiles: dict[str, set[int]]
    levels: dict[str, list[str]]
    """Shards of coarser levels, by the run that put them last."""

    stray: list[Fault]
    beyond: list[Fault]
    """What nobody can mend here."""


def mend_run_files(job: Job, tell: Tell) -> None:
    """Before a job can be prepared: put back what follows from it, and take damaged parts of ledgers away.

    Raises:
        BusyError: a run writes to the mosaic.
        VerifyError: this job's own plan or items are lost.
    """
    spec = job.spec
    url, engine = spec.output.mosaic, spec.output.engine
    if not any(run.faults for run in look_at_runs(url)):
        return
    area = shapely.to_wkb(geometry_of(spec.area, folder=job.folder))
    own = run_id(spec, area_wkb=area)
    with Lease(url, own, engine=engine):
        runs = look_at_runs(url)
        for run, fault in ((one, fault) for one in runs for fault in one.faults):
            if fault.kind == "part":
                _files(url, engine, run.name).remove(fault.key)
                tell(f"took away {fault.tile}: {fault.reason.partition(';')[0]}; its tiles are mapped again")
            elif fault.key in SHARED and (like := _run_like(run, runs, fault.key)) is not None:
                shared = _files(url, engine, like.name).read(fault.key)
                _files(url, engine, run.name).write(fault.key, shared)
                tell(f"took {fault.tile} from run {like.name}, which maps the same items over the same tiles")
            elif run.name == own:
                _mend_own(run, fault, job, area, tell)
    lost = [fault for run in look_at_runs(url) if run.name == own for fault in run.faults]
    if lost:
        raise VerifyError(
            f"{lost[0].tile}: {lost[0].reason}, and nothing that is left says what was in it", fix=FROM_COPY, mosaic=url
        )


def _files(url: str, engine: EngineName, run: str) -> Folder:
    return state_folder(url, engine=engine).child("runs").child(run)


def _run_like(run: KnownRun, runs: Sequence[KnownRun], file: str) -> KnownRun | None:
    """A run that took its items from this one, or gave it them, and still has this file."""
    key = run.facts.get("answer_key")
    if renews_of(run.facts) or is_of_a_tick(run.name):  # it mapped what was new then, and no other run has that
        return None
    for other in runs:
        whole = all(fault.key != file for fault in other.faults) and not renews_of(other.facts)
        if whole and key is not None and other.facts.get("answer_key") == key:
            return other
    return None


def _mend_own(run: KnownRun, fault: Fault, job: Job, area: bytes, tell: Tell) -> None:
    """A file of the job's own run that follows from the job."""
    files = _files(job.spec.output.mosaic, job.spec.output.engine, run.name)
    if fault.key in ("job.yaml", "area.wkb"):
        files.write("job.yaml", yaml.safe_dump(canonical(job.spec), sort_keys=False).encode())
        files.write("area.wkb", area)
        tell(f"wrote {fault.tile} anew from the job")
    elif fault.key == "run.json":
        _restore_facts(run, job, area)
        tell(f"wrote {fault.tile} anew: when and on what the run worked is lost")


def _restore_facts(run: KnownRun, job: Job, area: bytes) -> None:
    """What a run must know of itself to go on, from the job and the mosaic."""
    mosaic = Mosaic.open(job.spec.output.mosaic, writable=False)
    facts = {
        "run": run.name,
        "name": job.spec.name,
        "state": "stopped",
        "answer_key": answer_key(job.spec, area_wkb=area),
        "grids": [grid.name for grid in mosaic.grids],
        "steps": [time.isoformat() for time in mosaic.times],
        "created": "",
    }
    run.folder.save_facts(facts)


def repair(prepared: Prepared, execute: Execute, tell: Tell) -> Summary:
    """Put right all that a full verification of a job's mosaic finds, and finish the job.

    Args:
        prepared: the job.
        execute: runs a job; an unfinished one goes on.
        tell: what was done, line by line.

    Raises:
        VerifyError: something is damaged that cannot be made again here; all else was put right.
        BusyError: another run writes to the mosaic.
    """
    url = prepared.job.spec.output.mosaic
    if not prepared.saved:
        return execute(prepared, None)
    _mend_documents(prepared, tell)
    tell("reading the whole mosaic back")
    report = verify(url, full=True)
    if not report.bad:
        tell("nothing is wrong with it")
        return execute(prepared, None)
    found, runs = _sorted(report.bad), look_at_runs(url)
    others = [run for run in _in_turn(runs, found) if run.name != prepared.run]
    for run in others:
        _mend_other(run, found.tiles.get(run.name, set()), found.levels.get(run.name, []), execute, tell)
    own, levels = found.tiles.get(prepared.run, set()), found.levels.get(prepared.run, [])
    tell(f"mapping {len(own)} tiles of run {prepared.run} again, and building {len(levels)} coarser shards")
    renewed = any(renews_of(run.facts) for run in runs)  # then what the job left undone is the monitor's
    summary = execute(prepared, _redo(prepared, own, levels, only=renewed))
    for run in others:
        if run.folder.facts().get("levels_behind"):  # over what was damaged still when it was that run's turn
            _mend_other(run, set(), found.levels.get(run.name, []), execute, tell)
    if found.stray:
        _take_away(prepared, tell)
    if found.beyond:
        raise VerifyError(
            f"{len(found.beyond)} things are damaged that cannot be made again here: {_named(found.beyond)}",
            fix=found.beyond[0].fix,
            mosaic=url,
        )
    return summary


def _in_turn(runs: Sequence[KnownRun], found: _Found) -> list[KnownRun]:
    """The runs that have something to do again, those first that others renewed: what these put stands in the end."""
    unknown = {fault.run for fault in found.beyond}
    damaged = found.tiles.keys() | found.levels.keys()
    mine = [run for run in runs if run.name in damaged and run.name not in unknown]
    return sorted(mine, key=lambda run: renews_of(run.facts))


def _mend_other(run: KnownRun, tiles: set[int], levels: Sequence[str], execute: Execute, tell: Tell) -> None:
    """Have another run of the mosaic do again what is damaged of it, from its own plan."""
    with reading_runs(run.folder.mosaic):
        other = planned_before(_job_of(run.folder), run.folder)
    above = f", and building {len(levels)} coarser shards" if levels else ""
    tell(f"mapping {len(tiles)} tiles of run {run.name} again{above}")
    execute(other, _redo(other, tiles, levels, only=True))


def _mend_documents(prepared: Prepared, tell: Tell) -> None:
    spec, url = prepared.job.spec, prepared.job.spec.output.mosaic
    runs = look_at_runs(url)
    prompts: list[Prompt] = []
    for run in runs:
        asked = run.spec.prompt_values() if run.spec is not None else ()
        prompts += [prompt for prompt in asked if prompt.name not in {known.name for known in prompts}]
    opened = open_or_fault(url)
    if isinstance(opened, Fault):
        faults = [opened]
    else:
        faults = metadata_faults(opened, runs)
        order = [prompt.name for prompt in opened.prompts]
        if sorted(order) == sorted(prompt.name for prompt in prompts):
            prompts.sort(key=lambda prompt: order.index(prompt.name))
    if not faults or spec.output.engine != "zarr":
        return
    area = shapely.to_wkb(prepared.area)
    made = MosaicSpec(
        grids=prepared.plan.grids,
        prompts=tuple(prompts),
        times=_times(prepared, runs),
        made_by={"answer_key": answer_key(spec, area_wkb=area), "model": spec.model.name},
        pyramid=spec.output.pyramid,
    )
    with Lease(url, prepared.run, engine=spec.output.engine):
        for key in mend_metadata(url, made):
            tell(f"wrote {key} anew")


def _times(prepared: Prepared, runs: Sequence[KnownRun]) -> tuple[datetime, ...]:
    """The time axis as far as runs have made it grow: the longest they speak of, with which all of them begin."""
    said = [run.facts.get("steps", []) for run in runs if has_grown_to(run.facts)]
    longest = max([[step.isoformat() for step in prepared.plan.steps], *said], key=len)
    return tuple(datetime.fromisoformat(step) for step in longest)


def _sorted(bad: Sequence[Fault]) -> _Found:
    found = _Found(tiles={}, levels={}, stray=[], beyond=[])
    for fault in bad:
        if fault.row is not None:
            found.tiles.setdefault(fault.run, set()).add(fault.row)
        elif fault.kind == "level":
            found.levels.setdefault(fault.run, []).append(fault.key)
        elif fault.kind == "extra":
            found.stray.append(fault)
        elif not (fault.kind == "run" and not fault.key and "--repair" in fault.fix):  # else resuming mends it
            found.beyond.append(fault)
    return found


def _redo(prepared: Prepared, tiles: set[int], levels: Sequence[str], *, only: bool) -> Redo:
    plan = prepared.plan
    grids = {grid.name: number for number, grid in enumerate(plan.grids)}
    steps = {step.isoformat(): number for number, step in enumerate(plan.steps)}
    rows = np.array(sorted(tiles), np.int64)
    return Redo(tiles=rows, shards=positions(sorted(set(levels)), grids, steps), only=only)


def _job_of(folder: RunFolder) -> Job:
    """The job of another run of the mosaic, as it lies beside it."""
    return Job.from_dict(yaml.safe_load(folder.job()))


def _take_away(prepared: Prepared, tell: Tell) -> None:
    """What still lies among the shards of the mosaic's arrays and belongs to no run; what lies elsewhere is named."""
    url, engine = prepared.job.spec.output.mosaic, prepared.job.spec.output.engine
    found = strays(Mosaic.open(url, writable=False), [run for run in look_at_runs(url) if run.readable]).faults
    ours, others = [fault for fault in found if fault.key], [fault for fault in found if not fault.key]
    if ours:
        with Lease(url, prepared.run, engine=engine):
            _delete(url, engine, [fault.key for fault in ours])
        tell(f"took away {len(ours)} files that belong to no run: {_named(ours)}")
    if others:
        tell(f"left alone {len(others)} files that are not resmap's: {_named(others)}")


def _delete(url: str, engine: EngineName, keys: Sequence[str]) -> None:
    def take_away(root: zarr.Group) -> None:
        for key in keys:
            sync(root.store.delete(key))

    try:
        if engine == "zarr":
            store = plain_store(url, read_only=False)
            for key in keys:
                sync(store.delete(key))
        else:
            open_engine(url, writable=True).change(take_away, "shards of no run taken away")
    except Exception as error:
        raise store_failure(error, url, "mended") from error


def _named(faults: Sequence[Fault]) -> str:
    names = ", ".join(fault.key or fault.tile for fault in faults[:NAMED])
    return names + (f" and {len(faults) - NAMED} more" if len(faults) > NAMED else "")
