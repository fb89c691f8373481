"""The whole story: what is left to do, step by step through each prompt of each zone; then files; then what to tell.

    renewed tiles ─┐
    new steps ─────┼─► pending.json ─► change.zarr ─► polygons/ ─► totals of each step that was touched
    left by a kill ┘

Killed at any moment and asked again, it leaves the same bytes and gives the same answer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from mapper.changes.pending import Pending, Series
from mapper.changes.polygons import KINDS, POLYGONS, draw, file_name, totals
from mapper.changes.raster import Raster, changes_folder, fitted
from mapper.changes.rule import ChangeRule
from mapper.changes.series import all_series
from mapper.errors import QuestionError
from mapper.mosaic import Mosaic
from mapper.questions.places import did_you_mean
from mapper.storage import Folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """A tile of a step that was mapped, or mapped anew."""

    grid: str
    """Name of its zone; empty where the mosaic has one grid."""

    time: datetime
    """When its step begins; aware."""

    row: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepChanges:
    """What became of one prompt in one step, in all zones.

    Where no ground was seen both in this step and before, nobody knows: all is None then, and not 0.
    """

    time: datetime
    """When the step begins; aware, UTC."""

    prompt: str
    appeared_m2: float | None
    """Square metres of ellipsoid."""

    vanished_m2: float | None
    stayed_m2: float | None
    appeared: int | None
    """Places: what hangs together, corners included. One that crosses into another zone is a place in each."""

    vanished: int | None
    stayed: int | None


def find_changes(
    mosaic_url: str,
    rule: ChangeRule,
    renewed: Sequence[Renewed] | None = None,
    *,
    until_told: bool = False,
    tell: Callable[[str], None] = lambda said: None,
) -> list[StepChanges]:
    """Bring the changes beside a mosaic up to date. One process at a time may do so.

    Nothing but what can differ is read: the renewed tiles, what hangs together with a change in them, and what
    follows from them in later steps. Steps and prompts that the changes do not know yet are found by themselves; where
    the rule is another than last time, or the mosaic was made anew, all is.

    Args:
        mosaic_url: path or URL of the mosaic.
        rule: what counts as a change.
        renewed: tiles that were mapped since the last time; those of new steps need not be named. None: all is
            decided anew.
        until_told: answer for the steps of earlier answers too, until ``changes_told`` says that those were used:
            else they are answered for again only where the same is asked.
        tell: is told in words how far it is.

    Returns:
        For each step that was touched, oldest first, each prompt in the mosaic's order; what was asked last and is
        asked again is answered for the same steps.

    Raises:
        QuestionError: a renewed tile lies in no zone or step of the mosaic.
        GridError: or in no shard of it.
        MosaicError: there is no mosaic here.
        VerifyError: a shard is damaged.
        StoreError, CredentialsError: as ``store_failure`` says.
    """
    mosaic = Mosaic.open(str(mosaic_url), writable=False)
    folder = Folder(changes_folder(mosaic.url))
    pending = Pending.read(folder)
    _ask(pending, mosaic, rule, renewed, until_told=until_told)
    pending.save(folder)
    raster = fitted(mosaic, rule)
    for one in all_series(mosaic, raster, rule):
        name = mosaic.prompts[one.prompt].name

        def begins(step: datetime, zone: str = one.grid.name, name: str = name) -> None:
            pending.drawn_anew.add((zone, step))
            pending.reported.add(step)
            pending.save(folder)
            tell(f"changes of {name} at {step:%Y-%m-%d %H:%M}{f' in {zone}' if zone else ''}")

        one.settle(pending.of(Series(one.grid.name, name)), begins)
    pending.series.clear()
    pending.save(folder)
    for zone, step in sorted(pending.drawn_anew):
        tell(f"places that changed at {step:%Y-%m-%d %H:%M}{f' in {zone}' if zone else ''}")
        draw(mosaic, raster, zone, step)
    pending.drawn_anew.clear()
    pending.save(folder)
    return [found for step in sorted(pending.reported) for found in step_changes(mosaic, step)]


def changes_told(mosaic_url: str) -> None:
    """Say that what ``find_changes`` has answered so far was used: it need not be answered again.

    Raises:
        VerifyError, StoreError, CredentialsError: what is kept of it cannot be read or written.
    """
    folder = Folder(changes_folder(str(mosaic_url)))
    pending = Pending.read(folder)
    pending.asked, pending.reported = "", set()
    pending.save(folder)


def step_changes(mosaic: Mosaic, step: datetime) -> list[StepChanges]:
    """What became of each prompt in one step, as its files tell it."""
    files = Folder(changes_folder(mosaic.url)).child(POLYGONS)
    found = [totals(files, file_name(grid.name, step)) for grid in mosaic.grids]
    out = []
    for prompt in mosaic.prompts:
        zones = [zone[prompt.name] for zone in found if prompt.name in zone]
        known = any(zone.comparable for zone in zones)
        count = {kind: sum(zone.kinds[kind][0] for zone in zones) if known else None for kind in KINDS}
        area_m2 = {kind: math.fsum(zone.kinds[kind][1] for zone in zones) if known else None for kind in KINDS}
        out.append(
            StepChanges(
                time=step.astimezone(UTC),
                prompt=prompt.name,
                appeared_m2=area_m2["appeared"],
                vanished_m2=area_m2["vanished"],
                stayed_m2=area_m2["stayed"],
                appeared=count["appeared"],
                vanished=count["vanished"],
                stayed=count["stayed"],
            )
        )
    return out


def _ask(
    pending: Pending, mosaic: Mosaic, rule: ChangeRule, renewed: Sequence[Renewed] | None, *, until_told: bool
) -> None:
    """Add what is asked, and what is not known yet, to what is left."""
    there = Raster.open(mosaic.url, writable=False)
    everything = renewed is None or there is None or not there.knows(mosaic, rule)
    known_prompts = 0 if everything or there is None else len(there.prompts)
    known_steps = () if everything or there is None else there.times
    steps = {time.astimezone(UTC): time for time in mosaic.times}
    asked = [] if renewed is None else [_checked(mosaic, one, steps) for one in renewed]
    digest = _digest(rule, renewed)
    if digest != pending.asked:
        # What was left by who asked before was told to nobody.
        unfinished = any(left.steps or left.wave for left in pending.series.values()) or pending.drawn_anew
        pending.reported = pending.reported if unfinished or until_told else set()
        pending.asked = digest
    pending.reported |= {steps[one.time.astimezone(UTC)] for one in asked}
    pending.reported &= set(mosaic.times)  # it may have been made anew
    for grid in mosaic.grids:
        for number, prompt in enumerate(mosaic.prompts):
            left = pending.of(Series(grid.name, prompt.name))
            for time in mosaic.times:
                if number >= known_prompts or time not in known_steps:
                    left.add(time, None)
            for one in asked:
                if one.grid == grid.name:
                    left.add(steps[one.time.astimezone(UTC)], [(one.row, one.column)])


def _checked(mosaic: Mosaic, one: Renewed, steps: dict[datetime, datetime]) -> Renewed:
    grids = {grid.name: grid for grid in mosaic.grids}
    if one.grid not in grids:
        fix = did_you_mean(one.grid, [name or "''" for name in grids])
        raise QuestionError(f"this mosaic has no zone {one.grid!r}", fix=fix, mosaic=mosaic.url)
    if one.time.astimezone(UTC) not in steps:
        raise QuestionError(
            f"this mosaic has no step at {one.time.isoformat()}",
            fix="name the beginning of a step of its time axis",
            mosaic=mosaic.url,
        )
    grids[one.grid].tile(one.row, one.column)
    return one


def _digest(rule: ChangeRule, renewed: Sequence[Renewed] | None) -> str:
    tiles = (
        None
        if renewed is None
        else sorted((one.grid, one.time.astimezone(UTC).isoformat(), one.row, one.column) for one in renewed)
    )
    return hashlib.sha256(json.dumps([asdict(rule), tiles]).encode()).hexdigest()
