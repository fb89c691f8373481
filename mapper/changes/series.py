"""One prompt of one zone through time: what must be decided anew, and what follows from it.

    step      1        2        3        4
    tile A    ·     renewed ──► same     ·       What is known after a step is the same as before: nothing follows.
    tile B    ·        ·     renewed ──► ·──►    Something else is known: the next step that has the tile follows,
    tile C    ·        ·      (joined)   ·       and so on. C: what changed there hangs together with B's.

Only a least area lets one shard depend on another, and only along pieces that hang together, see
``mapper/changes/borders.py``. So the result is that of all steps from the first on, whatever came late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mapper.changes.borders import Decided, Found, Place, decide, small_pieces
from mapper.changes.pending import Left
from mapper.changes.pieces import Pieces, find_pieces
from mapper.changes.raster import Raster, seconds
from mapper.changes.rule import Carried, ChangeRule, Verdicts
from mapper.changes.several import several
from mapper.grid import Grid, Tile
from mapper.masks import UNMAPPED, Stored
from mapper.mosaic import Mosaic
from mapper.outlines.span_area import area_unit_m2, span_areas
from mapper.questions.changes import APPEARED, VANISHED

KINDS = (APPEARED, VANISHED)
"""What a raw change can be; pieces are of one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSeries:
    """One prompt of one zone."""

    mosaic: Mosaic
    raster: Raster
    grid: Grid
    prompt: int
    """Position on the prompt axis."""

    rule: ChangeRule

    @property
    def least(self) -> float:
        """The least area of a change, in units of ``SpanAreas``."""
        return self.rule.min_area_m2 / area_unit_m2(self.grid.lattice)

    @property
    def verdicts(self) -> Verdicts:
        """What scores say of this prompt."""
        return Verdicts(self.mosaic.prompts[self.prompt].threshold, self.rule.hysteresis)

    def settle(self, left: Left, begins: Callable[[datetime], None]) -> None:
        """Decide anew what is left, step by step in order of time, and what follows; then nothing is left.

        Args:
            left: what is to be done; kept up to date.
            begins: told of each step before anything of it is written.
        """
        left.resume(self.raster.times)
        for rank, at in enumerate(self.raster.order):
            step = self.raster.times[at]
            dirty = self._dirty(left, rank)
            if dirty:
                again = step in left.under_way
                left.under_way.add(step)
                begins(step)
                changed, same = self._step(rank, dirty, sure=again)
                left.wave = set() if self._all_follow(left, rank) else (left.wave - same) | changed
                left.under_way.remove(step)
            left.steps.pop(step, None)
        left.wave = set()

    def _dirty(self, left: Left, rank: int) -> set[Place]:
        """The shards of a step that are to be decided anew; put down as such."""
        at = self.raster.order[rank]
        step = self.raster.times[at]
        told = left.steps.get(step, set())
        dirty = set(told or ())
        if step in left.steps:
            mapped = self.mosaic.stored(self.grid, time=at, prompt=self.prompt)
            known = self.raster.stored(self.grid, self.prompt, at)
            dirty |= mapped | known if told is None else mapped - known
        following = left.wave - dirty
        if following:
            dirty |= following & self.raster.stored(
                self.grid, self.prompt, at, rows=sorted({row for row, _ in following})
            )
        if dirty:
            left.add(step, dirty)
        return dirty

    def _all_follow(self, left: Left, rank: int) -> bool:
        """Whether all later steps are decided anew whatever is found."""
        later = self.raster.order[rank + 1 :]
        return all(left.steps.get(self.raster.times[at], ()) is None for at in later)

    def _step(self, rank: int, dirty: set[Place], *, sure: bool) -> tuple[set[Place], set[Place]]:
        """Decide and write one step.

        Args:
            rank: of the step, in order of time.
            dirty: shards to decide anew.
            sure: whether what is written already may be of this very step: then it tells nothing of what was before.

        Returns:
            The shards after which something else is known than before, and those after which the same is.
        """
        decided: Mapping[Place, Mapping[int, Decided]] = {}
        if self.least > 0:
            look = partial(several, partial(self._pieces, rank, dirty))
            decided = decide(self.grid, dirty, look, self.least)
        write = partial(self._write, rank, dirty, decided)
        places = sorted({*dirty, *decided})
        news = [place for place, new in zip(places, several(write, places), strict=True) if new or sure]
        return set(news), set(places) - set(news)

    def _pieces(self, rank: int, dirty: set[Place], place: Place) -> Found:
        """The pieces of raw change in one shard; none in one that has no part in the step."""
        tile, time = self.grid.tile(*place), self.raster.order[rank]
        score = self._score(tile, time)
        if (score == UNMAPPED).all():
            return (None,) * len(KINDS)
        before = self.raster.known_before(self.grid, tile, self.prompt, rank)
        return self._pieces_of(tile, before, score)

    def _pieces_of(self, tile: Tile, before: Carried, score: Stored) -> Found:
        raw = self.verdicts.change(before.state, score)
        areas = span_areas(self.grid.lattice, tile.core)
        return tuple(find_pieces(raw == kind, areas) for kind in KINDS)

    def _write(
        self, rank: int, dirty: set[Place], decided: Mapping[Place, Mapping[int, Decided]], place: Place
    ) -> bool:
        """Write what became of one shard, where it is not written already.

        Returns:
            Whether something else is known after the step than was before.
        """
        tile, time = self.grid.tile(*place), self.raster.order[rank]
        score = self._score(tile, time)
        before = self.raster.known_before(self.grid, tile, self.prompt, rank)
        stood = self.raster.stored_after(self.grid, tile, self.prompt, time)
        if (score == UNMAPPED).all():
            if stood is not None:
                self.raster.take_away(self.grid, tile, self.prompt, time)
            return stood is not None and not stood.same(before)
        standing = None if stood is None else self.raster.change(self.grid, tile, self.prompt, time)
        kept = None
        if self.least > 0:
            of_neighbour = standing if place not in dirty else None
            kept = self._kept(tile, before, score, decided.get(place, {}), of_neighbour)
        now = seconds(self.raster.times[time])
        change, after = self.verdicts.after(before, score, now, kept)
        if stood is None or standing is None:
            self.raster.put(self.grid, tile, self.prompt, time, change, after)
            return not after.same(before)
        same = after.same(stood)
        if not (same and np.array_equal(change, standing)):
            self.raster.put(self.grid, tile, self.prompt, time, change, after)
        return not same

    def _kept(
        self,
        tile: Tile,
        before: Carried,
        score: Stored,
        decided: Mapping[int, Decided],
        standing: NDArray[np.uint8] | None,
    ) -> NDArray[np.bool_]:
        """Where what changed is too small to count, ``(y, x)``."""
        kept = np.zeros(tile.core.shape, np.bool_)
        found: Iterable[tuple[int, Pieces | None]] = enumerate(self._pieces_of(tile, before, score))
        for number, pieces in found:
            if pieces is not None:
                stands = None if standing is None else standing[pieces.first_pixels()] == KINDS[number]
                pieces.painted(small_pieces(pieces, decided.get(number), self.least, stands), on=kept)
        return kept

    def _score(self, tile: Tile, time: int) -> Stored:
        score: Stored = self.mosaic.layer(self.grid, "score", tile.core, time=time, prompt=self.prompt)
        return score


def all_series(mosaic: Mosaic, raster: Raster, rule: ChangeRule) -> Iterator[PromptSeries]:
    """Every prompt of every zone."""
    for grid in mosaic.grids:
        for prompt in range(len(mosaic.prompts)):
            yield PromptSeries(mosaic=mosaic, raster=raster, grid=grid, prompt=prompt, rule=rule)
