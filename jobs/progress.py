"""How a run tells people how it gets on: a bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cluster.pool import Outcome
from cluster.telemetry import WorkerSample

LINE_EVERY_S = 10.0


def watcher(*, quiet: bool = False) -> Bar | Lines:
    """The watcher that suits where stderr goes."""
    if sys.stderr.isatty() and not quiet:
        return Bar()
    return Lines(every_s=float("inf") if quiet else LINE_EVERY_S)


class Bar:
    """A progress bar."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, style="dim", highlight=False, markup=False)

    def begin(self, total: int, already: int) -> None:
        """Show the bar."""
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("tiles"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", style="cyan"),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._progress.add_task("tiles", total=total, completed=already, rate="loading the model …")
        self._progress.start()

    def tile(self, outcome: Outcome, samples: list[WorkerSample]) -> None:
        """Move the bar."""
        if self._progress is None:
            return
        elapsed = self._progress.tasks[0].elapsed or 1e-9
        area = sum(sample.area_km2 for sample in samples)
        rate = f"{len(samples)} GPU · {area * 3600 / elapsed:,.1f} km²/h"
        self._progress.update(self._progress.tasks[0].id, advance=1, rate=rate)
        if outcome.error is not None:
            self.say(f"given up: {outcome.error}")

    def end(self) -> None:
        """Leave the bar as it stands."""
        if self._progress is not None:
            self._progress.stop()


class Lines:
    """A line of news every so often: for logs."""

    def __init__(self, *, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._begun = self._told = clock()
        self._total = self._done = self._fresh = 0

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)

    def begin(self, total: int, already: int) -> None:
        """How much there is."""
        self._begun = self._told = self._clock()
        self._total, self._done = total, already
        self.say(f"{total} tiles, {already} of them done before")

    def tile(self, outcome: Outcome, samples: list[WorkerSample]) -> None:
        """A line, if it is time for one; failures at once."""
        self._done += 1
        self._fresh += 1
        now = self._clock()
        if self._fresh == 1:
            self._begun = now  # until then workers were starting, which says nothing of their pace
        if outcome.error is not None:
            self.say(f"given up: {outcome.error}")
        if now - self._told >= self._every_s and self._fresh > 1:
            self._told = now
            rate = (self._fresh - 1) / max(now - self._begun, 1e-9)
            left_s = (self._total - self._done) / max(rate, 1e-9)
            self.say(f"{self._done}/{self._total} tiles, {rate:.2f} tiles/s, about {left_s:.0f} s left")

    def end(self) -> None:
        """The last count."""
        self.say(f"{self._done}/{self._total} tiles")
