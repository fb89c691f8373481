"""The state of every tile of a run, beside the mosaic: append-only parts, one writer.

    <mosaic>/.resmap/runs/<run>/
      job.yaml       the job as it was given
      area.wkb       its area, resolved
      items.parquet  the frozen search (stac-geoparquet); row n is item n in the source layer
      tiles.parquet  the plan; row n is tile n of the ledger
      ledger/        part-000001-<write id>.parquet …   a row an outcome; the last row of a tile is its state
      levels/        part-000001-<write id>.parquet …   a row a shard of a coarser level, as it was built
      run.json       what ran: versions, model, weights, workers, times, state

A row is added after its tile is written. What a killed run had written and not yet recorded is written again, to
the same bytes.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.tile_table import PlannedTile, TileTable
from mapper.errors import MosaicError
from mapper.storage import EngineName, Folder, state_folder

Row = TypeVar("Row")
State = Literal["done", "nodata", "failed", "quarantined"]
FINISHED: frozenset[str] = frozenset({"done", "nodata"})

FLUSH_EVERY_S = 1.0
"""What a killed driver forgets at most: tiles that it would do again."""

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
_TILES = pa.schema(
    [
        ("grid", pa.int16()),
        ("step", pa.int32()),
        ("row", pa.int32()),
        ("column", pa.int32()),
        ("clipped", pa.bool_()),
        ("items", pa.list_(pa.int32())),
        ("key", pa.string()),
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


class RunFolder:
    """The files of one run."""

    def __init__(self, mosaic: str, run: str, *, engine: EngineName | None = None) -> None:
        """``engine`` as in ``state_folder``: needed while there is no mosaic yet."""
        self.run = run
        self.mosaic = mosaic
        self._folder = state_folder(mosaic, engine=engine).child("runs").child(run)

    def exists(self) -> bool:
        """Whether the run has been planned: its last file is there."""
        return self._folder.exists("run.json")

    def save_plan(
        self,
        *,
        job: str,
        area: bytes,
        items: bytes,
        tiles: Sequence[PlannedTile],
        keys: Iterable[str],
        facts: dict[str, Any],
    ) -> None:
        """Put the frozen plan; ``run.json`` last, so that a run either has all of it or is not there."""
        table = pa.Table.from_pylist(
            [
                {"grid": t.grid, "step": t.step, "row": t.row, "column": t.column, "clipped": t.clipped,
                 "items": list(t.items), "key": key}
                for t, key in zip(tiles, keys, strict=True)
            ],
            schema=_TILES,
        )  # fmt: skip
        self._folder.write("job.yaml", job.encode())
        self._folder.write("area.wkb", area)
        self._folder.write("items.parquet", items)
        self._folder.write("tiles.parquet", _to_bytes(table))
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
        columns = self._table("tiles.parquet").to_pylist()
        return TileTable.of(
            PlannedTile(
                grid=row["grid"], step=row["step"], row=row["row"], column=row["column"], clipped=row["clipped"],
                items=tuple(row["items"]),
            )
            for row in columns
        )  # fmt: skip

    def keys(self) -> list[str]:
        """The names of its tiles, in order."""
        keys: list[str] = self._table("tiles.parquet").column("key").to_pylist()
        return keys

    def facts(self) -> dict[str, Any]:
        """What ran: the content of ``run.json``."""
        facts: dict[str, Any] = json.loads(self._folder.read("run.json"))
        return facts

    def save_facts(self, facts: dict[str, Any]) -> None:
        """Put ``run.json`` in place of the last one."""
        self._folder.write("run.json", json.dumps(facts, indent=2, sort_keys=True).encode())

    def entries(self) -> Iterator[Entry]:
        """Every outcome, in the order recorded."""
        for fields in self._rows("ledger"):
            yield Entry(**fields)

    def built(self) -> Iterator[Built]:
        """Every shard of a coarser level that was put, in order; one that was built again comes again."""
        for fields in self._rows("levels"):
            yield Built(**fields)

    def states(self) -> dict[int, Entry]:
        """The last outcome of every tile that has one."""
        return {entry.tile: entry for entry in self.entries()}

    def ledger(self, *, clock: Callable[[], float] = time.monotonic) -> Ledger[Entry]:
        """The ledger, open for appending."""
        return Ledger(self._folder, "ledger", _ROWS, clock=clock)

    def level_ledger(self, *, clock: Callable[[], float] = time.monotonic) -> Ledger[Built]:
        """That of the coarser levels, open for appending."""
        return Ledger(self._folder, "levels", _BUILT, clock=clock)

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        for part in self._folder.names(f"{name}/part-*.parquet"):
            for row in self._table(part).to_pylist():
                yield {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}

    def _table(self, name: str) -> pa.Table:
        content = io.BytesIO(self._folder.read(name))
        try:
            return pq.read_table(content, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:  # a page that fails its checksum is an OSError to pyarrow
            raise MosaicError(
                "a file of the run cannot be read: it is damaged",
                fix="bring it back from a copy; a ledger part may also be deleted: its tiles are then mapped again",
                file=f"{self._folder.url}/{name}",
            ) from error


class Ledger(Generic[Row]):
    """Appends what happened, a part every second."""

    def __init__(self, folder: Folder, name: str, schema: pa.Schema, *, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._name = name
        self._schema = schema
        self._part = len(folder.names(f"{name}/part-*.parquet")) + 1
        self._clock = clock
        self._rows: list[dict[str, Any]] = []
        self._flushed = clock()

    def record(self, entry: Row) -> None:
        """Add one row; on disk within a second, if more come, or at ``flush``."""
        self._rows.append({field: getattr(entry, field) for field in self._schema.names})
        if self._clock() - self._flushed >= FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Put what is not yet on disk as one part."""
        if self._rows:
            # The write id keeps two writers that should not both be here from replacing each other's parts.
            name = f"{self._name}/part-{self._part:06d}-{uuid.uuid4().hex[:8]}.parquet"
            self._folder.write(name, _to_bytes(pa.Table.from_pylist(self._rows, schema=self._schema)))
            self._part += 1
            self._rows = []
        self._flushed = self._clock()


def _to_bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", store_schema=True, write_page_checksum=True)
    return sink.getvalue()


def _now() -> datetime:
    return datetime.now(UTC)
