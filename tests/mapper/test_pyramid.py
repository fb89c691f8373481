"""Coarser levels: what four pixels become, and that a pyramid grown in any order is the one built at the end."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from numpy.typing import NDArray

from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec, Reduction
from mapper.masks import ABSENT, PRESENT, SCORE_ONE, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers, checksum
from mapper.prompts import Prompt
from mapper.pyramid import LevelTask, build_shard, coarser, coarser_source
from tests.strategies import grids

VALUES = (ABSENT, PRESENT, UNOBSERVED, UNMAPPED)
PROMPTS = (Prompt(name="lake", expression="the lakes"), Prompt(name="road", expression="the roads"))
ODD = Grid(
    lattice=Lattice(crs="EPSG:32632", res_x=1, res_y=1), box=PixelBox(-27, 9, -27 + 45, 9 + 63), shard_px=9, chunk_px=3
)
"""Neither its box nor its shards can be halved evenly."""


def four(*values: int) -> NDArray[np.uint8]:
    return np.array(values, np.uint8).reshape(2, 2)


def one(mask: NDArray[np.uint8], score: NDArray[np.uint8], reduction: Reduction = "mode") -> tuple[int, int]:
    small_mask, small_score = coarser(mask, score, reduction)
    return int(small_mask[0, 0]), int(small_score[0, 0])


def brute(mask: list[int], score: list[int], reduction: Reduction) -> tuple[int, int]:
    """The rule, said again with a counter."""
    seen = [index for index, value in enumerate(mask) if value in (ABSENT, PRESENT)]
    counts = Counter(mask)
    if len(seen) < 2 and not (reduction == "any" and counts[PRESENT]):
        gap = UNOBSERVED if counts[UNOBSERVED] else UNMAPPED
        return gap, gap
    mean = int(sum(score[index] for index in seen) / len(seen) + 0.5)
    if reduction == "any":
        return (PRESENT if counts[PRESENT] else ABSENT), mean
    return (PRESENT if counts[PRESENT] >= counts[ABSENT] and counts[PRESENT] else ABSENT), mean


@pytest.mark.parametrize("reduction", ["mode", "any"])
def test_every_combination_of_four_pixels_follows_the_rule(reduction: Reduction) -> None:
    draw = np.random.default_rng(7)
    for code in range(4**4):
        mask = [VALUES[code // 4**place % 4] for place in range(4)]
        score = [int(draw.integers(0, SCORE_ONE + 1)) if value < UNOBSERVED else value for value in mask]
        assert one(four(*mask), four(*score), reduction) == brute(mask, score, reduction)


def test_a_gap_is_never_an_answer_and_an_answer_never_a_gap() -> None:
    gaps = four(UNMAPPED, UNMAPPED, UNOBSERVED, UNMAPPED)
    assert one(gaps, gaps) == (UNOBSERVED, UNOBSERVED)
    assert one(four(*[UNMAPPED] * 4), four(*[UNMAPPED] * 4)) == (UNMAPPED, UNMAPPED)
    assert one(four(0, 1, 0, 0), four(10, 240, 0, 0)) == (ABSENT, 63)


def test_one_present_pixel_beside_a_cloud_is_kept_where_any_was_asked() -> None:
    mask, score = four(PRESENT, UNOBSERVED, UNOBSERVED, UNMAPPED), four(200, UNOBSERVED, UNOBSERVED, UNMAPPED)
    assert one(mask, score, "mode") == (UNOBSERVED, UNOBSERVED)
    assert one(mask, score, "any") == (PRESENT, 200)


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        ([5, 5, 9, 9], 5),
        ([9, 5, 5, 9], 9),
        ([3, 5, 5, 5], 5),
        ([NO_SOURCE, NO_SOURCE, NO_SOURCE, 4], 4),
        ([NO_SOURCE] * 4, NO_SOURCE),
    ],
)
def test_the_source_is_the_scene_that_most_of_it_shows(pixels: list[int], told: int) -> None:
    assert coarser_source(np.array(pixels, np.uint32).reshape(2, 2)).tolist() == [[told]]


@given(grids())
def test_each_level_covers_the_one_below_and_pixels_keep_to_the_lattice(grid: Grid) -> None:
    levels = grid.pyramid()
    assert max(levels[-1].shape) <= grid.chunk_px
    for finer, level in itertools.pairwise(levels):
        assert level.box.doubled().contains(finer.box)
        assert level.box.doubled().height - finer.box.height <= 2
        assert (level.lattice.res_x, level.lattice.phase_x) == (2 * finer.lattice.res_x, finer.lattice.phase_x)
        assert level.lattice.bounds(level.box) == pytest.approx(finer.lattice.bounds(level.box.doubled()))
        writers = np.zeros(level.shape, np.uint8)
        for tile in level.tiles():
            writers[tile.core.within(level.box)] += 1
        assert (writers == 1).all()


def made(folder: Path, grid: Grid, reduction: Reduction = "mode") -> Mosaic:
    spec = MosaicSpec(
        grids=(grid,), prompts=PROMPTS, times=(datetime(2024, 1, 1, tzinfo=UTC),), made_by={}, pyramid=reduction
    )
    return Mosaic.create(str(folder), spec)


def fill(mosaic: Mosaic, grid: Grid, seed: int, skipped: frozenset[int] = frozenset()) -> None:
    for number, tile in enumerate(grid.tiles()):
        draw = np.random.default_rng(seed + number)
        mask = draw.choice(VALUES, (2, *tile.core.shape), p=[0.4, 0.4, 0.1, 0.1]).astype(np.uint8)
        score = np.where(mask < UNOBSERVED, draw.integers(0, SCORE_ONE + 1, mask.shape), mask).astype(np.uint8)
        source = draw.integers(0, 3, tile.core.shape).astype(np.uint32)
        if number not in skipped:
            mosaic.write(grid, tile, 0, TileLayers(mask=mask, score=score, source=source, prompts=(0, 1)))


def build(mosaic: Mosaic, grid: Grid) -> None:
    for level in grid.pyramid()[1:]:
        for tile in level.tiles():
            build_shard(mosaic, LevelTask(id=0, grid=level, tile=tile, time=0, prompts=(0, 1)))


def whole(mosaic: Mosaic, level: Grid, name: Any, prompt: int = 0) -> NDArray[Any]:
    return mosaic.layer(level, name, level.box, time=0, prompt=prompt)


@pytest.mark.parametrize("reduction", ["mode", "any"])
def test_a_level_is_the_whole_finer_level_reduced_whatever_the_shards(tmp_path: Path, reduction: Reduction) -> None:
    mosaic = made(tmp_path / "m.zarr", ODD, reduction)
    fill(mosaic, ODD, 3, skipped=frozenset({4}))
    build(mosaic, ODD)
    for finer, level in itertools.pairwise(ODD.pyramid()):
        under = level.box.doubled()
        layers = {name: mosaic.layer(finer, name, under, time=0, prompt=1) for name in ("mask", "score", "source")}
        mask, score = coarser(layers["mask"], layers["score"], reduction)
        np.testing.assert_array_equal(whole(mosaic, level, "mask", 1), mask)
        np.testing.assert_array_equal(whole(mosaic, level, "score", 1), score)
        np.testing.assert_array_equal(whole(mosaic, level, "source"), coarser_source(layers["source"]))
        assert set(np.unique(mask)) <= set(VALUES)


@pytest.mark.parametrize("shift", [(1, 0), (1, 1)])
def test_a_pixel_of_a_level_does_not_depend_on_where_the_mosaic_begins(tmp_path: Path, shift: tuple[int, int]) -> None:
    # Two mosaics over the same ground, one of them larger to the north-west by shards of an odd side.
    side = 15
    grids = [
        Grid(lattice=ODD.lattice, box=PixelBox(top, left, 45, 60), shard_px=side, chunk_px=5)
        for top, left in ((15, -15), (15 - side * shift[0], -15 - side * shift[1]))
    ]
    one, other = (made(tmp_path / f"{number}.zarr", grid) for number, grid in enumerate(grids))
    fill(one, grids[0], 11)
    for tile in grids[0].tiles():
        mask, score, source = one.read(grids[0], tile, 0, 0)
        there = grids[1].tile(tile.row + shift[0], tile.column + shift[1])
        other.write(grids[1], there, 0, TileLayers(mask=mask[None], score=score[None], source=source, prompts=(0,)))
    for mosaic, grid in zip((one, other), grids, strict=True):
        build(mosaic, grid)
    for level, larger in zip(grids[0].pyramid()[1:], grids[1].pyramid()[1:], strict=False):
        np.testing.assert_array_equal(whole(one, level, "mask"), other.layer(larger, "mask", level.box, time=0))
        np.testing.assert_array_equal(whole(one, level, "score"), other.layer(larger, "score", level.box, time=0))


def test_building_a_shard_again_leaves_the_same_bytes_and_says_what_it_put(tmp_path: Path) -> None:
    mosaic = made(tmp_path / "m.zarr", ODD)
    fill(mosaic, ODD, 5)
    level = ODD.pyramid()[1]
    task = LevelTask(id=0, grid=level, tile=level.tile(1, 1), time=0, prompts=(0, 1))
    first = build_shard(mosaic, task)
    path = tmp_path / "m.zarr" / "1" / "mask" / "c" / "1" / "0" / "1" / "1"
    content = path.read_bytes()
    assert build_shard(mosaic, task) == first
    assert path.read_bytes() == content
    for prompt, crc in first.checksums:
        mask, score, _ = mosaic.read(level, task.tile, 0, prompt)
        assert checksum(mask, score) == crc
