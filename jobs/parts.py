"""Rows that are only ever added: small files in a folder, one writer, read in columns.

    part-e000002-000063-1f0c9a2b.parquet               the 63rd part, put in the 2nd epoch: what came up within a second
    part-e000002-000064-last-000064-77ab01fe.parquet   up to number 64, the last 64 of them in one
    part-e000003-004096-last-004096-e3d59c40.parquet   and the last 4096 of them
    part-000063-1f0c9a2b.parquet                       as there were before epochs: of epoch 0

The order of the rows is that of the epochs, then of the numbers, then of the sizes. An epoch is one taking of the
mosaic's lease (``jobs/lease.py``): a writer that was stopped and wakes up in a later one adds rows before those of its
successor, and overrides none. A merged part follows all that it is made of. It is put before those are removed, so a
writer may be killed at any moment. What it leaves then is rows that come twice, and the last of them is the same. By
name the order is the same too, so a listing that is under way while parts are merged meets the merged one last, and
misses nothing.
"""

from __future__ import annotations

import io
import re
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mapper.errors import MapperError, MosaicError, StoreError
from mapper.failpoints import reach
from mapper.storage import Folder

Row = TypeVar("Row")

FLUSH_EVERY_S = 1.0
"""What a killed driver forgets at most: tiles that it would do again."""

AWAY_S = 300.0
"""How long rows are kept in hand while the store does not take them."""

MERGE = 64
"""Parts of one size that become one: a week of a part a second is then read in about 200 files, not in 600,000."""

LARGEST = MERGE**2
"""Parts in one at most. A larger one would not be written in a moment, nor held in memory while it is."""

READERS = 16
"""Parts fetched at once: a store answers after some 30 ms."""

READ_AHEAD = 2 * LARGEST
"""Parts fetched before they are asked for, each counted as what it was merged from: bounds the memory they take."""

BATCH_ROWS = 1 << 15
RELISTED = 5
"""How often the folder is listed again because a part has been merged away: once an hour of a run, it is two."""

_NAME = re.compile(r"part-(?:e(\d{6,})-)?(\d{6,})-(?:last-(\d{6,})-)?[0-9a-f]{8}\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One file. Their order is that of the rows."""

    epoch: int
    """In which the last part in it was put."""

    number: int
    """Of the last part in it."""

    count: int
    """How many parts it was made of."""

    name: str

    @property
    def first(self) -> int:
        """Number of the first part in it."""
        return self.number - self.count + 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """What is in one part."""

    count: int
    batches: Iterator[pa.RecordBatch]
    """The last comes first, and the rows of each are in order. Read once, and decoded only then."""


class Parts:
    """The parts of one kind."""

    def __init__(
        self, folder: Folder, schema: pa.Schema, *, few: Sequence[str] = (), read_ahead: int = READ_AHEAD
    ) -> None:
        """Look at nothing yet.

        Args:
            folder: which holds them, and nothing else.
            schema: of a row.
            few: columns of text, or of lists of text, that say a few things again and again: they are read as numbers
                into a list of what is said.
            read_ahead: as ``READ_AHEAD``; less where readers mostly want the newest alone.
        """
        self.schema = schema
        self._folder = folder
        self._most_ahead = read_ahead
        self._few = [f"{name}.list.element" if pa.types.is_list(schema.field(name).type) else name for name in few]

    def listed(self) -> list[Part]:
        """All that are there, in order.

        Raises:
            MosaicError: a file beside them has a name that puts it nowhere in this order.
        """
        parts = []
        for name in self._folder.names("part-*.parquet"):
            known = _NAME.fullmatch(name)
            if known is None:
                raise MosaicError(
                    "a file among the ledger's parts is none of them",
                    fix="take it away",
                    file=f"{self._folder.url}/{name}",
                )
            parts.append(Part(int(known[1] or 0), int(known[2]), int(known[3] or 1), name))
        return sorted(parts)

    def newest_first(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows in batches: the last batch comes first, and the rows of each are in order.

        Where a writer merges parts meanwhile, rows that were given may come again, after those that followed them; so
        the first that is heard of anything is always the last word on it.

        Raises:
            MosaicError: a part is damaged.
        """
        for _ in range(RELISTED):
            whole = True
            for part, content in self._read_ahead(self.listed()[::-1]):
                if content is None:
                    whole = False
                else:
                    yield from self._batches(part, content, columns)
            if whole:
                return
        raise MosaicError(
            "the parts of a ledger are gone as soon as they are listed",
            fix="try again once the run that writes it has ended",
            folder=self._folder.url,
        )

    def each(self, parts: Sequence[Part], columns: Sequence[str]) -> Iterator[tuple[Part, Rows | None]]:
        """These parts, one after the other, each with its rows; None for one that is gone, which another has taken in.

        Raises:
            MosaicError: a part is damaged.
        """
        for part, content in self._read_ahead(parts):
            if content is None:
                yield part, None
                continue
            yield part, Rows(count=self._count(part, content), batches=self._batches(part, content, columns))

    def write(self, part: Part, table: pa.Table) -> Part:
        """Put a part. Putting it again is safe: it replaces itself, so nobody need know whether it arrived."""
        self._folder.write(part.name, to_parquet(table))
        return part

    def merge(self, parts: Sequence[Part]) -> Part:
        """Put neighbours as one, then remove them.

        Args:
            parts: in order, and all that lie between the first and the last.
        """
        with ThreadPoolExecutor(READERS) as hands:
            contents = hands.map(self._folder.read, [part.name for part in parts])
            tables = [pq.read_table(io.BytesIO(content), page_checksum_verification=True) for content in contents]
            count = max(part.number for part in parts) - min(part.first for part in parts) + 1
            merged = self.write(new_part(parts[-1].epoch, parts[-1].number, count=count), pa.concat_tables(tables))
            list(hands.map(self._folder.remove, [part.name for part in parts]))
        return merged

    def _read_ahead(self, parts: Sequence[Part]) -> Iterator[tuple[Part, bytes | None]]:
        """Parts and their contents, None where one is gone; they are fetched in threads before they are asked for."""
        ahead: deque[tuple[Part, Future[bytes | None]]] = deque()
        held = 0
        hands = ThreadPoolExecutor(READERS)
        try:
            for part in parts:
                ahead.append((part, hands.submit(self._content, part)))
                held += part.count
                while held > self._most_ahead:
                    first, coming = ahead.popleft()
                    held -= first.count
                    yield first, coming.result()
            while ahead:
                first, coming = ahead.popleft()
                yield first, coming.result()
        finally:
            hands.shutdown(cancel_futures=True)

    def _content(self, part: Part) -> bytes | None:
        try:
            return self._folder.read(part.name)
        except FileNotFoundError:
            return None

    def _batches(self, part: Part, content: bytes, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows of a part, the last batch first; columns that it does not have are left out.

        They are decoded in the thread that asks: Arrow keeps memory for every thread that it ever worked in.
        """
        try:
            file = self._file(content)
            # One by one: pyarrow joins no lists whose texts are numbered anew in each row group.
            for group in reversed(range(file.num_row_groups)):
                rows = file.read_row_group(group, columns=list(columns), use_threads=False)
                yield from reversed(rows.to_batches(max_chunksize=BATCH_ROWS))
        except (pa.ArrowException, OSError) as error:  # a page that fails its checksum is an OSError to pyarrow
            raise damaged(self._folder, part.name) from error

    def _count(self, part: Part, content: bytes) -> int:
        try:
            return int(self._file(content).metadata.num_rows)
        except (pa.ArrowException, OSError) as error:
            raise damaged(self._folder, part.name) from error

    def _file(self, content: bytes) -> pq.ParquetFile:
        return pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True, read_dictionary=self._few)


class Ledger(Generic[Row]):
    """Appends what happened, a part every second, and merges parts as they grow many."""

    def __init__(
        self,
        parts: Parts,
        *,
        clock: Callable[[], float] = time.monotonic,
        epoch: int = 0,
        check: Callable[[], None] = lambda: None,
        flush_every_s: float = FLUSH_EVERY_S,
        largest: int = LARGEST,
        table: Callable[[Sequence[Row], pa.Schema], pa.Table] | None = None,
        books: bool = True,
    ) -> None:
        """List what is there.

        Args:
            parts: to add to.
            clock: seconds.
            epoch: of the writer's lease; its rows come after all that are there in any case.
            check: raises where the writer has lost its lease; asked before anything is put or removed.
            flush_every_s: ``record`` puts what there is no oftener; infinite where ``flush`` alone does.
            largest: parts in one at most, ``MERGE`` or ``LARGEST``: rows of many parts must fit into memory.
            table: rows in the columns of a schema; where left out, its names are their attributes.
            books: whether they are what a run is resumed from: then a process can be made to die as it puts them.
        """
        self._parts, self._check = parts, check
        self._flush_every_s, self._largest, self._books = flush_every_s, largest, books
        self._table = table or _by_attributes
        self._there = parts.listed()
        self._next = max((part.number for part in self._there), default=0) + 1
        self._epoch = max([epoch, *(part.epoch for part in self._there)])
        self._clock = clock
        self._rows: list[Row] = []
        self._put: Part | None = None
        """What is put next; kept until it arrived, so that one whose answer was lost is not there twice."""

        self._flushed = clock()
        self._failing_since: float | None = None
        self._merging = True

    @property
    def away(self) -> bool:
        """Whether the store did not take the last rows it was given."""
        return self._failing_since is not None

    def record(self, row: Row) -> None:
        """Add one row; on disk within a second, if more come, or at ``flush``. A store that does not answer is tried
        again with the next row, for ``AWAY_S``; then its error is raised."""
        self._rows.append(row)
        if self._clock() - self._flushed < self._flush_every_s:
            return
        try:
            self.flush()
        except StoreError:
            now = self._clock()
            self._failing_since = now if self._failing_since is None else self._failing_since
            if now - self._failing_since >= AWAY_S:
                raise
            self._flushed = now

    def flush(self) -> None:
        """Put what is not yet on disk as one part. Where that fails, nothing is forgotten: flush again.

        Raises:
            BusyError: another writer has taken over.
            StoreError, MosaicError, CredentialsError: it cannot be put.
        """
        if self._rows:
            self._check()
            if self._books:
                reach("before-ledger-part")
            self._put = self._put or new_part(self._epoch, self._next)
            self._there.append(self._parts.write(self._put, self._table(self._rows, self._parts.schema)))
            if self._books:
                reach("after-ledger")
            self._next += 1
            self._rows, self._put, self._failing_since = [], None, None
            self._merge()
        self._flushed = self._clock()

    def _merge(self) -> None:
        """One merge at most: a ledger that begins with many parts is put in order while the run goes on."""
        chosen = to_merge(self._there, largest=self._largest) if self._merging else None
        if chosen is None:
            return
        try:
            self._there[chosen] = [self._parts.merge(self._there[chosen])]
        except (MapperError, OSError, pa.ArrowException):
            self._merging = False  # a part is damaged, or the store is: nothing is lost but speed, the parts stay


def new_part(epoch: int, number: int, *, count: int = 1) -> Part:
    """A part that is to be put, with a name of its own: two writers never replace each other's."""
    order = f"e{epoch:06d}-{number:06d}" if epoch else f"{number:06d}"
    merged = f"last-{count:06d}-" if count > 1 else ""
    return Part(epoch, number, count, f"part-{order}-{merged}{uuid.uuid4().hex[:8]}.parquet")


def _by_attributes(rows: Sequence[object], schema: pa.Schema) -> pa.Table:
    columns = [pa.array([getattr(row, of.name) for row in rows], of.type) for of in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def to_merge(parts: Sequence[Part], *, largest: int = LARGEST) -> slice | None:
    """Which neighbours are to become one: the first ``MERGE`` of one size, with what a kill left between them.

    Args:
        parts: in order.
        largest: parts in one at most, ``MERGE`` or ``LARGEST``.
    """
    for size in (1, MERGE) if largest >= LARGEST else (1,):
        begin = len(parts)
        while begin and parts[begin - 1].count < size * MERGE:
            begin -= 1
        alike = [at for at in range(begin, len(parts)) if parts[at].count >= size]
        if len(alike) >= MERGE:
            return slice(begin, alike[MERGE - 1] + 1)
    return None


def to_parquet(table: pa.Table) -> bytes:
    """A table as a file: compressed, each page with a checksum, in row groups that are read one by one."""
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", store_schema=True, write_page_checksum=True, row_group_size=BATCH_ROWS
    )
    return sink.getvalue()


def damaged(folder: Folder, name: str) -> MosaicError:
    """What is said of a file that cannot be read."""
    return MosaicError(
        "a file of the run cannot be read: it is damaged",
        fix="bring it back from a copy; a ledger part may also be deleted: its tiles are then mapped again",
        file=f"{folder.url}/{name}",
    )
