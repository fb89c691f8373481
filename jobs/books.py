"""The books of a run: what a worker hands in is entered once its pixels are safe, and may make a coarser shard due."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cluster.pool import Outcome
from cluster.shard_state import ShardStates, given_up
from cluster.telemetry import Telemetry
from jobs.lease import NOBODY, Held
from jobs.ledger import Built, Entry
from jobs.levels import Due, Levels
from jobs.parts import AWAY_S
from jobs.prepare import Prepared
from jobs.standing import Standing
from jobs.telemetry import Happened, unheard
from jobs.watch import Watcher
from mapper.errors import StoreError
from mapper.failpoints import reach
from mapper.map_tile import TileResult
from mapper.mosaic import Mosaic
from mapper.pyramid import LevelResult, LevelTask

SHARDS_OUT = 1024
"""Shards of coarser levels that are handed out and not over, at most: a run may begin with a million that are due."""

AGAIN_S = 2.0
"""How long a store that did not answer is left alone."""


@dataclass(slots=True)
class Tally:
    """What a run has seen so far."""

    telemetry: Telemetry = field(default_factory=Telemetry)
    seam_sum: float = 0.0
    """Seams of all tiles that have one, each times its windows."""

    seam_windows: int = 0
    worked: int = 0
    levels: list[tuple[str, str, str]] = field(default_factory=list)
    """Shards of coarser levels that were given up: name, error, cause."""

    begun: float = field(default_factory=time.monotonic)
    """When the workers were ready: throughput is counted from here."""

    ended: float = field(default_factory=time.monotonic)

    def count(self, result: TileResult) -> None:
        """Take in a tile that was mapped."""
        self.worked += 1
        if result.seam is not None:
            self.seam_sum += result.seam * result.windows
            self.seam_windows += result.windows

    @property
    def seam(self) -> float | None:
        """Mean over all windows of this session."""
        return self.seam_sum / self.seam_windows if self.seam_windows else None


class Books:
    """Keeps the ledgers of one run. ``enter`` what is over; ``more`` makes it safe and says what has become due."""

    def __init__(
        self,
        prepared: Prepared,
        mosaic: Mosaic,
        standing: Standing,
        tally: Tally,
        watcher: Watcher,
        *,
        held: Held = NOBODY,
        happened: Happened = unheard,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open them.

        Args:
            prepared: the run.
            mosaic: which it writes.
            standing: how far it is.
            tally: what this sitting has seen.
            watcher: who is told of each tile.
            held: the lease of the mosaic; nothing is entered, committed or handed out once it is lost.
            happened: told of tiles and shards that are given up, and of a store that is away.
            clock: seconds.
            sleep: waits, where nothing else is left to do and the store is away.
        """
        self._plan, self._run, self._output = prepared.plan, prepared.run, prepared.job.spec.output
        self._mosaic, self._tally, self._watcher, self._clock = mosaic, tally, watcher, clock
        self._names = [prompt.name for prompt in mosaic.prompts]
        self._lease, self._happened, self._sleep = held, happened, sleep
        self._tiles = prepared.folder.ledger(clock=clock, held=held)
        self._shards = prepared.folder.level_ledger(clock=clock, held=held)
        self._states = ShardStates(len(prepared.plan.tiles))
        """Of the tiles, in this sitting: none is entered twice."""

        self._levels = Levels(
            prepared.plan, wanted=standing.wanted.rows, finished=standing.finished, built=standing.built
        )
        self._due: dict[int, Due] = {}
        self._held: list[Outcome] = []
        self._receipts: list[bytes] = []
        """Of what is held back; none where the engine needs no commit."""

        self._safe_at = clock()
        self._away_since: float | None = None
        """When the store first did not answer, and has not since."""

        self._again_at = clock()
        self._told_away: float | None = None
        """Since when the store has been said to be away; None while it is not."""

    def enter(self, outcome: Outcome) -> None:
        """Take in what is over: each task once.

        Raises:
            MapperError: it was entered before.
        """
        if not isinstance(outcome.task, LevelTask):
            self._states.move(outcome.task.id, "leased")
            if outcome.result is not None:
                self._states.move(outcome.task.id, "written")
        self._held.append(outcome)
        if outcome.result is not None and outcome.result.receipt is not None:
            self._receipts.append(outcome.result.receipt)
        if isinstance(outcome.result, TileResult):
            self._tally.count(outcome.result)
        if not isinstance(outcome.task, LevelTask):
            asked_px = outcome.result.asked_px if isinstance(outcome.result, TileResult) else 0
            self._tally.telemetry.record(outcome, area_km2=asked_px * self._plan.pixel_km2(outcome.task.id))
            self._watcher.tile(outcome, list(self._tally.telemetry.samples()))

    def more(self, idle: bool) -> Sequence[LevelTask]:
        """The shards of coarser levels that can be built now.

        Args:
            idle: whether nothing else is left to do, so that what is held back must be made safe now.

        Raises:
            BusyError: another driver has taken the mosaic over.
            StoreError: what was written could not be committed or entered, for ``AWAY_S``.
        """
        late = self._clock() - self._safe_at >= self._output.commit_s
        if idle or late or len(self._held) >= self._output.commit_shards or not self._receipts:
            safe = self._patiently(self._lease.check, self._settle, wait=idle)
        else:
            safe = self._patiently(self._lease.check, wait=False)
        self._tell_of_store(safe)
        if not safe:
            return []
        due = self._levels.take(SHARDS_OUT - len(self._due))
        self._due |= {one.task.id: one for one in due}
        return [one.task for one in due]

    @property
    def levels_behind(self) -> bool:
        """Whether coarser levels lack something that finished tiles could give them."""
        return bool(self._tally.levels or self._due) or self._levels.behind

    def close(self) -> None:
        """Make safe and enter all that was handed in."""
        self._tell_of_store(self._patiently(self._settle, self._tiles.flush, self._shards.flush, wait=True))
        self._tally.ended = self._clock()

    def _patiently(self, *acts: Callable[[], None], wait: bool) -> bool:
        """Do these one after the other; whether all were done. Where the store does not answer, nothing is lost by it:
        all are done again, a little later.

        Args:
            acts: each can be done again after it failed.
            wait: do not come back before they are done.
        """
        while wait or self._clock() >= self._again_at:
            try:
                for act in acts:
                    act()
            except StoreError as error:
                self._tell_of_store(False, error.what)
                now = self._clock()
                self._away_since = now if self._away_since is None else self._away_since
                if now - self._away_since >= AWAY_S:
                    raise
                pause_s = max(AGAIN_S, min(error.wait_s or 0.0, AWAY_S))
                self._again_at = now + pause_s
                if wait:
                    self._sleep(pause_s)
                continue
            self._away_since = None
            return True
        return False

    def _tell_of_store(self, answers: bool, said: str = "") -> None:
        """Once when it is away, and once when it is back."""
        away = not answers or self._tiles.away or self._shards.away
        if away and self._told_away is None:
            self._told_away = self._clock()
            why = f": {said}" if said else ""
            self._happened("warning", f"the store of the mosaic does not answer; what is done is kept in hand{why}")
        elif not away and self._told_away is not None:
            away_s = self._clock() - self._told_away
            self._happened("warning", f"the store of the mosaic answers again, after {away_s:.0f} s")
            self._told_away = None

    def _settle(self) -> None:
        """First the pixels, then the books: an entry must never speak of pixels that are not there."""
        if self._held:
            self._lease.check()
        if self._receipts:
            self._mosaic.commit(self._receipts, f"{len(self._receipts)} shards", {"run": self._run})
        held, self._held, self._receipts = self._held, [], []
        reach("put-before-ledger")
        self._safe_at = self._clock()
        for outcome in held:
            if isinstance(outcome.task, LevelTask):
                self._enter_shard(outcome)
            else:
                entry = tile_entry(outcome, self._names)
                self._states.move(entry.tile, entry.state)
                self._tiles.record(entry)
                if outcome.error is not None:
                    self._given_up(outcome.task.name, outcome, entry.tile)
                written = outcome.result.checksums if outcome.result is not None else ()
                self._levels.tile_over(outcome.task.id, [prompt for prompt, _ in written])

    def _enter_shard(self, outcome: Outcome) -> None:
        due, result = self._due.pop(outcome.task.id), outcome.result
        if isinstance(result, LevelResult):
            self._shards.record(
                Built(
                    key=due.shard.key(self._plan),
                    prompts=tuple(self._names[prompt] for prompt, _ in result.checksums),
                    tiles=due.tiles,
                    checksums=tuple(crc for _, crc in result.checksums),
                    source_checksum=result.source_checksum,
                )
            )
        elif outcome.error is not None:
            self._tally.levels.append((outcome.task.name, str(outcome.error), type(outcome.error).__name__))
            self._given_up(outcome.task.name, outcome)
        self._levels.shard_over(due, built=result is not None)

    def _given_up(self, name: str, outcome: Outcome, tile: int | None = None) -> None:
        tries = f"{outcome.attempts} {'try' if outcome.attempts == 1 else 'tries'}"
        said = f"{name} is given up after {tries}: {type(outcome.error).__name__}: {outcome.error}"
        self._happened("given-up", said, tile)


def tile_entry(outcome: Outcome, names: Sequence[str]) -> Entry:
    """What the ledger says of a tile that is over.

    Args:
        outcome: of a tile.
        names: of the mosaic's prompts, in the order of its axis.
    """
    result, error = outcome.result, outcome.error
    common = {
        "tile": outcome.task.id,
        "attempts": outcome.attempts,
        "worker": outcome.worker,
        "at": datetime.now(UTC),
    }
    if not isinstance(result, TileResult):
        assert error is not None  # an outcome has one or the other
        return Entry(**common, state=given_up(error), cause=type(error).__name__, error=str(error))  # type: ignore[arg-type]
    return Entry(
        **common,  # type: ignore[arg-type]
        state="nodata" if result.nodata else "done",
        prompts=tuple(names[prompt] for prompt, _ in result.checksums),
        checksums=tuple(crc for _, crc in result.checksums),
        source_checksum=result.source_checksum,
        present_px=result.present_px,
        asked_px=result.asked_px,
        seen_px=result.seen_px,
        windows=result.windows,
        seam=result.seam,
        read_s=result.seconds["read"],
        infer_s=result.seconds["infer"],
        write_s=result.seconds["write"],
    )
