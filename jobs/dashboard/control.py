"""What the dashboard can do to runs and monitors, as a contract: ``jobs/executor.py`` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jobs.dashboard.monitor_views import Asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a submission."""

    key: str
    """``run_key`` of the run: the same job is the same run, however often it is submitted."""

    run: str
    mosaic: str
    state: str
    """As of ``RunLine``."""

    created: bool
    """Whether this submission is the first of its job; otherwise the run goes on as it is."""


class Control(Protocol):
    """Runs jobs for whoever asks by the API, each in a process of its own."""

    def submit(self, job: str, *, gpus: int | None = None, local: bool = False, by: str = "") -> Submitted:
        """Take a job on, or find it taken on before. It begins as soon as there is room.

        Args:
            job: text of a job file; paths in it are absolute.
            gpus, local: as of ``resmap run``.
            by: who asks, for the audit.

        Raises:
            SpecError: the job is not valid; nothing is kept of it.
        """

    def cancel(self, key: str, *, by: str = "") -> str:
        """End a run after the tiles in hand; one that waits never begins. Gives its state then.

        Raises:
            QuestionError: no such run, or it is not one of ours to end.
        """

    def retry(self, key: str, *, by: str = "") -> Submitted:
        """Take the tiles again that were given up.

        Raises:
            QuestionError: no such run.
        """

    def log(self, key: str, *, after: int = 0) -> tuple[str, int]:
        """What the run's process has said beyond so many bytes, 64 KiB of it at most, and where that ends.

        Raises:
            QuestionError: no such run.
        """

    def pause_monitor(self, name: str, *, by: str = "") -> Asked:
        """Look no more until it is resumed; a tick that is at work ends.

        Raises:
            QuestionError: no such monitor.
        """

    def resume_monitor(self, name: str, *, by: str = "") -> Asked:
        """Look again, from the next due instant on; what was missed meanwhile is caught up with once.

        Raises:
            QuestionError: no such monitor.
        """

    def run_monitor(self, name: str, *, by: str = "") -> Asked:
        """Ask whoever serves monitors for a look beyond its schedule.

        Raises:
            QuestionError: no such monitor, or it is paused.
        """
