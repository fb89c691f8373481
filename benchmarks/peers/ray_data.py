"""(b) Ray Data: tiles → read in tasks → the model in an actor pool of one GPU → written in tasks, as a stream.

``python -m benchmarks.peers.ray_data WORK [READERS]``

Tuned: a block a tile, so that tasks overlap; fractions of a core for tasks that mostly wait for a server, and some of
them at once; four tiles handed to the actor ahead of time; order given up. What reaches the actor is the frame alone, a
square of one size for all; the source layer is written by whoever read it, mask and score by a third task, whole shards
each. It makes no coarser levels, no coordinates, no ledger, no checksums of its own. A window is computed by each
tile that it touches. What is read while the model loads is not counted as ``work_s``.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import numpy as np
import ray
import ray.data
import zarr
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from benchmarks.peers.plain import make_mosaic, mask_of, read_frame, score_of
from benchmarks.peers.work import Work
from mapper import models
from mapper.grid import PixelBox

READERS, WRITERS = 3, 2
"""Tasks at once; readers where the command line does not say."""

AHEAD = 4
"""Tiles the actor is handed at once: one under way, the others waiting in its queue."""

Row = dict[str, Any]


class Read:
    """Tile → the pixels around it; its source layer goes to the mosaic at once."""

    def __init__(self, work: Work, margin_px: int) -> None:
        self._work, self._margin_px, self._scenes = work, margin_px, work.scenes()

    def __call__(self, row: Row) -> Row:
        """``pixels`` of tile ``tile``."""
        core = self._work.cores()[row["tile"]]
        frame = around(core, self._margin_px)
        pixels, source = read_frame(self._scenes, frame)
        rows, columns = core.within(self._work.box)
        layer = zarr.open_array(f"{self._work.mosaic}/0/source", mode="r+")
        layer[0, rows, columns] = source[core.within(frame)]
        return {"tile": row["tile"], "pixels": pixels}


class Infer:
    """Pixels → stored score, in the actor that owns the model."""

    def __init__(self, work: Work, margin_px: int) -> None:
        self._work, self._margin_px = work, margin_px
        self._net = work.load()
        self._text = self._net.encode_text(work.prompts)
        self._loaded = time.monotonic()

    def __call__(self, batch: Row) -> Row:
        """``score`` of a batch of one tile."""
        tile = int(batch["tile"][0])
        core = self._work.cores()[tile]
        frame = around(core, self._margin_px)
        score, count = score_of(batch["pixels"][0], frame, core, self._net, self._text, self._work)
        facts = {"tile": tile, "windows": count, "loaded": self._loaded}
        return {name: np.array([value]) for name, value in facts.items()} | {"score": score[None]}


class Write:
    """Stored score → mask and score in the mosaic."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, row: Row) -> Row:
        """How many windows the tile took, and when the model was loaded."""
        rows, columns = self._work.cores()[row["tile"]].within(self._work.box)
        for name, layer in (("score", row["score"]), ("mask", mask_of(row["score"]))):
            zarr.open_array(f"{self._work.mosaic}/0/{name}", mode="r+")[:, 0, rows, columns] = layer
        return {"windows": row["windows"], "loaded": row["loaded"]}


def around(core: PixelBox, margin_px: int) -> PixelBox:
    """The core and so many pixels on each side: all windows that touch it."""
    return PixelBox(core.top - margin_px, core.left - margin_px, core.bottom + margin_px, core.right + margin_px)


def main() -> None:
    """Map the work."""
    work = Work.asked()
    make_mosaic(work)
    ray.init(address="local", num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    margin_px = models.window_px(work.model)
    tiles = [{"tile": number} for number in range(len(work.cores()))]
    readers = int(sys.argv[2]) if len(sys.argv) > 2 else READERS
    read, write = Read(work, margin_px), Write(work)
    done = (
        ray.data.from_items(tiles, override_num_blocks=len(tiles))
        .map(read.__call__, num_cpus=0.25, compute=TaskPoolStrategy(readers))
        .map_batches(
            Infer,
            fn_constructor_args=(work, margin_px),
            batch_size=1,
            num_gpus=1,
            compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=AHEAD),
        )
        .map(write.__call__, num_cpus=0.25, compute=TaskPoolStrategy(WRITERS))
        .take_all()
    )
    loaded = float(done[0]["loaded"])
    work.hand_in(work_s=time.monotonic() - loaded, windows=sum(int(row["windows"]) for row in done))
    ray.shutdown()


if __name__ == "__main__":
    main()
