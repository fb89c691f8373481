"""One run as people watch it: its files read as they grow, and every panel made of them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np

from jobs.dashboard import pace
from jobs.dashboard.bottleneck import bottleneck
from jobs.dashboard.calls import CallsBook
from jobs.dashboard.failures import failure_groups
from jobs.dashboard.run_job import RunJob
from jobs.dashboard.samples import Samples
from jobs.dashboard.states import RunView, TileStates, pixel_surface_km2
from jobs.dashboard.stragglers import stragglers
from jobs.dashboard.unplanned import empty_page, moment, shown_state, unread_line
from jobs.dashboard.views import (
    Cost,
    Event,
    FailureGroup,
    GpuRow,
    Progress,
    RunLine,
    RunPage,
    Span,
    Straggler,
)
from jobs.dashboard.workers import gpu_rows, summary_rows
from jobs.lease import run_at_work
from jobs.ledger import Entry, RunFolder
from jobs.registry import RunRow
from jobs.telemetry import Live
from mapper.errors import MapperError
from mapper.grid import Grid
from mapper.mosaic import Mosaic

FRESH_S = 0.5
"""How old what is told of a run under way may be."""

SETTLED_S = 5.0
"""How old it may be where no driver has it."""

SAMPLED_S = 10.0
"""How often telemetry is read on in: workers are written down so often, and ``live.json`` has what is newer."""

SLOW_S = 3.0
"""How old panels may be that look at all tiles, and say little that changes in a moment."""

EVENTS = 50
HEAVY = ("problems", "workers")
"""Of a summary, what other panels tell."""

Value = TypeVar("Value")


class RunBook:
    """Threads may share one. It reads, and never writes."""

    def __init__(self, key: str, mosaic: str, run: str, row: RunRow | None, *, clock: Callable[[], float]) -> None:
        """Nothing is read yet.

        Args:
            key: as addresses name it.
            mosaic, run: where it lies.
            row: what the registry says of it; None where it is not there.
            clock: seconds since 1970.
        """
        self.key, self.mosaic, self.run, self.row = key, mosaic, run, row
        self._clock = clock
        self._lock = threading.RLock()
        self._looked = self._read = self._sampled = -math.inf
        self._facts: dict[str, Any] = {}
        self._job = RunJob()
        self._live: Live | None = None
        self._under_way = False
        self._view: RunView | None = None
        self._calls = CallsBook()
        self._events: list[Event] = []
        self._entry = lru_cache(maxsize=512)(self._entry_of)
        self._kept: dict[str, tuple[float, int, Any]] = {}

    @cached_property
    def _folder(self) -> RunFolder:
        return RunFolder(self.mosaic, self.run)  # asks the store which engine the mosaic has

    @cached_property
    def _samples(self) -> Samples:
        return Samples(folder=self._folder)

    @property
    def tiles(self) -> int:
        """Planned tiles that are held in columns."""
        return 0 if self._view is None else self._view.states.planned

    def unread(self) -> RunLine:
        """What the registry says of it."""
        return unread_line(self.key, self.run, self.mosaic, self.row)

    def line(self) -> RunLine:
        """Its line in the list of runs. Tiles are counted by its summary, where it has ended, else in its ledger.

        Raises:
            MosaicError: a file of it is damaged.
        """
        with self._lock:
            self._look()
            if not self._facts:
                return self.unread()
            told = self._facts.get("summary", {}).get("tiles") if not self._under_way and self._view is None else None
            if isinstance(told, Mapping) and self._facts.get("state") not in ("running", "stopped"):
                counts = {state: int(told.get(state, 0)) for state in ("done", "nodata", "failed", "quarantined")}
            else:
                self._refresh()
                counts = self.view().states.counts()
            return self._line(counts)

    def page(self) -> RunPage:
        """All its panels.

        Raises:
            MosaicError: a file of it is damaged.
        """
        with self._lock:
            self._look()
            if not self._facts:
                return empty_page(self.unread(), now=datetime.fromtimestamp(self._clock(), UTC))
            self._refresh()
            view, now = self.view(), self._clock()
            counts = view.states.counts()
            line = self._line(counts)
            gpus = self._gpus(now)
            calls = self._calls.rows(self._live)
            progress = self._progress(line, counts, now)
            return RunPage(
                line=line,
                progress=progress,
                cost=self._cost(line, progress, gpus),
                gpus=gpus,
                bottleneck=bottleneck(
                    gpus,
                    self._job.settings,
                    waiting=progress.waiting - progress.in_hand,
                    calls=calls,
                    reading=self._samples.reading(),
                ),
                failures=self.failures(),
                stragglers=self._stragglers(),
                calls=calls,
                events=tuple(self._events[: -EVENTS - 1 : -1]),
                prompts=self._job.prompts,
                model=self._job.model,
                as_of=line.updated or datetime.fromtimestamp(now, UTC),
                summary={k: v for k, v in self._facts.get("summary", {}).items() if k not in HEAVY},
            )

    def view(self) -> RunView:
        """As maps and tiles ask about it; current as of the last ``line`` or ``page``.

        Raises:
            FileNotFoundError: it is not planned yet.
            MosaicError: a file of it is damaged.
        """
        with self._lock:
            self._look()
            if self._view is None:
                places = self._folder.places()
                states = TileStates(folder=self._folder, planned=len(places.grid))
                states.refresh()
                self._view = RunView(key=self.key, folder=self._folder, mosaic=self.mosaic, places=places,
                                     states=states, facts=self._facts, grids=())  # fmt: skip
            if not self._view.grids and (grids := self._grids()):
                self._view = replace(self._view, grids=grids)
                self._kept.clear()
            return self._view

    def refreshed(self) -> RunView:
        """The view, with what was added to the ledger since."""
        with self._lock:
            view = self.view()
            self._refresh()
            return view

    def failures(self) -> tuple[FailureGroup, ...]:
        """Tiles given up, by cause."""
        view = self.refreshed()
        return self._keep("failures", SLOW_S, lambda: failure_groups(view, self._told))

    def events(self, after: int) -> tuple[Event, ...]:
        """What happened after the event of this number, oldest first."""
        with self._lock:
            self._look()
            self._refresh()
            return tuple(event for event in self._events if event.number > after)

    def history(self) -> Mapping[str, Any]:
        """Telemetry in columns, by the minute."""
        with self._lock:
            self._look()
            self._refresh()
            return self._samples.columns()

    def whole(self) -> tuple[RunPage, RunJob, RunView | None, Samples]:
        """All that a comparison looks at; no view where it is not planned yet."""
        with self._lock:
            return self.page(), self._job, self._view, self._samples

    def surface_km2(self) -> float:
        """Of all tiles that are finished, those without imagery too."""
        view = self.view()

        def reckon() -> float:
            finished = view.states.with_state("done", "nodata")
            return float(np.nansum(np.where(finished, view.states.megapixels, 0.0) * self._surface(view)))

        return self._keep("km2", FRESH_S, reckon)

    def _look(self) -> None:
        """At the small files: what ran, how it stands, who has it."""
        if self._is_fresh(self._looked, FRESH_S if self._under_way else 2 * FRESH_S):
            return
        self._looked = self._clock()
        try:
            self._facts = self._folder.facts()
        except (FileNotFoundError, ValueError):
            self._facts = {}
            for name in ("_folder", "_samples"):  # it may lie elsewhere, once the mosaic is made
                vars(self).pop(name, None)
            return
        if self._view is not None and self._view.facts != self._facts:
            self._view = replace(self._view, facts=self._facts)
        if not self._job.fields:
            self._job = self._read_job()
        self._live = self._folder.live()
        self._under_way = run_at_work(self.mosaic) == self.run

    def _refresh(self) -> None:
        """Read on in what grows."""
        if self._is_fresh(self._read, FRESH_S if self._under_way else SETTLED_S):
            return
        at = self._clock()
        if self._view is not None:
            self._view.states.refresh()
        if not self._is_fresh(self._sampled, SAMPLED_S):
            self._samples.refresh()
            self._sampled = at
        self._events += self._folder.events(self._events[-1].number if self._events else 0)
        self._read = at  # only now: what could not be read is tried again by whoever asks next

    def _line(self, counts: Mapping[str, int]) -> RunLine:
        facts, state = self._facts, str(self._facts.get("state", "planned"))
        told = self.row.state if self.row is not None else ""
        if told == "queued" or (told == "cancelled" and state == "interrupted"):  # its files cannot know
            state = told
        moments = [self._live.at if self._live else None, *(moment(facts.get(name)) for name in ("ended", "created"))]
        if self._view is not None and (entered := self._newest()) is not None:
            moments.append(datetime.fromtimestamp(entered, UTC))
        return RunLine(
            id=self.key,
            run=self.run,
            mosaic=self.mosaic,
            name=str(facts.get("name") or self.run),
            state=shown_state(state, under_way=self._under_way),
            planned=self._planned(counts),
            finished=counts["done"] + counts["nodata"],
            given_up=counts["failed"] + counts["quarantined"],
            began=moment(facts.get("created")),
            updated=max((moment for moment in moments if moment is not None), default=None),
            live=self._under_way,
        )

    def _planned(self, counts: Mapping[str, int]) -> int:
        """Tiles the run answers for: fewer than in its plan, where others were finished by an earlier run."""
        entered = sum(counts.get(state, 0) for state in ("done", "nodata", "failed", "quarantined"))
        return max(entered, int(self._facts.get("planned", sum(counts.values()))))

    def _progress(self, line: RunLine, counts: Mapping[str, int], now: float) -> Progress:
        view, states = self.view(), self.view().states
        entered = {state: counts[state] for state in ("done", "nodata", "failed", "quarantined")}
        waiting = line.planned - sum(entered.values())
        known = self._live.began if self._live else line.began
        began = known.timestamp() if known else -math.inf
        until = now if line.live else (self._newest() or now)
        recent = pace.recent_pace(states.at, began=began if until > began else -math.inf, now=until)
        km2_per_h, mpx_per_s = self._area_rates(view, recent, until)
        return Progress(
            planned=line.planned,
            waiting=waiting,
            **entered,
            in_hand=min(self._live.in_hand, waiting) if line.live and self._live and not self._live.over else 0,
            tiles_per_s=recent.tiles_per_s if recent else None,
            km2_per_h=km2_per_h,
            mpx_per_s=mpx_per_s,
            eta_s=pace.seconds_left(waiting, recent) if line.live else None,
            mapped_km2=self.surface_km2(),
            history=self._keep("history", SLOW_S, lambda: pace.history(states.at, now=until), ages=line.live),
        )

    def _area_rates(self, view: RunView, recent: pace.Pace | None, until: float) -> tuple[float | None, float | None]:
        """km2 an hour and million pixels a second in the recent window."""
        if recent is None or recent.still:
            return (None, None) if recent is None else (0.0, 0.0)
        inside = np.flatnonzero((view.states.at > until - recent.seconds) & (view.states.at <= until))
        megapixels = view.states.megapixels[inside]
        km2 = float((megapixels * self._surface(view)[inside]).sum())
        return (None if math.isnan(km2) else km2 / recent.seconds * 3600), float(megapixels.sum()) / recent.seconds

    def _cost(self, line: RunLine, progress: Progress, gpus: tuple[GpuRow, ...]) -> Cost:
        live, said = self._live, self._facts.get("spent_usd")
        spent = float(said) if isinstance(said, int | float) else None
        if live is not None and (line.live or spent is None):
            spent = live.spent_usd
        left = progress.eta_s
        if line.live and progress.waiting == 0 and left is None:
            left = Span(low=0.0, high=0.0)
        return pace.cost(
            spent_usd=spent,
            usd_per_gpu_hour=live.usd_per_gpu_hour if live is not None else self._job.usd_per_gpu_hour,
            budget_usd=live.budget_usd if live is not None else self._job.budget_usd,
            workers=sum(row.state not in ("gone", "over") for row in gpus),
            left=left,
            over=not line.live and progress.waiting == 0,
            mapped_km2=progress.mapped_km2,
            idle_s=self._samples.idle_s(),
        )

    def _gpus(self, now: float) -> tuple[GpuRow, ...]:
        if self._live is None and (told := self._facts.get("summary", {}).get("workers")):
            return summary_rows(told)
        return gpu_rows(self._live, self._samples.recent, now=now, under_way=self._under_way)

    def _stragglers(self) -> tuple[Straggler, ...]:
        return self._keep("stragglers", SLOW_S, lambda: stragglers(self.view()))

    def _surface(self, view: RunView) -> Any:
        if not view.grids:
            return np.full(view.states.planned, np.nan, np.float32)
        return self._keep("surface", math.inf, lambda: pixel_surface_km2(view.places, view.grids))

    def _newest(self) -> float | None:
        """When the last tile was entered, seconds since 1970."""
        at = self.view().states.at
        newest = self._keep("newest", FRESH_S, lambda: float(np.fmax.reduce(at)) if len(at) else math.nan)
        return None if math.isnan(newest) else newest

    def _told(self, tile: int) -> Entry | None:
        return self._entry(tile, float(self.view().states.at[tile]))

    def _entry_of(self, tile: int, _: float) -> Entry | None:
        return self.view().states.last_entry(tile)

    def _keep(self, name: str, seconds: float, make: Callable[[], Value], *, ages: bool = False) -> Value:
        """An answer made a moment ago, or one that no new row can have changed; else made anew.

        Args:
            name: of the answer.
            seconds: how old it may be.
            make: makes it.
            ages: whether it changes with time alone.
        """
        at, version, value = self._kept.get(name, (-math.inf, -1, None))
        current = self._view.states.version if self._view is not None else 0
        if version < 0 or ((ages or version != current) and not self._is_fresh(at, seconds)):
            value = make()
            self._kept[name] = self._clock(), current, value
        known: Value = value
        return known

    def _is_fresh(self, at: float, seconds: float) -> bool:
        return 0 <= self._clock() - at < seconds  # a clock may be set back

    def _grids(self) -> tuple[Grid, ...]:
        """As the plan numbers them; none while there is no mosaic."""
        try:
            known = {grid.name: grid for grid in Mosaic.open(self.mosaic, writable=False).grids}
            return tuple(known[name] for name in self._facts.get("grids", []))
        except (MapperError, KeyError):
            return ()

    def _read_job(self) -> RunJob:
        try:
            return RunJob.of(self._folder.job())
        except (FileNotFoundError, UnicodeDecodeError):
            return RunJob()
