"""A resmap server as a program talks to it: ``Client("https://maps.example").submit(Path("job.yaml"))``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import requests

from jobs.connection import DEFAULT_ADDRESS, LONGEST_PAUSE_S, Connection
from jobs.dashboard.control import Submitted
from jobs.dashboard.views import Comparison, Event, RunLine, RunPage
from mapper.errors import AwayError, QuestionError, told

UNDER_WAY = frozenset(("queued", "planned", "running"))
"""States of a run that is not over."""

PATIENCE_S = 120.0
"""How long a server may be away while we follow a run: as long as it takes to start another."""


BELIEVED_S = 3.0
"""A run that was over when we came may just have been submitted again: what is told of it is as old as this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _LogPart:
    text: str
    end: int


class Client:
    """One server. Threads must not share one."""

    def __init__(self, address: str = DEFAULT_ADDRESS, token: str | None = None, *, insecure: bool = False) -> None:
        """Nothing is asked yet.

        Args:
            address: ``https://host[:port][/where it is mounted]``; plain http for this machine.
            token: of the server. None takes ``RESMAP_TOKEN``; for this machine, what the user's own server has kept.
            insecure: send the token though it crosses the network in plain text.

        Raises:
            QuestionError: it is no address.
            CredentialsError: the token would cross the network in plain text.
        """
        self._server = Connection(address, token, insecure=insecure)
        self.address, self.here = self._server.address, self._server.here

    def close(self) -> None:
        """Let go of its connections."""
        self._server.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self, job: Path | str, *, gpus: int | None = None, local: bool = False, same_files: bool = False
    ) -> Submitted:
        """Send a job. The same job is the same run, however often it is sent.

        Args:
            job: a job file; or the text of one, whose paths are absolute.
            gpus, local: as of ``resmap run``.
            same_files: a server elsewhere finds the files of this machine under the same paths.

        Raises:
            SpecError: the job is not valid, or names files of this machine to a server elsewhere.
            MapperError: the server refuses it, does not answer, or is none.
        """
        from jobs.sending import sent

        text = sent(job, here=self.here or same_files)
        body = {"job": text, "gpus": gpus, "local": local}
        return self._server.ask(Submitted, "POST", "runs", body=body)

    def runs(self) -> tuple[RunLine, ...]:
        """All runs that it knows, the latest first."""
        return self._server.ask(tuple[RunLine, ...], "GET", "runs")

    def run(self, key: str) -> RunPage:
        """How a run stands.

        Raises:
            QuestionError: there is none of this key.
        """
        return self._server.ask(RunPage, "GET", f"runs/{_part(key)}")

    def find(self, named: str) -> RunLine:
        """A run, from its key or its name.

        Raises:
            QuestionError: there is none, or there are several.
        """
        found = [line for line in self.runs() if named in (line.id, line.run)]
        if not found:
            raise QuestionError(
                f"no run there is called {told(named, 200)!r}", fix=f"`resmap status --address {self.address}`"
            )
        if len(found) > 1:
            names = ", ".join(line.id for line in found)
            raise QuestionError(f"{len(found)} runs there are called {named}", fix=f"name one: {names}")
        return found[0]

    def wait(self, key: str, *, timeout_s: float | None = None, every_s: float = 1.0) -> RunPage:
        """How a run ended. A server that is away meanwhile is waited for, two minutes at most.

        Raises:
            TimeoutError: it has not ended yet.
            MapperError: the server is away for longer, or refuses us.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        began = heard = time.monotonic()
        seen = False
        while True:
            try:
                page = self.run(key)
                heard = time.monotonic()
                goes_on = page.line.state in UNDER_WAY or page.line.live
                seen = seen or goes_on
                if not goes_on and (seen or heard - began > BELIEVED_S):
                    return page
            except AwayError:
                if time.monotonic() - heard > PATIENCE_S:
                    raise
            if until is not None and time.monotonic() + every_s > until:
                raise TimeoutError(f"run {key} goes on")
            time.sleep(every_s)

    def cancel(self, key: str) -> str:
        """End a run after the tiles in hand. Gives its state then.

        Raises:
            QuestionError: no such run.
            BusyError: the server may not end it; the sentence says who may.
        """
        return self._server.ask(_State, "POST", f"runs/{_part(key)}/cancel", body={}).state

    def retry(self, key: str) -> Submitted:
        """Take the tiles again that were given up.

        Raises:
            QuestionError: no such run.
            BusyError: it is under way, or belongs to another machine.
        """
        return self._server.ask(Submitted, "POST", f"runs/{_part(key)}/retry", body={})

    def log(self, key: str, *, after: int = 0) -> tuple[str, int]:
        """What the run's process has said beyond so many bytes, some of it, and where that ends.

        Raises:
            QuestionError: no such run, or the server has no log of it.
        """
        said = self._server.ask(_LogPart, "GET", f"runs/{_part(key)}/log", params={"after": str(after)})
        return said.text, said.end

    def events(self, key: str, *, after: int | None = None) -> Iterator[RunPage | Event]:
        """The run as it goes: its page whenever that changed, and each event once; it ends with the run.

        A connection that breaks is made again, where it was left.

        Args:
            key: of the run.
            after: number of the last event that is known already; None begins with what happens from now on.

        Raises:
            QuestionError: there is no such run.
            MapperError: the server is away for two minutes, or refuses us.
        """
        last, heard, pause = after, time.monotonic(), 0.5
        while True:
            try:
                for message in self._server.stream(f"runs/{_part(key)}/events", last):
                    heard, pause = time.monotonic(), 0.5
                    if message.event == "over":
                        return
                    if message.event == "page":
                        yield self._server.value(RunPage, message.data)
                    elif message.event == "happened":
                        event = self._server.value(Event, message.data)
                        if last is None or event.number > last:
                            last = event.number
                            yield event
            except (AwayError, requests.RequestException) as error:
                if time.monotonic() - heard > PATIENCE_S:
                    raise self._server.away(error) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def compare(self, a: str, b: str) -> Comparison:
        """Two runs side by side.

        Raises:
            QuestionError: one of them is not there.
        """
        return self._server.ask(Comparison, "GET", "compare", params={"a": a, "b": b})


def _part(key: str) -> str:
    return quote(key, safe="")
