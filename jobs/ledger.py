"""The state of every tile of a run, beside the mosaic: append-only parts, one writer.

    <mosaic>/.resmap/runs/<run>/
      job.yaml       the job as it was given
      area.wkb       its area, resolved
      items.parquet  the frozen search (stac-geoparquet); row n is n in the source layer, and n + ``sources_from`` of
                     run.json where a monitor's run renews what others have mapped (``jobs/renewal.py``)
      tiles.parquet  the plan; row n is tile n of the ledger
      ledger/        part-e000001-000001-<write id>.parquet …   a row an outcome; a tile's last row is its state
      levels/        part-e000001-000001-<write id>.parquet …   a row a shard of a coarser level, as it was built
      live.json, telemetry/, events/   what workers said of themselves: ``jobs/telemetry.py``
      run.json       what ran: versions, model, weights, workers, times, state, and what ``grid`` and ``step`` of
                     tiles.parquet number: ``grids`` by name, ``steps`` by moment

A row is added after its tile is written. What a killed run had written and not yet recorded is written again, to
the same bytes. How parts are ordered, and merged as they grow many, is said in ``jobs/parts.py``.

A run of a continent has millions of rows: whoever wants to know something of all of them takes columns, batch by batch.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cluster.shard_state import FINISHED as FINISHED
from cluster.shard_state import GIVEN_UP as GIVEN_UP
from jobs.lease import NOBODY, Held
from jobs.parts import MERGE, Ledger, Parts
from jobs.telemetry import EVENTS, ROWS, Event, Live, Row, each_once, live_from, live_json, rows_table
from jobs.tile_file import TilePlaces, read_items, read_places, read_tiles, write_tiles
from jobs.tile_table import TileTable
from mapper.errors import MosaicError
from mapper.failpoints import reach
from mapper.patience import PATIENT
from mapper.storage import EngineName, Folder, state_folder

State = Literal["done", "nodata", "failed", "quarantined"]

ROWS_IN_HAND = 1024
"""Rows that are Python objects at a time."""

NEWEST_PARTS = 16
"""Parts of what workers said that are fetched before they are asked for: most readers want the last minutes."""

_ROWS = pa.schema(
    [
        ("tile", pa.int64()),
        ("state", pa.string()),
        ("attempts", pa.int32()),
        ("worker", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
        ("prompts", pa.list_(pa.string())),
        ("checksums", pa.list_(pa.uint32())),
        ("source_checksum", pa.uint32()),
        ("present_px", pa.list_(pa.int64())),
        ("asked_px", pa.int64()),
        ("seen_px", pa.int64()),
        ("windows", pa.int32()),
        ("seam", pa.float64()),
        ("read_s", pa.float64()),
        ("infer_s", pa.float64()),
        ("write_s", pa.float64()),
        ("cause", pa.string()),
        ("error", pa.string()),
    ]
)
_BUILT = pa.schema(
    [
        ("key", pa.string()),
        ("prompts", pa.list_(pa.string())),
        ("tiles", pa.list_(pa.int64())),
        ("checksums", pa.list_(pa.uint32())),
        ("source_checksum", pa.uint32()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One outcome of one tile."""

    tile: int
    state: State
    attempts: int
    worker: str
    at: datetime
    prompts: tuple[str, ...] = ()
    """Names of the prompts written."""

    checksums: tuple[int, ...] = ()
    """CRC-32 of mask and score, one a prompt."""

    source_checksum: int | None = None
    present_px: tuple[int, ...] = ()
    asked_px: int = 0
    seen_px: int = 0
    windows: int = 0
    seam: float | None = None
    read_s: float = 0.0
    infer_s: float = 0.0
    write_s: float = 0.0
    cause: str = ""
    """Class of the error."""

    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A tile that was given up, for now or for good."""

    tile: int
    state: State
    cause: str
    """Class of the error."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One shard of a coarser level, as it was put."""

    key: str
    """Zone, time step, level, row and column."""

    prompts: tuple[str, ...]
    """Names of the prompts written."""

    tiles: tuple[int, ...]
    """Finished tiles that lay under it then, one number a prompt."""

    checksums: tuple[int, ...]
    """CRC-32 of mask and score, one a prompt."""

    source_checksum: int


def run_names(mosaic: str, *, engine: EngineName | None = None) -> list[str]:
    """The runs that have a plan, oldest first. ``engine`` as in ``state_folder``."""
    folder = state_folder(mosaic, engine=engine).child("runs")
    names = [path.split("/")[0] for path in folder.names("*/run.json")]
    return sorted(names, key=lambda name: str(RunFolder(mosaic, name, engine=engine).facts().get("created", "")))


@contextlib.contextmanager
def reading_runs(mosaic: str) -> Iterator[None]:
    """While files of a mosaic's runs are read that must be there and whole.

    Raises:
        MosaicError: one is missing or damaged.
    """
    try:
        yield
    except (FileNotFoundError, ValueError, KeyError) as error:  # what JSON and Arrow raise are ValueErrors
        raise MosaicError(
            f"a file of one of its runs is missing or damaged: {error}",
            fix="`resmap verify` names it, and `resmap run JOB --repair` puts it right",
            mosaic=mosaic,
        ) from error


class RunFolder:
    """The files of one run."""

    def __init__(self, mosaic: str, run: str, *, engine: EngineName | None = None) -> None:
        """``engine`` as in ``state_folder``: needed while there is no mosaic yet."""
        self.run = run
        self.mosaic = mosaic
        self._folder = state_folder(mosaic, engine=engine, patience=PATIENT).child("runs").child(run)
        # Rows are not waited for while the store is away: who adds them goes on with its work, and puts them later.
        ledger, levels = (Folder(f"{self._folder.url}/{name}") for name in ("ledger", "levels"))
        self._outcomes = Parts(ledger, _ROWS, few=("state", "worker", "prompts", "cause"))
        self._levels = Parts(levels, _BUILT, few=("prompts",))
        # Nor is a word about the run ever waited for.
        self._hasty = Folder(self._folder.url)
        telemetry, events = (self._hasty.child(name) for name in ("telemetry", "events"))
        self._rows = Parts(telemetry, ROWS, few=("worker", "host", "device"), read_ahead=NEWEST_PARTS)
        self._events = Parts(events, EVENTS, read_ahead=NEWEST_PARTS)

    def exists(self) -> bool:
        """Whether the run has been planned: its last file is there."""
        return self._folder.exists("run.json")

    def save_plan(self, *, job: str, area: bytes, items: bytes, tiles: TileTable, facts: dict[str, Any]) -> None:
        """Put the frozen plan; ``run.json`` last, so that a run either has all of it or is not there."""
        self._folder.write("job.yaml", job.encode())
        self._folder.write("area.wkb", area)
        self._folder.write("items.parquet", items)
        reach("plan-half-saved")
        write_tiles(self._folder, "tiles.parquet", tiles)
        self.save_facts({**facts, "created": _now().isoformat()})

    def job(self) -> str:
        """The job file, as it was given."""
        return self._folder.read("job.yaml").decode()

    def area(self) -> bytes:
        """The area as WKB, longitude and latitude."""
        return self._folder.read("area.wkb")

    def items(self) -> bytes:
        """The frozen search."""
        return self._folder.read("items.parquet")

    def tiles(self) -> TileTable:
        """The planned tiles."""
        return read_tiles(self._folder, "tiles.parquet")

    def places(self) -> TilePlaces:
        """Where the planned tiles lie."""
        return read_places(self._folder, "tiles.parquet")

    def tile_items(self, rows: Collection[int]) -> dict[int, tuple[int, ...]]:
        """Which items show these planned tiles, by row of the item table, in the order in which they are laid."""
        return read_items(self._folder, "tiles.parquet", rows)

    def facts(self) -> dict[str, Any]:
        """What ran: the content of ``run.json``."""
        facts: dict[str, Any] = json.loads(self._folder.read("run.json"))
        return facts

    def save_facts(self, facts: dict[str, Any]) -> None:
        """Put ``run.json`` in place of the last one."""
        reach("before-run-json")
        self._folder.write("run.json", json.dumps(facts, indent=2, sort_keys=True).encode())
        reach("after-run-json")

    def ledger(self, *, clock: Callable[[], float] = time.monotonic, held: Held = NOBODY) -> Ledger[Entry]:
        """The ledger, open for appending by whoever holds the mosaic's lease."""
        return Ledger(self._outcomes, clock=clock, epoch=held.epoch, check=held.check)

    def level_ledger(self, *, clock: Callable[[], float] = time.monotonic, held: Held = NOBODY) -> Ledger[Built]:
        """That of the coarser levels, open for appending."""
        return Ledger(self._levels, clock=clock, epoch=held.epoch, check=held.check)

    def begun(self) -> bool:
        """Whether anything was ever recorded."""
        return bool(self._outcomes.listed())

    @property
    def outcomes(self) -> Parts:
        """The parts of its ledger, for whoever knows some of them already and reads on."""
        return self._outcomes

    def last_words(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """The last row of every tile that has one: each tile once, in any order.

        Args:
            columns: of the ledger, beside ``tile``.

        Raises:
            MosaicError: a part is damaged.
        """
        heard = np.zeros(1, np.bool_)
        for batch in self._outcomes.newest_first(("tile", *columns)):
            tile = batch.column("tile").to_numpy()
            if (beyond := int(tile.max(initial=0)) + 1) > len(heard):
                heard = np.concatenate([heard, np.zeros(max(beyond, 2 * len(heard)) - len(heard), np.bool_)])
            last = last_of_each(tile)
            news = last[~heard[tile[last]]]
            heard[tile] = True
            if len(news):
                yield batch if len(news) == len(batch) else batch.take(pa.array(news))

    def counts(self) -> Counter[str]:
        """State → tiles whose last word it is."""
        counts: Counter[str] = Counter()
        for batch in self.last_words("state"):
            counts += states_in(batch)
        return counts

    def problems(self) -> list[Problem]:
        """The tiles that stand as given up, by row."""
        found = []
        for batch in self.last_words("state", "cause", "error"):
            lost = batch.filter(with_state(batch, GIVEN_UP))
            found += [Problem(**fields) for fields in lost.to_pylist()]
        return sorted(found, key=lambda problem: problem.tile)

    def finished(self) -> NDArray[np.int64]:
        """Rows of the tiles that are finished, in order."""
        found = [batch.filter(with_state(batch, FINISHED)).column("tile").to_numpy()
                 for batch in self.last_words("state")]  # fmt: skip
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def last_entries(self, tiles: Collection[int] | None = None) -> Iterator[Entry]:
        """The last outcome of these tiles, or of all, in any order; few are held at a time."""
        names = [of.name for of in _ROWS if of.name != "tile"]
        for batch in self.last_words(*names):
            wanted = batch if tiles is None else batch.filter(np.isin(batch.column("tile"), list(tiles)))
            yield from (Entry(**fields) for fields in _fields(wanted))

    def states(self) -> dict[int, Entry]:
        """The last outcome of every tile that has one. Holds them all: for runs of a few thousand tiles."""
        return {entry.tile: entry for entry in sorted(self.last_entries(), key=lambda entry: entry.tile)}

    def entries(self) -> Iterator[Entry]:
        """Every outcome, in the order recorded; one may come twice where a merge of parts was cut short."""
        batches = list(self._outcomes.newest_first(_ROWS.names))
        return (Entry(**fields) for batch in reversed(batches) for fields in _fields(batch))

    def built(self, *columns: str) -> Iterator[pa.RecordBatch]:
        """Shards of coarser levels that were put, with their ``key``, as ``Parts.newest_first`` gives them."""
        return self._levels.newest_first(("key", *columns))

    def live(self) -> Live | None:
        """How the run stands, as its driver said last; None where none ever did, or it cannot be read."""
        try:
            return live_from(self._hasty.read("live.json"))
        except (FileNotFoundError, ValueError):
            return None

    def save_live(self, live: Live) -> None:
        """Put ``live.json`` in place of the last one; tries once."""
        self._hasty.write("live.json", live_json(live))

    def telemetry(self, since: datetime | None = None) -> Iterator[pa.RecordBatch]:
        """What workers said every ten seconds, in the columns of ``jobs.telemetry.ROWS``.

        The last batch comes first, and the rows of each are in order; none comes twice, and none where there are none.

        Args:
            since: no row from before; only the parts that this takes are fetched.

        Raises:
            MosaicError: a part is damaged.
        """
        return each_once(self._rows.newest_first(ROWS.names), since)

    def telemetry_ledger(self, *, held: Held = NOBODY) -> Ledger[Row]:
        """``telemetry/``, open for appending; rows are put by ``flush`` alone."""
        return Ledger(self._rows, epoch=held.epoch, check=held.check, flush_every_s=math.inf, largest=MERGE,
                      table=rows_table, books=False)  # fmt: skip

    def events(self, after: int = 0) -> list[Event]:
        """What happened, each once, the newest last.

        Args:
            after: the number of the last one that is known already.

        Raises:
            MosaicError: a part is damaged.
        """
        found: dict[int, Event] = {}
        for batch in self._events.newest_first(EVENTS.names):
            news = [Event(**fields) for fields in batch.to_pylist() if fields["number"] > after]
            found |= {event.number: event for event in news}
            if after and not news:
                break
        return [found[number] for number in sorted(found)]

    def event_ledger(self, *, held: Held = NOBODY) -> Ledger[Event]:
        """``events/``, open for appending; rows are put by ``flush`` alone."""
        return Ledger(self._events, epoch=held.epoch, check=held.check, flush_every_s=math.inf, books=False)


def states_in(batch: pa.RecordBatch) -> Counter[str]:
    """State → rows of a batch, which has its ``state``."""
    said = pc.value_counts(batch.column("state")).to_pylist()
    return Counter({state["values"]: state["counts"] for state in said})


def with_state(batch: pa.RecordBatch, states: Collection[str]) -> pa.Array:
    """Whether each row of a batch, which has its ``state``, has one of these."""
    return pc.is_in(batch.column("state"), value_set=pa.array(sorted(states), pa.string()))


def last_of_each(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions, in order, of the last of each distinct value."""
    _, from_behind = np.unique(values[::-1], return_index=True)
    return np.sort(len(values) - 1 - from_behind)


def _fields(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    for begin in range(0, len(batch), ROWS_IN_HAND):
        for row in batch.slice(begin, ROWS_IN_HAND).to_pylist():
            yield {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


def _now() -> datetime:
    return datetime.now(UTC)
