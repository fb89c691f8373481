"""The story of one tile, with a model of known answers: what decides about a pixel, and what must not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.warp import transform_bounds
from shapely import segmentize
from shapely.geometry import Polygon, box
from shapely.geometry.base import BaseGeometry

from mapper import models
from mapper.errors import MapperError
from mapper.grid import BLOCK_PX, Grid, PixelBox, Windows
from mapper.imagery import NO_SOURCE, PlacedItem
from mapper.layout import MosaicSpec
from mapper.map_tile import ModelChoice, Setup, TileMapper, TileResult, TileTask, asked_pixels, outline
from mapper.masks import PRESENT, UNMAPPED, UNOBSERVED, to_mask
from mapper.mosaic import Mosaic, checksum, source_checksum
from mapper.prompts import Prompt
from mapper.read import RasterReader
from mapper.reuse import Remembered
from mapper.segmenter import Logits
from tests.mapper.rasters import NEPAL, UTM45, item_of, placed, smooth_pixels, write_raster

PROMPTS = (
    Prompt(name="red", expression="what is red", threshold=0.5),
    Prompt(name="blue", expression="what is blue", threshold=0.3),
)


def slanted(part: PixelBox) -> Polygon:
    """A polygon in the part that touches its four sides and runs along no row or column."""
    left, bottom, right, top = UTM45.bounds(part)
    width, height = right - left, top - bottom
    return Polygon(
        [
            (left + 0.3 * width, top),
            (right, top - 0.2 * height),
            (left + 0.6 * width, bottom),
            (left, top - 0.7 * height),
        ]
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlacedItem, ...]:
    """A small scene on the lattice, over a larger one of the zone next door that ends inside NEPAL."""
    folder = tmp_path_factory.mktemp("scenes")
    upper = PixelBox(NEPAL.top - 90, NEPAL.left - 90, NEPAL.top + 170, NEPAL.left + 250)
    first = write_raster(folder / "first.tif", smooth_pixels(upper), UTM45.transform(upper))
    whole = PixelBox(NEPAL.top - 100, NEPAL.left - 100, NEPAL.bottom + 100, NEPAL.right - 120)
    left, bottom, right, top = transform_bounds(UTM45.crs, "EPSG:32644", *UTM45.bounds(whole))
    shape = PixelBox(0, 0, int((top - bottom) / 0.47), int((right - left) / 0.47))
    second = write_raster(
        folder / "second.tif", smooth_pixels(shape)[::-1], Affine(0.47, 0, left, 0, -0.47, top), crs="EPSG:32644"
    )
    return placed(item_of(first, index=0, name="first")), placed(item_of(second, index=1, name="second"))


class World:
    """A mosaic, its setup and tile mapper; maps all of it and reads it back."""

    def __init__(
        self,
        folder: Path,
        items: tuple[PlacedItem, ...],
        *,
        area: BaseGeometry,
        box: PixelBox = NEPAL,
        shard_px: int = 128,
        batch: int | None = None,
        segmenter: Any = None,
        blend: bool = True,
        remembered: int | None = None,
    ) -> None:
        self.grid = Grid(lattice=UTM45, box=box.snapped(shard_px), shard_px=shard_px, chunk_px=32)
        times = (datetime(2020, 5, 1, tzinfo=UTC),)
        spec = MosaicSpec(grids=(self.grid,), prompts=PROMPTS, times=times, made_by={})
        self.mosaic = Mosaic.create(str(folder / f"{shard_px}-{batch}-{blend}-{box.top}.zarr"), spec)
        self.setup = Setup(
            mosaic=self.mosaic.url, model=ModelChoice(name="colour"), prompts=PROMPTS, bands=3, stretch=None,
            composite="first", overlap_px=32, blend=blend, batch=batch, areas={"": area},
        )  # fmt: skip
        self.mapper = TileMapper(
            self.setup,
            segmenter=segmenter or models.load("colour"),
            reader=RasterReader(bands=3),
            mosaic=self.mosaic,
            remembered=None if remembered is None else Remembered(remembered),
        )
        self.items = items

    def task(self, row: int, column: int, **changes: Any) -> TileTask:
        task = TileTask(
            id=row * 100 + column, grid=self.grid, tile=self.grid.tile(row, column), time=0, items=self.items,
            prompts=(0, 1), clipped=True,
        )  # fmt: skip
        return replace(task, **changes)

    def mapped(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]]:
        """Mask, score and source of the whole grid."""
        for tile in self.grid.tiles():
            self.mapper.map_tile(self.task(tile.row, tile.column))
        return self.stored()

    def stored(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]]:
        """Mask and score ``(prompt, y, x)`` and source ``(y, x)`` as they lie in the mosaic."""
        mask = np.zeros((2, *self.grid.shape), np.uint8)
        score, source = mask.copy(), np.zeros(self.grid.shape, np.uint32)
        for tile in self.grid.tiles():
            here = tile.core.within(self.grid.box)
            for prompt in (0, 1):
                mask[prompt, *here], score[prompt, *here], source[here] = self.mosaic.read(self.grid, tile, 0, prompt)
        return mask, score, source


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, scenes: tuple[PlacedItem, ...]
) -> tuple[Grid, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]]:
    """NEPAL mapped in shards of 128 px, and its grid."""
    world = World(tmp_path_factory.mktemp("reference"), scenes, area=slanted(NEPAL))
    return world.grid, *world.mapped()


# One answer ----------------------------------------------------------------------------------------------------------


def test_the_reference_has_all_four_values_and_both_scenes(reference: Any) -> None:
    _, mask, _, source = reference
    assert set(np.unique(mask)) == {0, 1, 254, 255}  # what follows would show little without them
    assert set(np.unique(source)) == {0, 1, int(NO_SOURCE)}


@pytest.mark.parametrize(
    ("shard_px", "batch"),
    [(32, 1), (64, None), (96, 3), (224, 5), (512, 64)],
)
def test_shard_and_batch_size_do_not_change_a_bit(
    tmp_path: Path, scenes: tuple[PlacedItem, ...], reference: Any, shard_px: int, batch: int | None
) -> None:
    grid, *expected = reference
    world = World(tmp_path, scenes, area=slanted(NEPAL), shard_px=shard_px, batch=batch)
    found: list[NDArray[Any]] = [*world.mapped()]
    for one, other in zip(found, expected, strict=True):
        here, there = NEPAL.within(world.grid.box), NEPAL.within(grid.box)
        assert one[..., *here].tobytes() == other[..., *there].tobytes()


def test_what_neighbouring_tiles_share_is_looked_at_once_and_no_bit_changes(
    tmp_path: Path, scenes: tuple[PlacedItem, ...]
) -> None:
    kept = World(tmp_path / "kept", scenes, area=slanted(NEPAL), segmenter=(once := Counting()))
    alone = World(tmp_path / "alone", scenes, area=slanted(NEPAL), segmenter=(often := Counting()), remembered=0)
    results = [kept.mapper.map_tile(kept.task(tile.row, tile.column)) for tile in kept.grid.tiles()]
    assert [layer.tobytes() for layer in kept.stored()] == [layer.tobytes() for layer in alone.mapped()]
    assert sum(once.batches) < 0.6 * sum(often.batches)  # windows of 96 px on shards of 128: most are shared
    assert sum(result.windows - result.reused for result in results) == sum(once.batches)
    assert sum(result.windows for result in results) == sum(often.batches)


def test_a_smaller_area_gives_the_same_pixels(tmp_path: Path, scenes: tuple[PlacedItem, ...], reference: Any) -> None:
    grid, *expected = reference
    part = PixelBox(NEPAL.top + 91, NEPAL.left + 77, NEPAL.top + 233, NEPAL.left + 222)
    world = World(tmp_path, scenes, area=slanted(NEPAL).intersection(slanted(part)), box=part, shard_px=96)
    mask, score, source = world.mapped()
    asked = mask[0] != UNMAPPED
    inside = world.grid.box.within(grid.box)
    assert asked.sum() > 5000
    assert (mask[:, asked] == expected[0][:, *inside][:, asked]).all()
    assert (score[:, asked] == expected[1][:, *inside][:, asked]).all()
    assert (source[asked] == expected[2][inside][asked]).all()


def test_the_mask_is_the_scores_threshold(reference: Any) -> None:
    _, mask, score, _ = reference
    assert (mask == to_mask(score, [prompt.threshold for prompt in PROMPTS])).all()


def test_windows_are_blended_as_their_weights_say(scenes: tuple[PlacedItem, ...], reference: Any) -> None:
    grid, _, score, _ = reference
    windows, net = Windows(size_px=96, overlap_px=32), models.load("colour")
    ramp = np.minimum(np.minimum(np.arange(96) + 0.5, 95.5 - np.arange(96)) / 32, 1)
    frame = windows.frame(NEPAL)
    pixels = RasterReader(bands=3).read(scenes, UTM45, frame).pixels
    total, weight = np.zeros(frame.shape), np.zeros(frame.shape)
    for window in windows.touching(NEPAL):
        here = window.within(frame)
        total[here] += net.logits(pixels[None, :, *here], [0])[0, 0] * np.outer(ramp, ramp)
        weight[here] += np.outer(ramp, ramp)
    probability = 1 / (1 + np.exp(-total / weight))
    stored = score[0][NEPAL.within(grid.box)].astype(int)
    answered = stored <= 250
    assert np.abs(stored - 250 * probability[NEPAL.within(frame)])[answered].max() <= 0.51


# Four values ---------------------------------------------------------------------------------------------------------


def test_an_unobserved_tile_is_254_all_over(tmp_path: Path) -> None:
    world = World(tmp_path, (), area=slanted(NEPAL))
    result = world.mapper.map_tile(world.task(1, 1, clipped=False))
    here = world.grid.tile(1, 1).core.within(world.grid.box)
    mask, score, source = world.stored()
    assert result.nodata
    assert (mask[:, *here] == UNOBSERVED).all()
    assert (score[:, *here] == UNOBSERVED).all()
    assert (source[here] == NO_SOURCE).all()


def test_an_unobserved_tile_costs_no_window(tmp_path: Path, scenes: tuple[PlacedItem, ...]) -> None:
    far = PixelBox(NEPAL.top + 4096, NEPAL.left, NEPAL.top + 4096 + 128, NEPAL.left + 128)
    world = World(tmp_path, scenes, area=slanted(far), box=far)
    result = world.mapper.map_tile(world.task(0, 0, clipped=False))
    assert (result.windows, result.seen_px, result.nodata) == (0, 0, True)


def test_outside_the_area_is_255(reference: Any) -> None:
    grid, mask, score, source = reference
    area = slanted(NEPAL)
    transform = UTM45.transform(grid.box)
    draw = np.random.default_rng(0)
    for row, column in zip(draw.integers(0, grid.shape[0], 400), draw.integers(0, grid.shape[1], 400), strict=True):
        from shapely.geometry import Point

        x, y = transform @ (column + 0.5, row + 0.5)
        outside = not area.contains(Point(x, y))
        assert (mask[:, row, column] == UNMAPPED).all() == outside
        assert (score[:, row, column] == UNMAPPED).all() == outside
        assert source[row, column] == NO_SOURCE or not outside


def test_of_an_outline_each_block_sees_only_what_crosses_it_and_finds_the_same_pixels() -> None:
    turn = np.linspace(0, 2 * np.pi, 20_000)
    shore = 1 + 0.2 * np.sin(37 * turn) + np.random.default_rng(1).standard_normal(len(turn)).cumsum() / 300
    radius_m = 3 * BLOCK_PX * UTM45.res_x
    area = Polygon(np.c_[np.cos(turn) * shore, np.sin(turn) * shore] * radius_m).buffer(0)
    cells = list(PixelBox(-4 * BLOCK_PX, -4 * BLOCK_PX, 4 * BLOCK_PX, 4 * BLOCK_PX).cells(BLOCK_PX))
    inside = [outline(area, UTM45, cell) for cell in cells]
    for cell, found in zip(cells, inside, strict=True):
        whole = rasterize([(area, 1)], out_shape=cell.shape, transform=UTM45.transform(cell), dtype=np.uint8)
        assert (found == (whole == 1)).all()
    assert {bool(found.all()) for found in inside} == {bool(found.any()) for found in inside} == {True, False}


def test_an_area_that_runs_along_the_edges_of_blocks_covers_them() -> None:
    inner = PixelBox(0, 0, 2 * BLOCK_PX, 3 * BLOCK_PX)
    for bend in (0.0, 1e-9, -1e-9, 1e-3, -1e-3):  # as edges are that were straight in longitude and latitude
        left, bottom, right, top = UTM45.bounds(inner)
        edge = segmentize(box(left - bend, bottom - bend, right + bend, top + bend), 7.0)
        for cell in inner.cells(BLOCK_PX):
            assert outline(edge, UTM45, cell).all()
        assert not outline(edge, UTM45, PixelBox(-BLOCK_PX, 0, 0, BLOCK_PX)).any()


@pytest.mark.parametrize("gap_px", [0.0, 0.25, 1.0, 2.0])
def test_an_area_that_only_touches_a_block_or_lies_beside_it_marks_no_pixel_of_it(gap_px: float) -> None:
    block = PixelBox(0, 0, BLOCK_PX, BLOCK_PX)
    left, bottom, right, top = UTM45.bounds(block)
    beside = box(right + gap_px * UTM45.res_x, bottom, right + 100, top)
    above = box(left, top + gap_px * UTM45.res_y, right, top + 100)
    assert not outline(beside, UTM45, block).any()
    assert not outline(above, UTM45, block).any()
    assert not outline(box(right, top, right + 100, top + 100), UTM45, block).any()  # a corner


def test_a_tile_that_the_area_does_not_touch_is_unmapped(tmp_path: Path, scenes: tuple[PlacedItem, ...]) -> None:
    corner = PixelBox(NEPAL.top, NEPAL.left, NEPAL.top + 40, NEPAL.left + 40)
    world = World(tmp_path, scenes, area=slanted(corner))
    last = world.grid.tile_shape
    result = world.mapper.map_tile(world.task(last[0] - 1, last[1] - 1))
    assert (result.asked_px, result.windows) == (0, 0)
    assert (world.stored()[0] == UNMAPPED).all()


def test_without_an_outline_the_whole_core_is_asked_for(tmp_path: Path, scenes: tuple[PlacedItem, ...]) -> None:
    world = World(tmp_path, scenes, area=slanted(NEPAL))
    assert asked_pixels(slanted(NEPAL), world.task(0, 0, clipped=False)).all()


# What is told of a tile ----------------------------------------------------------------------------------------------


@pytest.fixture
def one_tile(tmp_path: Path, scenes: tuple[PlacedItem, ...]) -> tuple[World, TileTask, TileResult]:
    """A tile that the outline crosses, mapped."""
    world = World(tmp_path, scenes, area=slanted(NEPAL))
    task = world.task(0, 1)
    return world, task, world.mapper.map_tile(task)


def test_a_tile_mapped_twice_leaves_the_same_mosaic(one_tile: tuple[World, TileTask, TileResult]) -> None:
    world, task, result = one_tile
    before = {path: path.read_bytes() for path in Path(world.mosaic.url).rglob("*") if path.is_file()}
    again = world.mapper.map_tile(task)
    assert {path: path.read_bytes() for path in Path(world.mosaic.url).rglob("*") if path.is_file()} == before
    assert replace(again, seconds={}, reused=0) == replace(result, seconds={})


def test_the_checksums_told_are_those_of_what_is_stored(one_tile: tuple[World, TileTask, TileResult]) -> None:
    world, task, result = one_tile
    for prompt, told in result.checksums:
        mask, score, source = world.mosaic.read(world.grid, task.tile, 0, prompt)
        assert checksum(mask, score) == told
        assert source_checksum(source) == result.source_checksum


def test_the_counts_told_are_those_of_what_is_stored(one_tile: tuple[World, TileTask, TileResult]) -> None:
    world, task, result = one_tile
    masks = [world.mosaic.read(world.grid, task.tile, 0, prompt)[0] for prompt in (0, 1)]
    assert result.present_px == tuple(int((mask == PRESENT).sum()) for mask in masks)
    assert result.asked_px == int((masks[0] != UNMAPPED).sum())
    assert result.seen_px == int((masks[0] < UNOBSERVED).sum())


def test_the_seam_told_is_a_share(one_tile: tuple[World, TileTask, TileResult]) -> None:
    assert one_tile[2].seam is not None
    assert 0 < one_tile[2].seam < 0.5


def test_only_the_missing_prompts_are_written(tmp_path: Path, scenes: tuple[PlacedItem, ...], reference: Any) -> None:
    grid, mask, _, _ = reference
    world = World(tmp_path, scenes, area=slanted(NEPAL))
    world.mapper.map_tile(world.task(0, 1, prompts=(1,), write_source=False))
    here = world.grid.tile(0, 1).core.within(grid.box)
    stored, _, source = world.stored()
    assert (stored[0] == UNMAPPED).all()
    assert (stored[1][here] == mask[1][here]).all()
    assert (source == NO_SOURCE).all()


# The model's side ----------------------------------------------------------------------------------------------------


class Counting:
    """The model of known answers, that notes how it is asked."""

    def __init__(self) -> None:
        self._net = models.load("colour")
        self.name, self.window_px, self.band_names = self._net.name, self._net.window_px, self._net.band_names
        self.device, self.fingerprint = "cpu", "counting"
        self.texts: list[list[str]] = []
        self.batches: list[int] = []

    def encode_text(self, expressions: Any) -> Any:
        self.texts.append(list(expressions))
        return self._net.encode_text(expressions)

    def logits(self, pixels: NDArray[np.uint8], text: Any) -> Logits:
        self.batches.append(len(pixels))
        return self._net.logits(pixels, text)


def test_text_is_encoded_once_a_run(tmp_path: Path, scenes: tuple[PlacedItem, ...]) -> None:
    net = Counting()
    World(tmp_path, scenes, area=slanted(NEPAL), segmenter=net).mapped()
    assert net.texts == [["what is red", "what is blue"]]


def test_the_model_is_never_given_more_windows_than_the_batch(tmp_path: Path, scenes: tuple[PlacedItem, ...]) -> None:
    net = Counting()
    World(tmp_path, scenes, area=slanted(NEPAL), segmenter=net, batch=4).mapped()
    assert max(net.batches) == 4


class OnGpu(Counting):
    """A model that says it runs on a GPU, where the shape of a batch may change the last bit."""

    def __init__(self) -> None:
        super().__init__()
        self.device = "cuda:0"


def test_on_a_gpu_every_batch_has_one_shape_and_the_answer_is_the_same(
    tmp_path: Path, scenes: tuple[PlacedItem, ...]
) -> None:
    on_cpu = World(tmp_path / "cpu", scenes, area=slanted(NEPAL), segmenter=Counting(), batch=4)
    net = OnGpu()
    on_gpu = World(tmp_path / "gpu", scenes, area=slanted(NEPAL), segmenter=net, batch=4)
    task = on_cpu.task(0, 0)
    assert on_gpu.mapper.map_tile(task).checksums == on_cpu.mapper.map_tile(task).checksums
    assert set(net.batches) == {4}


def test_windows_without_a_pixel_to_know_are_not_looked_at(tmp_path: Path, scenes: tuple[PlacedItem, ...]) -> None:
    net = Counting()
    world = World(tmp_path, scenes, area=slanted(NEPAL), segmenter=net, shard_px=512)
    result = world.mapper.map_tile(world.task(0, 0))
    assert result.windows == sum(net.batches)
    assert result.windows < len(list(Windows(size_px=96, overlap_px=32).touching(NEPAL)))


class Broken(Counting):
    """A model whose arithmetic overflows."""

    def logits(self, pixels: NDArray[np.uint8], text: Any) -> Logits:
        return np.asarray(super().logits(pixels, text) * np.float32(np.nan), np.float32)


def test_a_model_that_answers_no_number_leaves_no_tile(tmp_path: Path, scenes: tuple[PlacedItem, ...]) -> None:
    world = World(tmp_path, scenes, area=slanted(NEPAL), segmenter=Broken())
    with pytest.raises(MapperError, match="not a number"):
        world.mapper.map_tile(world.task(0, 0))
    assert (world.stored()[0] == UNMAPPED).all()


def test_a_setup_is_all_that_a_worker_needs(tmp_path: Path, scenes: tuple[PlacedItem, ...], reference: Any) -> None:
    grid, mask, _, _ = reference
    world = World(tmp_path, scenes, area=slanted(NEPAL))
    TileMapper.load(world.setup).map_tile(world.task(1, 1))
    here = world.grid.tile(1, 1).core.within(grid.box)
    assert (world.stored()[0][:, *here] == mask[:, *here]).all()


def test_a_task_is_named_by_zone_tile_and_step(tmp_path: Path) -> None:
    world = World(tmp_path, (), area=slanted(NEPAL))
    assert world.task(1, 2).name == "0/r1c2/t0"
