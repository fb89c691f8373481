"""The loop that runs what is due: one thread asks the registry and decides, each tick works in a thread of its own.

    what stands ──► what is due ──► claim ──► tick in its thread ──► its end is entered
         ╰──────────── each second, and beats for the ticks in hand ────────────╯

Any number of processes may run it over one registry, on machines whose clocks differ. Of those that serve, one leads
and the others stand by; but it is the claims in the registry that keep a tick from being run twice. What is entered
there is entered by the loop's own thread, so a process that is killed leaves every tick either begun or not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from jobs.monitors.accounts import tried_again
from jobs.monitors.beats import BEAT_S, STALE_S, Beat, Watch
from jobs.monitors.hands import Clock, Hands, Holder, RealClock, RunTick, Thread, Work, shown
from jobs.monitors.rows import TickRow
from jobs.monitors.schedule import Due
from jobs.monitors.store import Monitors, Standing
from mapper.errors import MapperError, QuestionError, SpecError

__all__ = ["Clock", "Holder", "RealClock", "RunTick", "Scheduler"]

POLL_S = 1.0
"""Between two looks at the registry, at most: how late a tick begins."""

DELIVER_S = 30.0
"""How often alerts that wait are tried."""

_LEADER = "leader"


@dataclass(slots=True, kw_only=True)
class _Step:
    """What one look at the registry has found to do."""

    claims: list[tuple[Standing, Due, Beat | None]] = field(default_factory=list)
    awaited: bool = False
    """Whether a holder may be gone, and it is not known yet."""


class Scheduler:
    """Runs the ticks that are due, as long as it is asked to. One thread drives it."""

    def __init__(
        self,
        store: Monitors,
        run_tick: RunTick,
        *,
        clock: Clock | None = None,
        at_once: int = 1,
        stale_s: float = STALE_S,
        beat_s: float = BEAT_S,
        deliver: Callable[[datetime], object] | None = None,
        begin: Callable[[Callable[[], object]], Work] = Thread,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Nothing is done yet.

        Args:
            store: the registry's monitors.
            run_tick: does one tick, or what is left of it: run twice, it leaves the same.
            clock: the time; this machine's where left out.
            at_once: ticks at work at a time; those that wait begin in the order in which they were due.
            stale_s: a holder whose beat stood still for so long is gone; the same for all who share a registry.
            beat_s: how often ours is raised; well under ``stale_s``.
            deliver: sends the alerts that wait; called with the time of day, in a thread of its own.
            begin: how work is begun beside the loop: in a thread.
            tell: is told what happens, a line each.
        """
        self._store, self._at_once, self._tell = store, at_once, tell
        self._clock: Clock = clock or RealClock()
        self._beat_s, self._deliver, self._begin = beat_s, deliver, begin
        self._hands = Hands(store, run_tick, clock=self._clock, beat_s=beat_s, begin=begin, tell=tell)
        self._watch, self._stale_s, self._poll_s = Watch(stale_s), stale_s, min(POLL_S, beat_s / 2)
        self._leads = False
        self._led_at = 0.0
        self._away_since: float | None = None
        self._delivery: Work | None = None
        self._delivered_at: float | None = None
        self._said: dict[str, str] = {}

    @property
    def name(self) -> str:
        """By which others know it in the registry."""
        return self._hands.name

    def once(self, name: str | None = None, *, stopped: threading.Event | None = None) -> list[TickRow]:
        """Run what is due now, of one monitor or of all, and come back when it is done.

        A tick that another left is taken up, after its beat was watched; what fails is not waited for.

        Returns:
            The ticks that ended here, in the order of their ends.

        Raises:
            QuestionError: there is no monitor of this name.
            MapperError: the registry does not answer, and nothing is under way.
        """
        stopped = stopped or threading.Event()
        if name is not None and self._store.get(name).state == "paused":
            self._tell(f"monitor {name} is paused")
        until, ended = self._clock.now(), list[TickRow]()
        while True:
            goes_on = self._patiently(lambda: self._once_more(name, until, ended, stopped), patient=bool(self._hands))
            if (not goes_on and not self._hands) or (stopped.is_set() and self._nobody_hears()):
                break
            self._clock.wait(self._poll_s, threading.Event() if self._hands else stopped)
        if self._deliver is not None and not stopped.is_set():
            self._deliver(self._clock.now())
        return ended

    def serve(self, stopped: threading.Event) -> None:
        """Run what is due until asked to stop; then the ticks in hand are stopped and left for the next to take up.

        Several may serve: one leads, and another takes over where it is gone.
        """
        while not stopped.is_set() or self._hands:
            self.step(drain=stopped.is_set())
            if stopped.is_set() and self._nobody_hears():
                break
            self._clock.wait(self._poll_s, threading.Event() if stopped.is_set() else stopped)
        self._patiently(self._resign, patient=True)

    def step(self, *, drain: bool = False) -> list[TickRow]:
        """One look at the registry, and what follows from it; gives the ticks that ended.

        A registry that does not answer is told of once; the next step finds all as it was.

        Args:
            drain: begin nothing, and have what is in hand stop.
        """
        ended = list[TickRow]()
        self._patiently(lambda: self._serve_once(ended, drain=drain), patient=True)
        return ended

    def _serve_once(self, ended: list[TickRow], *, drain: bool) -> None:
        if drain:
            self._hands.stop()
        ended += self._hands.keep()
        if not drain and self._lead():
            now = self._clock.now()
            self._claim(self._look(now, now).claims, now)
            self._send_alerts()

    # What both do -----------------------------------------------------------------------------------------------------

    def _once_more(self, name: str | None, until: datetime, ended: list[TickRow], stopped: threading.Event) -> bool:
        """A step of ``once``. Whether there is more to come."""
        if stopped.is_set():
            self._hands.stop()
        ended += self._hands.keep()
        if stopped.is_set():
            return False
        now = self._clock.now()
        step = self._look(now, min(now, until), only=name)
        claimed = self._claim(step.claims, now)
        return step.awaited or claimed or len(step.claims) > 0

    def _patiently(self, act: Callable[[], object], *, patient: bool) -> object:
        """Do it; where the registry is away that is told once, and the next time finds it as it was."""
        try:
            done = act()
        except MapperError as error:
            self._watch.forget()
            if not patient:
                raise
            if self._away_since is None:
                self._away_since = self._clock.monotonic()
                self._tell(f"{error}; waiting for it")
            return True
        if self._away_since is not None:
            self._away_since = None
            self._tell("the registry answers again")
        return done

    def _nobody_hears(self) -> bool:
        """Whether all work has ended and the registry is away for too long to enter it: others will take it up."""
        if self._away_since is None or not self._hands.over:
            return False
        return self._clock.monotonic() - self._away_since > self._stale_s

    # What is due ------------------------------------------------------------------------------------------------------

    def _look(self, now: datetime, until: datetime, *, only: str | None = None) -> _Step:
        """What stands, and what is to be claimed: the instants that have come by ``until``."""
        standings, abandoned = self._store.standing(now)
        standings = [one for one in standings if only in (None, one.row.name)]
        running = [*(one.running for one in standings if one.running), *abandoned]
        stood = self._watch.look(self._others(running), at=self._clock.monotonic())
        for tick in abandoned:
            if tick.number in stood:
                self._store.bury(tick, stood[tick.number])
        step = _Step()
        for standing in standings:
            if standing.row.state == "active":
                try:
                    self._decide(standing, now, until, stood, step)
                except (SpecError, QuestionError) as error:
                    self._tell_once(standing.row.name, f"monitor {standing.row.name}: {error}")
        return step

    def _others(self, running: Iterable[TickRow]) -> dict[object, Beat]:
        """Beats of ticks that others have; ours that were asked to stop are told so."""
        others = dict[object, Beat]()
        for tick in running:
            if tick.holder not in self._hands:
                others[tick.number] = Beat(tick.holder, tick.beat)
            elif tick.stop_asked is not None:
                self._hands.stop(tick.holder)
        return others

    def _decide(
        self, standing: Standing, now: datetime, until: datetime, stood: dict[object, Beat], step: _Step
    ) -> None:
        """What is to be done about one monitor. It may be that another has done it: the claim tells."""
        row, running = standing.row, standing.running
        if standing.since is None:
            self._store.begin_at(row.name, now)
            return
        due = row.schedule.latest(standing.since, until)
        if row.asked is not None:
            due = row.schedule.standing_for(standing.since, now.replace(microsecond=0))
        if running is None:
            if due is not None:
                step.claims.append((standing, due, None))
            elif standing.retry is not None and tried_again(standing.retry, now):
                step.claims.append((standing, _due_of(standing.retry), None))
            return
        overtaken = due is not None and due.at != running.due
        if overtaken and row.overlapping == "replace" and running.stop_asked is None:
            self._store.ask_stop(row.name, now=now)
        if running.holder not in self._hands:
            if running.holder is None or running.number in stood:
                step.claims.append((standing, _due_of(running), stood.get(running.number)))
                return
            if self._watch.lives(running.number):
                at_work = f"its tick due {shown(running.due)} is at work with {running.holder}"
                self._tell_once(row.name, f"monitor {row.name}: {at_work}")
            else:
                step.awaited = True
        if due is not None and overtaken and row.overlapping == "skip":
            self._store.skip(row.name, due, now=now)

    def _claim(self, claims: list[tuple[Standing, Due, Beat | None]], now: datetime) -> bool:
        """Take as many as there is room for, the first due first. Whether any was taken."""
        taken = False
        for standing, due, stood in sorted(claims, key=lambda claim: (claim[1].at, claim[0].row.name)):
            if len(self._hands) >= self._at_once:
                break
            taken |= self._hands.claim(standing.row.name, due, stood=stood, now=now)
        return taken

    # Who leads --------------------------------------------------------------------------------------------------------

    def _lead(self) -> bool:
        """Keep the lead, or take it where nobody has it."""
        at = self._clock.monotonic()
        if self._leads and at - self._led_at < self._beat_s:
            return True
        stood: Beat | None = None
        if not self._leads:
            seen = self._store.lead.seen()
            if seen is not None and seen.holder not in (None, self._hands.name):
                stood = self._watch_from_behind(seen, at).get(_LEADER)
                if stood is None:
                    self._tell_once(_LEADER, f"standing by: {seen.holder} serves")
                    return False
        leads = self._store.lead.take(self._hands.name, stood)
        if leads and not self._leads:
            self._tell("serving")
        elif self._leads and not leads:
            self._tell("another serves now: this one was away for too long, and stands by")
        self._leads, self._led_at = leads, at
        return leads

    def _watch_from_behind(self, leader: Beat, at: float) -> dict[object, Beat]:
        """Who leads, and the ticks in hand: where both are gone, they are taken up together."""
        standings, abandoned = self._store.standing(self._clock.now())
        running = [*(one.running for one in standings if one.running), *abandoned]
        return self._watch.look({_LEADER: leader, **self._others(running)}, at=at)

    def _resign(self) -> None:
        if self._leads:
            self._store.lead.resign(self._hands.name)
            self._leads = False

    # Alerts -----------------------------------------------------------------------------------------------------------

    def _send_alerts(self) -> None:
        """Have the alerts that wait sent, now and then."""
        at, deliver = self._clock.monotonic(), self._deliver
        if deliver is None or (self._delivered_at is not None and at - self._delivered_at < DELIVER_S):
            return
        if self._delivery is not None:
            if (result := self._delivery.result()) is None:
                return
            if isinstance(result, BaseException):
                self._tell_once("alerts", f"alerts wait: {result}")
        self._delivered_at = at
        self._delivery = self._begin(lambda: deliver(self._clock.now()) or True)

    def _tell_once(self, what: str, text: str) -> None:
        """Tell it, unless the same was told of this last time."""
        if self._said.get(what) != text:
            self._said[what] = text
            self._tell(text)


def _due_of(tick: TickRow) -> Due:
    return Due(at=tick.due, missed=tick.missed, first=tick.first)
