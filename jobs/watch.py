"""Who is told how a run gets on."""

from __future__ import annotations

from typing import Protocol

from cluster.pool import Outcome
from cluster.telemetry import WorkerSample


class Watcher(Protocol):
    """Is told how a run gets on."""

    def say(self, text: str) -> None:
        """One line of news."""

    def begin(self, total: int, already: int) -> None:
        """So many tiles in all, so many of them done before."""

    def tile(self, outcome: Outcome, samples: list[WorkerSample]) -> None:
        """A tile is over."""

    def end(self) -> None:
        """No more tiles."""


class Silent:
    """A watcher that says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def begin(self, total: int, already: int) -> None:
        """Nothing."""

    def tile(self, outcome: Outcome, samples: list[WorkerSample]) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""
