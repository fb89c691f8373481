"""One mosaic as the map in the browser knows it: what it is, its tiles, and what it says of a place."""

from __future__ import annotations

import posixpath
import threading
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from mapper.errors import MapperError, QuestionError
from mapper.exports.chosen import chosen_time, iso
from mapper.masks import ABSENT, PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic
from mapper.questions.asking import times_of
from mapper.runs import SourceItems, newest_run, source_items
from mapper.web.tile_picture import colour_of, legend, png
from mapper.web.webtiles import TILE_PX, Layer, WebTiles

NEW_AFTER_S = 10.0
"""How old what is known of a mosaic may be: a run may be writing it while people look."""

STATES = {ABSENT: "absent", PRESENT: "present", UNOBSERVED: "unobserved", UNMAPPED: "unmapped"}

_ITEM_COLUMNS = ("id", "datetime", "start_datetime", "collection")


class Shown:
    """A mosaic that people look at. Threads may share one."""

    def __init__(self, url: str) -> None:
        """Open it.

        Raises:
            MosaicError: there is none.
        """
        self.url = url
        self._lock = threading.Lock()
        self._run = ""
        self._name = posixpath.basename(url.rstrip("/")) or url
        self._items: SourceItems | None = None
        self._tiles = self._opened(None)
        self._opened_at = time.monotonic()

    @property
    def tiles(self) -> WebTiles:
        """Its tiles, as it is now or was a few seconds ago."""
        with self._lock:
            if time.monotonic() - self._opened_at > NEW_AFTER_S:
                self._opened_at = time.monotonic()
                self._tiles = self._opened(self._tiles)
            return self._tiles

    def document(self) -> dict[str, Any]:
        """What the page shows, as JSON."""
        tiles = self.tiles
        mosaic = tiles.mosaic
        return {
            "mosaic": self.url,
            "name": self._name,
            "title": "; ".join(prompt.expression for prompt in mosaic.prompts),
            "prompts": [
                {
                    "number": number,
                    "name": prompt.name,
                    "expression": prompt.expression,
                    "threshold": prompt.threshold,
                    "colour": "#" + bytes(colour_of(number)).hex(),
                    "legend": [asdict(line) for line in legend(number)],
                }
                for number, prompt in enumerate(mosaic.prompts)
            ],
            "times": [{"number": number, "begins": iso(mosaic.times[number])} for number in times_of(mosaic, None)],
            "grids": [
                {
                    "name": grid.name,
                    "crs": grid.lattice.crs,
                    "resolution": [grid.lattice.res_x, grid.lattice.res_y],
                    "height_px": grid.box.height,
                    "width_px": grid.box.width,
                }
                for grid in mosaic.grids
            ],
            "made_by": mosaic.made_by,
            "growing": tiles.growing,
            "bounds": list(tiles.bounds),
            "min_zoom": 0,
            "max_zoom": tiles.max_zoom,
            "tile_px": TILE_PX,
        }

    @property
    def latest(self) -> int:
        """Position on the time axis of the latest time step."""
        return chosen_time(self.tiles.mosaic, None)

    def tilejson(self, address: str, *, prompt: int, step: int) -> dict[str, Any]:
        """TileJSON 3.0.0 of one prompt and time step.

        Args:
            address: of its tiles, with ``{z}``, ``{x}`` and ``{y}`` in it.
            prompt: position on the prompt axis.
            step: position on the time axis.

        Raises:
            QuestionError: there is no such prompt or step.
        """
        tiles = self.tiles
        self._check(tiles, prompt, step)
        west, south, east, north = tiles.bounds
        asked, begins = tiles.mosaic.prompts[prompt], tiles.mosaic.times[step]
        return {
            "tilejson": "3.0.0",
            "name": asked.expression,
            "description": f"Where “{asked.expression}” was found, {begins:%Y-%m-%d}",
            "scheme": "xyz",
            "tiles": [address],
            "minzoom": 0,
            "maxzoom": tiles.max_zoom,
            "bounds": [west, south, east, north],
            "center": [(west + east) / 2, (south + north) / 2, max(0, tiles.max_zoom - 3)],
        }

    def tile(self, layer: Layer, prompt: int, step: int, z: int, x: int, y: int) -> bytes:
        """One tile as PNG.

        Raises:
            QuestionError: there is no such tile, prompt or step.
            StoreError: a shard under it cannot be read.
        """
        tiles = self.tiles
        self._check(tiles, prompt, step)
        return png(tiles.tile(z, x, y, prompt=prompt, time=step, layer=layer), prompt=prompt, layer=layer)

    def value(self, longitude: float, latitude: float, *, step: int) -> dict[str, Any]:
        """What the mosaic says of one place, as JSON: each prompt's answer, its probability, and the scene seen there.

        Raises:
            QuestionError: there is no such place or step.
            StoreError: a shard under it cannot be read.
        """
        tiles = self.tiles
        self._check(tiles, 0, step)
        spot = tiles.spot(longitude, latitude, time=step)
        return {
            "lon": longitude,
            "lat": latitude,
            "time": iso(tiles.mosaic.times[step]),
            "crs": spot.crs,
            "prompts": [
                {
                    "name": prompt.name,
                    "expression": prompt.expression,
                    "answer": STATES[mask],
                    "probability": score / SCORE_ONE if score <= SCORE_ONE else None,
                }
                for prompt, mask, score in zip(tiles.mosaic.prompts, spot.masks, spot.scores, strict=True)
            ],
            "source": None if spot.source is None else {"row": spot.source, **self._item(spot.source)},
        }

    def _opened(self, known: WebTiles | None) -> WebTiles:
        """The mosaic as it is now; the one known already, and what it has learned, where nothing can have changed."""
        mosaic = Mosaic.open(self.url, writable=False)
        try:
            run = newest_run(self.url)
        except MapperError:  # a damaged run tells nothing, and the map is there all the same
            run = None
        another = run is not None and run.run != self._run
        if run is not None and another:
            self._run, self._items, self._name = run.run, None, run.name or self._name
        growing = run is not None and run.levels_behind
        if known is None or growing or known.growing or another:  # it may have renewed what was known
            return WebTiles(mosaic, growing=growing)
        same = (known.mosaic.prompts, known.mosaic.times) == (mosaic.prompts, mosaic.times)
        return known if same else WebTiles(mosaic)

    def _item(self, row: int) -> dict[str, Any]:
        """Id, date and collection of the item with a number; nothing where no run says."""
        with self._lock:
            if self._items is None and self._run:
                self._items = source_items(self.url, _ITEM_COLUMNS)
            items = self._items
        at = -1 if items is None else int(items.rows(np.array([row]))[0])
        if items is None or at < 0:
            return {}
        item = {name: values[at] for name, values in items.columns.items()}
        seen = item["datetime"] or item["start_datetime"]
        return {
            "item": item["id"],
            "datetime": iso(seen) if hasattr(seen, "astimezone") else seen,
            "collection": item["collection"],
        }

    @staticmethod
    def _check(tiles: WebTiles, prompt: int, step: int) -> None:
        prompts, steps = len(tiles.mosaic.prompts), len(tiles.mosaic.times)
        if not (0 <= prompt < prompts and 0 <= step < steps):
            raise QuestionError(
                "there is no such prompt or time step",
                fix=f"prompts are 0 to {prompts - 1}, time steps 0 to {steps - 1}",
                prompt=prompt,
                time=step,
            )
