"""A hundred thousand boxes: from a mask, without the inner ones, without the overlapping ones. On one core.

python -m benchmarks.bench_boxes
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import record
from mapper.objects import best_of_overlapping, inner, inner_turned
from mapper.tasks import boxes_from_mask

BOXES = 100_000
REPEATS = 5


def main() -> None:
    """Time each step over a scattered field, a crowd and a mask, and record."""
    rng = np.random.default_rng(0)
    scattered = _scattered(rng, side_px=20_000, largest_px=60)
    crowded = _scattered(rng, side_px=1_000, largest_px=60)
    score = rng.random(BOXES)
    mask, mask_score = _field(rng)
    turned = boxes_from_mask(mask, mask_score, oriented=True, keep_inner=True)[:, :8]
    steps: dict[str, Callable[[], Any]] = {
        "scattered, inner removal": lambda: inner(scattered),
        "scattered, overlap removal": lambda: best_of_overlapping(scattered, score),
        "crowded, inner removal": lambda: inner(crowded),
        "crowded, overlap removal": lambda: best_of_overlapping(crowded, score),
        "turned, inner removal": lambda: inner_turned(turned),
        "mask to boxes, inner ones removed": lambda: boxes_from_mask(mask, mask_score),
        "mask to turned boxes, inner ones removed": lambda: boxes_from_mask(mask, mask_score, oriented=True),
    }
    figures = {name: _timed(step) for name, step in steps.items()}
    for name, one in figures.items():
        print(f"{one['median_s']:6.2f} s  {name}")
    print(record("boxes", {"boxes": BOXES, "mask_px": list(mask.shape), "repeats": REPEATS, "seconds": figures}))


def _timed(step: Callable[[], Any]) -> dict[str, float]:
    """Median and extremes of some repeats, after one that warms up: the time of the one core that works on it."""
    step()
    taken = []
    for _ in range(REPEATS):
        begun = time.process_time()
        step()
        taken.append(time.process_time() - begun)
    return {
        "median_s": round(statistics.median(taken), 3),
        "least_s": round(min(taken), 3),
        "most_s": round(max(taken), 3),
    }


def _scattered(rng: np.random.Generator, *, side_px: int, largest_px: int) -> NDArray[np.float64]:
    """Boxes of 2 pixels to ``largest_px`` anywhere in a square."""
    corner = rng.integers(0, side_px, (BOXES, 2))
    return np.column_stack([corner, corner + rng.integers(2, largest_px, (BOXES, 2))]).astype(np.float64)


def _field(rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """A mask of as many objects in rows: ellipses turned every way, one in a cell of 16 × 16 pixels; its score."""
    columns = 400
    rows = BOXES // columns
    y, x = np.mgrid[-7.5:8, -7.5:8]
    angle = rng.uniform(0, np.pi, (rows, columns, 1, 1)).astype(np.float32)
    long, short = rng.uniform(3, 7, (2, rows, columns, 1, 1)).astype(np.float32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    cells = (along / long) ** 2 + (across / short) ** 2 < 1
    mask = cells.transpose(0, 2, 1, 3).reshape(16 * rows, 16 * columns)
    return mask, rng.uniform(0.5, 1, mask.shape).astype(np.float32)


if __name__ == "__main__":
    main()
