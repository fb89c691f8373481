"""change.zarr: what became of each pixel in each step, and what is carried from step to step.

    change  uint8   0 stayed absent · 1 stayed present · 2 appeared · 3 vanished
                    254 not comparable: not seen in this step, or in none before · 255 not mapped in this step
    state   uint8   what holds after the step: 0 absent · 1 present · 254 never seen · 255 look at the step before
    since   int64   when that state began, seconds since 1970
    seen    int64   when the ground was last seen, likewise

All are (prompt, time, y, x), on the mosaic's own pixels, shards and axes, at its finest level only. A shard in which
nothing was mapped in a step is not stored in that step (255): what holds there stands in the latest step before that
has it. So a step costs what was mapped in it, and ``open_changes`` shows each pixel's state whichever step has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from mapper.changes.borders import Place
from mapper.changes.rule import NEVER, NO_TIME, Carried, ChangeRule
from mapper.engines import Tree, ZarrEngine
from mapper.errors import MapperError, VerifyError
from mapper.grid import Grid, Tile
from mapper.layout import Layer, MosaicSpec, consolidate, create_level, grid_fields, grow_level
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from mapper.questions.changes import APPEARED, STAYED_ABSENT, STAYED_PRESENT, VANISHED
from mapper.shards import Shard
from mapper.storage import Folder, store_failure

LAYOUT = 1

NAME = "change.zarr"

FACTS = "resmap_changes"
"""Attribute of the root: what it was made of, and by what rule."""

_AXES: tuple[Literal["prompt", "time"], ...] = ("prompt", "time")
_MOMENT: dict[str, Any] = {
    "units": "seconds since 1970-01-01",
    "calendar": "proleptic_gregorian",
    "_FillValue": NO_TIME,
}

LAYERS = (
    Layer(
        name="change",
        dtype="uint8",
        fill=UNMAPPED,
        axes=_AXES,
        attributes={
            "flag_values": [STAYED_ABSENT, STAYED_PRESENT, APPEARED, VANISHED, UNOBSERVED, UNMAPPED],
            "flag_meanings": "stayed_absent stayed_present appeared vanished not_comparable unmapped",
            "long_name": "what became of the prompt here since it was last seen",
        },
    ),
    Layer(
        name="state",
        dtype="uint8",
        fill=UNMAPPED,
        axes=_AXES,
        attributes={
            "flag_values": [ABSENT, PRESENT, NEVER, UNMAPPED],
            "flag_meanings": "absent present never_seen as_in_the_step_before",
            "long_name": "whether the prompt is here, as far as is known after the step",
        },
    ),
    Layer(
        name="since",
        dtype="int64",
        fill=NO_TIME,
        axes=_AXES,
        attributes={**_MOMENT, "long_name": "step in which the state began"},
    ),
    Layer(
        name="seen",
        dtype="int64",
        fill=NO_TIME,
        axes=_AXES,
        attributes={**_MOMENT, "long_name": "step in which the ground was last seen"},
    ),
)


def changes_folder(mosaic_url: str) -> str:
    """Where the changes of a mosaic are kept: ``s3://bucket/a.zarr`` → ``s3://bucket/a.changes``."""
    url = str(mosaic_url).rstrip("/")
    for ending in (".zarr", ".icechunk"):
        url = url.removesuffix(ending)
    return f"{url}.changes"


def seconds(moment: datetime) -> int:
    """As in ``since`` and ``seen``, and on the mosaic's time axis."""
    return round(moment.timestamp())


class Raster:
    """change.zarr of one mosaic, as it is on disk. Threads may share one."""

    def __init__(self, url: str, engine: ZarrEngine) -> None:
        self.url = url
        self._engine = engine
        facts: dict[str, Any] = dict(engine.reading().root.attrs.get(FACTS, {}))  # type: ignore[arg-type]
        self.facts = facts
        self.times = tuple(datetime.fromisoformat(time) for time in facts.get("times", ()))
        self.prompts = tuple(Prompt(**fields) for fields in facts.get("prompts", ()))
        self.order = sorted(range(len(self.times)), key=lambda at: self.times[at])
        """Positions on the time axis, the oldest step first."""

    @classmethod
    def open(cls, mosaic_url: str, *, writable: bool) -> Raster | None:
        """That of a mosaic; None where there is none, or it is half made.

        Raises:
            StoreError, CredentialsError, MosaicError: as ``store_failure`` says.
        """
        url = f"{changes_folder(mosaic_url)}/{NAME}"
        try:
            engine = ZarrEngine.open(url, writable=writable)
        except Exception as error:
            raise store_failure(error, url, "opened") from error
        raster = None if engine is None else cls(url, engine)
        return raster if raster is not None and raster.facts else None

    def knows(self, mosaic: Mosaic, rule: ChangeRule) -> bool:
        """Whether what it holds was made of this mosaic, as it was or less, and by this rule."""
        made, grown = _facts(mosaic, rule), self.facts
        return all(grown.get(name) == made[name] for name in ("layout", "grids", "made_by", "rule")) and all(
            grown[name] == made[name][: len(grown[name])] for name in ("prompts", "times")
        )

    def tree(self) -> Tree:
        """Its Zarr nodes."""
        return self._engine.reading()

    def put(self, grid: Grid, tile: Tile, prompt: int, time: int, change: NDArray[np.uint8], after: Carried) -> None:
        """Write one shard of a step, each layer once, whole. What is the fill value all over is taken away.

        Raises:
            StoreError, CredentialsError, MosaicError: as ``store_failure`` says.
        """
        layers: dict[str, NDArray[Any]] = {
            "change": change,
            "state": after.state,
            "since": after.since,
            "seen": after.seen,
        }
        shards = [self._shard(grid, tile, prompt, time, name, pixels) for name, pixels in layers.items()]
        with self._told("written", tile=tile.name):
            self.tree().put(shards)

    def take_away(self, grid: Grid, tile: Tile, prompt: int, time: int) -> None:
        """Store nothing of a shard in a step."""
        nothing = Carried.nothing(tile.core.shape)
        fill = np.full(tile.core.shape, UNMAPPED, np.uint8)
        self.put(grid, tile, prompt, time, fill, Carried(state=fill, since=nothing.since, seen=nothing.seen))

    def change(self, grid: Grid, tile: Tile, prompt: int, time: int) -> NDArray[np.uint8]:
        """``change`` of one shard in a step."""
        (pixels,) = self._get(grid, tile, prompt, time, ("change",))
        return pixels

    def stored_after(self, grid: Grid, tile: Tile, prompt: int, time: int) -> Carried | None:
        """What holds in one shard after a step; None where that is not stored with it."""
        (state,) = self._get(grid, tile, prompt, time, ("state",))
        if state.flat[0] == UNMAPPED:  # a stored shard has no such pixel
            return None
        since, seen = self._get(grid, tile, prompt, time, ("since", "seen"))
        return Carried(state=state, since=since, seen=seen)

    def known_before(self, grid: Grid, tile: Tile, prompt: int, rank: int) -> Carried:
        """What holds in one shard before a step.

        Args:
            grid: of the shard.
            tile: the shard.
            prompt: position on the prompt axis.
            rank: of the step, in order of time.
        """
        for time in reversed(self.order[:rank]):
            found = self.stored_after(grid, tile, prompt, time)
            if found is not None:
                return found
        return Carried.nothing(tile.core.shape)

    def stored(self, grid: Grid, prompt: int, time: int, rows: Sequence[int] | None = None) -> set[Place]:
        """The shards that are stored in a step; of some rows of shards, or of all."""
        with self._told("read"):
            return self.tree().stored(f"{grid.path}/state", (prompt, time), rows)

    def _get(self, grid: Grid, tile: Tile, prompt: int, time: int, names: tuple[str, ...]) -> tuple[NDArray[Any], ...]:
        tree = self.tree()
        dtypes = [tree.array(f"{grid.path}/{name}").dtype for name in names]
        pixels = tuple(np.empty(tile.core.shape, dtype) for dtype in dtypes)
        with self._told("read", tile=tile.name):
            tree.get([
                self._shard(grid, tile, prompt, time, name, layer) for name, layer in zip(names, pixels, strict=True)
            ])  # fmt: skip
        return pixels

    @staticmethod
    def _shard(grid: Grid, tile: Tile, prompt: int, time: int, name: str, pixels: NDArray[Any]) -> Shard:
        return Shard(layer=f"{grid.path}/{name}", place=(prompt, time, tile.row, tile.column), pixels=pixels)

    @contextmanager
    def _told(self, act: str, **where: object) -> Iterator[None]:
        try:
            yield
        except MapperError:
            raise
        except (ValueError, RuntimeError) as error:  # as all codecs say it
            raise VerifyError(
                f"what is stored there is damaged: {error}",
                fix="delete the folder of changes: all of it is made again from the mosaic",
                changes=self.url,
                **where,
            ) from error
        except Exception as error:
            raise store_failure(error, self.url, act, **where) from error


def fitted(mosaic: Mosaic, rule: ChangeRule) -> Raster:
    """change.zarr with room for all steps and prompts of a mosaic; made, grown or made anew as is needed.

    Raises:
        StoreError, CredentialsError, MosaicError: as ``store_failure`` says.
    """
    there = Raster.open(mosaic.url, writable=True)
    made = _facts(mosaic, rule)
    if there is not None and there.facts == made:
        return there
    laid = there is not None and there.facts["layout"] == LAYOUT and there.facts["grids"] == made["grids"]
    if there is not None and not (laid and _begins(there, mosaic)):
        Folder(changes_folder(mosaic.url)).remove_tree(["polygons", NAME])
        there = None
    url = f"{changes_folder(mosaic.url)}/{NAME}"
    spec = MosaicSpec(grids=mosaic.grids, prompts=mosaic.prompts, times=mosaic.times, made_by={})

    def fill(root: zarr.Group) -> None:
        for grid in spec.grids:
            if there is None:
                create_level(root, grid, spec, LAYERS)
            else:
                grow_level(root, grid, spec, LAYERS)
        root.attrs.put({"Conventions": "CF-1.11", "title": "changes from step to step", FACTS: made})
        consolidate(root, spec.grids, levels=1)

    try:
        engine = ZarrEngine.open(url, writable=True) or ZarrEngine.make(url)
        engine.change(fill, "room for changes")
    except Exception as error:
        raise store_failure(error, url, "made") from error
    return Raster(url, engine)


def _begins(there: Raster, mosaic: Mosaic) -> bool:
    """Whether the mosaic's axes begin with those of what is there."""
    return there.prompts == mosaic.prompts[: len(there.prompts)] and there.times == mosaic.times[: len(there.times)]


def _facts(mosaic: Mosaic, rule: ChangeRule) -> dict[str, Any]:
    return {
        "layout": LAYOUT,
        "rule": asdict(rule),
        "grids": [grid_fields(grid) for grid in mosaic.grids],
        "prompts": [asdict(prompt) for prompt in mosaic.prompts],
        "times": [time.astimezone(UTC).isoformat() for time in mosaic.times],
        "made_by": mosaic.made_by,
    }
