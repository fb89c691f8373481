"""The tiles of a plan, in columns: ten million of them take a few hundred megabytes, and rules run over all at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Flags: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int32]
Value = TypeVar("Value", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTile:
    """One tile of the plan."""

    grid: int
    """Position in the plan's grids."""

    step: int
    """Position in the plan's steps."""

    row: int
    column: int
    clipped: bool
    """Whether the area's outline crosses it."""

    items: tuple[int, ...]
    """Rows of the item table, in the order in which they are laid; empty where there is a hole."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """Tiles of one grid and step that follow one another."""

    grid: int
    step: int
    row: Ints
    column: Ints
    clipped: Flags
    shown_by: Ints
    """How many items show each tile."""

    item: Ints
    """Rows of the item table, tile after tile."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class TileTable(Sequence[PlannedTile]):
    """Planned tiles by row. A column is 1-D, one value a tile; ``table[row]`` is one tile as a value."""

    grid: NDArray[np.int16]
    step: Ints
    row: Ints
    column: Ints
    clipped: Flags
    first_item: NDArray[np.int64]
    """One more than there are tiles: tile n is shown by ``item[first_item[n] : first_item[n + 1]]``."""

    item: Ints
    """Rows of the item table, tile after tile."""

    @classmethod
    def of(cls, tiles: Iterable[PlannedTile]) -> TileTable:
        """The table of these tiles, in this order."""
        held = list(tiles)
        ends = np.cumsum([0, *(len(tile.items) for tile in held)], dtype=np.int64)
        return cls(
            grid=np.array([tile.grid for tile in held], np.int16),
            step=np.array([tile.step for tile in held], np.int32),
            row=np.array([tile.row for tile in held], np.int32),
            column=np.array([tile.column for tile in held], np.int32),
            clipped=np.array([tile.clipped for tile in held], np.bool_),
            first_item=ends,
            item=np.array([item for tile in held for item in tile.items], np.int32),
        )

    @classmethod
    def joined(cls, stretches: Iterable[Stretch]) -> TileTable:
        """The table of these stretches, one after the other."""
        held = list(stretches)
        sizes = [len(stretch.row) for stretch in held]
        table: dict[str, NDArray[Any]] = {
            "grid": np.repeat(np.array([stretch.grid for stretch in held], np.int16), sizes),
            "step": np.repeat(np.array([stretch.step for stretch in held], np.int32), sizes),
            "row": _one([stretch.row for stretch in held], np.int32),
            "column": _one([stretch.column for stretch in held], np.int32),
            "clipped": _one([stretch.clipped for stretch in held], np.bool_),
        }
        first_item = np.zeros(sum(sizes) + 1, np.int64)
        np.cumsum(_one([stretch.shown_by for stretch in held], np.int32), out=first_item[1:])
        parts = [stretch.item for stretch in held]
        del held
        return cls(**table, first_item=first_item, item=_one(parts, np.int32))

    def __len__(self) -> int:
        return len(self.grid)

    def __repr__(self) -> str:
        return f"<{len(self):,} tiles>"

    @property
    def holes(self) -> Flags:
        """Whether a tile has no imagery at all."""
        return np.asarray(self.first_item[1:] == self.first_item[:-1])

    @overload
    def __getitem__(self, index: int) -> PlannedTile: ...

    @overload
    def __getitem__(self, index: slice) -> list[PlannedTile]: ...

    def __getitem__(self, index: int | slice) -> PlannedTile | list[PlannedTile]:
        if isinstance(index, slice):
            return [self._tile(n) for n in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"no tile {index} in a plan of {len(self)}")
        return self._tile(index % len(self))

    def __iter__(self) -> Iterator[PlannedTile]:
        return (self._tile(n) for n in range(len(self)))

    def _tile(self, n: int) -> PlannedTile:
        return PlannedTile(
            grid=int(self.grid[n]),
            step=int(self.step[n]),
            row=int(self.row[n]),
            column=int(self.column[n]),
            clipped=bool(self.clipped[n]),
            items=tuple(self.item[self.first_item[n] : self.first_item[n + 1]].tolist()),
        )


def _one(parts: list[NDArray[Value]], kind: type[Value]) -> NDArray[Value]:
    """The parts as one array. The list is emptied on the way, so that what was copied can be forgotten at once."""
    whole = np.empty(sum(len(part) for part in parts), kind)
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole
