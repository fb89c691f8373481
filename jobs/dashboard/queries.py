"""The answers behind every panel: what the registry and the files beside mosaics say of runs. Nothing is written."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from jobs.dashboard.compare import compared, figures
from jobs.dashboard.monitor_book import MonitorBook
from jobs.dashboard.monitor_views import MonitorLine, MonitorPage
from jobs.dashboard.run_book import FRESH_S, RunBook
from jobs.dashboard.states import RunView
from jobs.dashboard.views import (
    Comparison,
    Event,
    FailureGroup,
    MapInfo,
    RunLine,
    RunPage,
    TileDetail,
    run_key,
)
from jobs.job import absolute
from jobs.ledger import run_names
from jobs.registry import Registry, RunRow
from mapper.errors import MapperError, MosaicError, QuestionError

LISTED_S = 2.0
"""How old the list of which runs there are may be."""

LINE_S = 1.0
SETTLED_LINE_S = 10.0
"""How old a line in it may be, of a run under way and of another."""

AT_ONCE = 8
"""Runs that are looked at side by side for the list."""

MOST_TILES = 12_000_000
"""Tiles held in columns, of all runs together: some 600 MB. Runs that nobody has looked at for longest are let go."""

Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class _Kept(Generic[Value]):
    """An answer that several may ask for in the same moment: worked out once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    at: float = float("-inf")
    value: Value | None = None

    def get(self, make: Callable[[], Value], *, seconds: Callable[[Value], float]) -> Value:
        """The answer, worked out anew where it is too old."""
        with self.lock:
            value = self.value
            if value is None or time.monotonic() - self.at >= seconds(value):
                value = self.value = make()
                self.at = time.monotonic()
            return value


@dataclass(slots=True, eq=False)
class _Place:
    """Where a run lies, and what was last told of it."""

    book: RunBook
    line: _Kept[RunLine] = field(default_factory=_Kept)
    page: _Kept[RunPage] = field(default_factory=_Kept)


class Queries:
    """Answers about the runs that the registry knows, and all beside some mosaics. Threads may share it."""

    def __init__(
        self, registry: Registry, *, mosaics: Sequence[str] = (), clock: Callable[[], float] = time.time
    ) -> None:
        """Nothing is read yet.

        Args:
            registry: which runs there are.
            mosaics: paths or URLs; all runs beside them are shown too.
            clock: seconds since 1970.
        """
        self._registry, self._clock = registry, clock
        self._monitors = MonitorBook(registry, clock=lambda: datetime.fromtimestamp(clock(), UTC))
        self._mosaics = tuple(absolute(mosaic) for mosaic in mosaics)
        self._places: OrderedDict[str, _Place] = OrderedDict()
        """The last looked at last."""

        self._listed: _Kept[tuple[str, ...]] = _Kept()
        self._lock = threading.Lock()

    def runs(self) -> tuple[RunLine, ...]:
        """All runs, the latest first."""
        keys = self._keys()
        with ThreadPoolExecutor(AT_ONCE) as hands:
            lines = list(hands.map(self._line, keys))
        self._let_go()
        return tuple(sorted(lines, key=lambda line: (line.live, line.updated.timestamp() if line.updated else 0.0),
                            reverse=True))  # fmt: skip

    def page(self, key: str) -> RunPage:
        """All panels of a run.

        Raises:
            QuestionError: there is no such run.
            MosaicError: a file of it is damaged.
        """
        place = self._place(key)
        with _reading(place.book):
            return place.page.get(place.book.page, seconds=lambda _: FRESH_S)

    def failures(self, key: str) -> tuple[FailureGroup, ...]:
        """Tiles given up, by cause; raises as ``page``."""
        return self.page(key).failures

    def events(self, key: str, after: int) -> tuple[Event, ...]:
        """What happened after the event of this number, oldest first; raises as ``page``."""
        book = self._place(key).book
        with _reading(book):
            return book.events(after)

    def history(self, key: str) -> Mapping[str, Any]:
        """A run over time, in columns as ``Samples.columns`` gives them; raises as ``page``."""
        book = self._place(key).book
        with _reading(book):
            return book.history()

    def compare(self, a: str, b: str) -> Comparison:
        """Two runs side by side; raises as ``page``."""
        sides = []
        for key in (a, b):
            book = self._place(key).book
            with _reading(book):
                page, job, view, samples = book.whole()
                sides.append(figures(page, job, view.states if view else None, samples))
        return compared(*sides)

    def monitors(self) -> tuple[MonitorLine, ...]:
        """All monitors, by name."""
        return self._monitors.lines()

    def monitor(self, name: str) -> MonitorPage:
        """All panels of a monitor.

        Raises:
            QuestionError: there is no such monitor.
        """
        return self._monitors.page(name)

    def alert_picture(self, name: str, alert: str, side: str) -> bytes:
        """What an alert is about, before or after the change, as a PNG.

        Raises:
            QuestionError: there is no such monitor, alert or picture.
        """
        return self._monitors.picture(name, alert, side)

    def tile(self, key: str, n: int) -> TileDetail:
        """All that is known of one tile.

        Raises:
            QuestionError: there is no such run or tile.
        """
        from jobs.dashboard.tile_detail import tile_detail

        with self._viewing(key) as view:
            return tile_detail(view, n)

    def tile_at(self, key: str, lon: float, lat: float, step: int) -> int | None:
        """The tile at a place, in degrees, and a time step; None where there is none. Raises as ``page``."""
        from jobs.dashboard.tile_detail import tile_at

        with self._viewing(key) as view:
            return tile_at(view, lon, lat, step)

    def map(self, key: str) -> MapInfo:
        """What the live map shows; raises as ``page``."""
        from jobs.dashboard.map_tiles import map_info

        with self._viewing(key) as view:
            return map_info(view)

    def picture(self, key: str, layer: str, prompt: int, step: int, z: int, x: int, y: int) -> bytes:
        """A tile of the map, a PNG of 256 × 256.

        Raises:
            QuestionError: there is no such run, layer, prompt, step or place.
        """
        from jobs.dashboard.map_tiles import picture

        with self._viewing(key) as view:
            return picture(view, layer, prompt, step, z, x, y)

    @contextmanager
    def _viewing(self, key: str) -> Iterator[RunView]:
        book = self._place(key).book
        with _reading(book):
            try:
                view = book.refreshed()
            except FileNotFoundError as error:
                raise QuestionError(
                    "this run is not planned yet", fix="look again in a moment", run=book.run
                ) from error
            yield view

    def _keys(self) -> tuple[str, ...]:
        return self._listed.get(self._list, seconds=lambda _: LISTED_S)

    def _list(self) -> tuple[str, ...]:
        """Keys of all runs; a mosaic that cannot be read has none."""
        found: dict[str, tuple[str, str, RunRow | None]] = {}
        for known in self._registry.runs():
            found[run_key(known.run, known.mosaic)] = known.mosaic, known.run, known
        for mosaic in self._mosaics:
            with suppress(MapperError, OSError, ValueError):
                for run in run_names(mosaic):
                    found.setdefault(run_key(run, mosaic), (mosaic, run, None))
        with self._lock:
            for key in [key for key in self._places if key not in found]:
                del self._places[key]
            for key, (mosaic, run, row) in found.items():
                if key not in self._places:
                    self._places[key] = _Place(RunBook(key, mosaic, run, row, clock=self._clock))
                self._places[key].book.row = row
        return tuple(found)

    def _place(self, key: str) -> _Place:
        self._keys()
        with self._lock:
            new = key not in self._places
        if new and self._registry.run_of(key) is not None:  # submitted since the list was made
            self._list()
        with self._lock:
            place = self._places.get(key)
            if place is None:
                raise QuestionError("there is no such run", fix="the list of runs names them all")
            self._places.move_to_end(key)
        self._let_go()
        return place

    def _line(self, key: str) -> RunLine:
        with self._lock:
            place = self._places.get(key)
        if place is None:
            return RunBook(key, "", key, None, clock=self._clock).unread()
        return place.line.get(
            lambda: _line_of(place.book), seconds=lambda line: LINE_S if line.live else SETTLED_LINE_S
        )

    def _let_go(self) -> None:
        """Columns of the runs that nobody has looked at for longest, where all together are too many."""
        with self._lock:
            held = sum(place.book.tiles for place in self._places.values())
            for key, place in list(self._places.items())[:-1]:
                if held <= MOST_TILES:
                    return
                if place.book.tiles:
                    held -= place.book.tiles
                    old = place.book
                    self._places[key].book = RunBook(key, old.mosaic, old.run, old.row, clock=self._clock)


def _line_of(book: RunBook) -> RunLine:
    """Its line; what the registry says of it where its files cannot be read."""
    try:
        return book.line()
    except (MapperError, OSError, ValueError, KeyError):
        line = book.unread()
        said = book.row.state if book.row else ""
        return replace(line, state="unknown") if said == "running" else line  # whether it still is, nobody knows


@contextmanager
def _reading(book: RunBook) -> Iterator[None]:
    """While files of a run are read that must be there and whole.

    Raises:
        MosaicError: one is missing or damaged.
    """
    try:
        yield
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise MosaicError(
            f"a file of the run is missing or damaged: {error}",
            fix="`resmap verify` names it, and `resmap run JOB --repair` puts it right",
            run=book.run,
            mosaic=book.mosaic,
        ) from error
