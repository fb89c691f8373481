"""The objects of a mosaic: nothing cut, nothing doubled, wherever shards end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
import rasterio.features
import shapely
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.transform import IDENTITY
from scipy import ndimage
from shapely.geometry import shape

from mapper.grid import Grid, Lattice, PixelBox
from mapper.imagery import NO_SOURCE
from mapper.layout import MosaicSpec
from mapper.masks import PRESENT, UNMAPPED, UNOBSERVED
from mapper.mosaic import Mosaic, TileLayers
from mapper.outlines import ObjectBatch, ShardsSeen, map_objects
from mapper.outlines.fragments import Connectivity
from mapper.outlines.span_area import span_areas
from mapper.pixel_area import pixel_area_m2
from mapper.prompts import Prompt

LATTICE = Lattice(crs="EPSG:32645", res_x=0.5, res_y=0.5)
TOP, LEFT = -6_120_013, 668_037
"""Where masks begin on the lattice: at no border of a shard."""

CONNECTIVITIES = pytest.mark.parametrize("connectivity", [4, 8])


class Held(Mosaic):
    """A mosaic whose layers are arrays, and that remembers which shards were looked into."""

    url = "memory://held"

    def __init__(self, layers: dict[str, NDArray[Any]]) -> None:
        self._layers = layers
        self.looked: set[tuple[int, int]] = set()

    def layer(self, grid: Grid, name: str, box: PixelBox, *, time: int, prompt: int = 0) -> NDArray[Any]:
        self.looked |= {(tile.row, tile.column) for tile in grid.tiles_in(box)}
        return self._layers[name][box.within(grid.box)]


def drawn(*rows: str) -> NDArray[np.uint8]:
    """A mask as one sees it: # present, . absent, ? unobserved, blank unmapped."""
    values = {"#": PRESENT, ".": 0, "?": UNOBSERVED, " ": UNMAPPED}
    return np.array([[values[pixel] for pixel in row] for row in rows], np.uint8)


def stored_with(mask: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """A score and a source for it, the same for the same mask: noise, and scenes in patches, with gaps."""
    draw = np.random.default_rng(mask.size)
    score = np.where(mask > PRESENT, mask, draw.integers(0, 251, mask.shape))
    source = ndimage.zoom(draw.integers(0, 3, (9, 9)), (mask.shape[0] / 9, mask.shape[1] / 9), order=0)
    source = np.resize(source, mask.shape)
    return score.astype(np.uint8), np.where(source == 2, NO_SOURCE, source).astype(np.uint32)


def laid(
    mask: NDArray[np.uint8], shard_px: int, url: str | None = None, *, at: tuple[int, int] = (TOP, LEFT)
) -> tuple[Mosaic, Grid]:
    """A mosaic of a mask whose upper left pixel lies there on the lattice; without a URL it is held in arrays."""
    place = PixelBox(at[0], at[1], at[0] + mask.shape[0], at[1] + mask.shape[1])
    grid = Grid(lattice=LATTICE, box=place.snapped(shard_px), shard_px=shard_px, chunk_px=min(8, shard_px))
    layers: dict[str, NDArray[Any]] = {name: np.full(grid.shape, UNMAPPED, np.uint8) for name in ("mask", "score")}
    layers["source"] = np.full(grid.shape, NO_SOURCE, np.uint32)
    for layer, values in zip(layers.values(), (mask, *stored_with(mask)), strict=True):
        layer[place.within(grid.box)] = values
    if url is None:
        return Held(layers), grid
    spec = MosaicSpec(
        grids=(grid,),
        prompts=(Prompt(name="thing", expression="things"),),
        times=(datetime(2024, 6, 1, tzinfo=UTC),),
        made_by={},
    )
    mosaic = Mosaic.create(url, spec)
    for tile in grid.tiles():
        part, score, source = (layer[tile.core.within(grid.box)] for layer in layers.values())
        if (part != UNMAPPED).any():
            mosaic.write(grid, tile, 0, TileLayers(mask=part[None], score=score[None], source=source, prompts=(0,)))
    return mosaic, grid


def joined(batches: Sequence[ObjectBatch]) -> ObjectBatch:
    """All of them, sorted by anchor."""
    nothing: dict[str, Any] = {field.name: np.empty(0) for field in fields(ObjectBatch)}
    nothing |= {"anchor": np.empty((0, 2)), "bounds": np.empty((0, 4)), "geometry": np.empty(0, np.object_)}
    if not batches:
        return ObjectBatch(**nothing)
    columns = {
        field.name: np.concatenate([getattr(one, field.name) for one in batches]) for field in fields(ObjectBatch)
    }
    order = np.lexsort(columns["anchor"].T[::-1])
    return ObjectBatch(**{name: column[order] for name, column in columns.items()})


def found(mosaic: Mosaic, grid: Grid, **asked: Any) -> ObjectBatch:
    return joined(list(map_objects(mosaic, grid, prompt=0, time=0, **asked)))


def told(objects: ObjectBatch) -> list[Any]:
    """All that is known of objects, to be compared to the bit."""
    numbers = [getattr(objects, field.name).tolist() for field in fields(objects) if field.name != "geometry"]
    return [*numbers, [None if one is None else one.wkb for one in objects.geometry]]


def raster(outlines: NDArray[np.object_], grid: Grid) -> NDArray[np.int32]:
    """Outlines as pixels again, numbered from 1; rasterio's own way."""
    if not len(outlines):
        return np.zeros(grid.shape, np.int32)
    numbered = [(outline, number) for number, outline in enumerate(outlines, 1)]
    burnt: NDArray[np.int32] = rasterio.features.rasterize(
        numbered, grid.shape, transform=grid.lattice.transform(grid.box), dtype="int32"
    )
    return burnt


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Noise of every density and grain, with gaps."""
    rows, columns = draw(st.tuples(st.integers(1, 45), st.integers(1, 45)))
    seed, grain = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([1, 1, 2, 5]))
    present, gap = draw(st.sampled_from([0.1, 0.4, 0.6, 0.8, 0.95])), draw(st.sampled_from([0.0, 0.1]))
    values = np.random.default_rng(seed).choice(
        np.array([PRESENT, 0, UNOBSERVED, UNMAPPED], np.uint8),
        (rows, columns),
        p=[present * (1 - gap), (1 - present) * (1 - gap), gap / 2, gap / 2],
    )
    return values.repeat(grain, axis=0).repeat(grain, axis=1)[:rows, :columns]


# Exactness -----------------------------------------------------------------------------------------------------------


@given(masks(), st.sampled_from([8, 16, 24, 64]), st.sampled_from([4, 8]))
def test_objects_are_those_of_the_whole_mask(mask: NDArray[np.uint8], shard: int, connectivity: Connectivity) -> None:
    objects = found(*laid(mask, shard), connectivity=connectivity)
    score, source = stored_with(mask)
    labels, count = ndimage.label(mask == PRESENT, np.ones((3, 3)) if connectivity == 8 else None)
    expected = []
    for number in range(1, count + 1):
        row, column = np.nonzero(labels == number)
        at = np.flatnonzero(row == row.min())
        scenes = source[row, column]
        votes = {int(one): int((scenes == one).sum()) for one in np.unique(scenes) if one != NO_SOURCE}
        expected.append(
            (
                [row.min() + TOP, column[at].min() + LEFT],
                len(row),
                [row.min() + TOP, column.min() + LEFT, row.max() + 1 + TOP, column.max() + 1 + LEFT],
                score[row, column].sum(dtype=np.int64) / (250 * len(row)),
                min(votes, key=lambda one: (-votes[one], one)) if votes else int(NO_SOURCE),
            )
        )
    got = zip(
        objects.anchor.tolist(),
        objects.pixels.tolist(),
        objects.bounds.tolist(),
        objects.score.tolist(),
        objects.source.tolist(),
        strict=True,
    )
    assert list(got) == sorted(expected)


@given(masks(), st.sampled_from([8, 16, 24, 64]), st.sampled_from([4, 8]))
def test_outlines_are_valid_and_hold_their_pixels_and_no_others(
    mask: NDArray[np.uint8], shard: int, connectivity: Connectivity
) -> None:
    mosaic, grid = laid(mask, shard)
    objects = found(mosaic, grid, connectivity=connectivity)
    assert shapely.is_valid(objects.geometry).all()
    assert (shapely.area(objects.geometry) == 0.25 * objects.pixels).all()
    labels = raster(objects.geometry, grid)
    whole = mosaic.layer(grid, "mask", grid.box, time=0)
    assert ((labels > 0) == (whole == PRESENT)).all()
    assert (np.bincount(labels.ravel(), minlength=len(objects) + 1)[1:] == objects.pixels).all()


@given(masks(), st.sampled_from([8, 16, 64]))
def test_four_connected_outlines_are_gdals(mask: NDArray[np.uint8], shard: int) -> None:
    objects = found(*laid(mask, shard), connectivity=4)
    whole = (mask == PRESENT).astype(np.uint8)
    theirs = [shape(one) for one, _ in rasterio.features.shapes(whole, mask=whole == 1, transform=IDENTITY)]
    mine = shapely.transform(objects.geometry, lambda xy: np.rint(xy / [0.5, -0.5]) - [LEFT, TOP])
    assert {shapely.normalize(one).wkb for one in mine} == {shapely.normalize(one).wkb for one in theirs}
    assert len(mine) == len(theirs)


@given(masks(), st.sampled_from([4, 8]))
def test_objects_do_not_depend_on_the_shards(mask: NDArray[np.uint8], connectivity: Connectivity) -> None:
    once = told(found(*laid(mask, 64), connectivity=connectivity))
    for shard in (8, 16, 24):
        assert told(found(*laid(mask, shard), connectivity=connectivity)) == once


def test_outlines_run_counter_clockwise_and_have_no_needless_point() -> None:
    (house,) = found(*laid(drawn("....", ".##.", ".##.", "...."), 8)).geometry
    assert house.exterior.is_ccw
    assert shapely.get_num_coordinates(house) == 5


SHAPES = {
    "spiral": (
        drawn(
            "#########",
            "........#",
            "#######.#",
            "#.....#.#",
            "#.###.#.#",
            "#.#...#.#",
            "#.#####.#",
            "#.......#",
            "#########",
        ),
        1,
        1,
    ),
    "checkerboard": ((np.indices((16, 16)).sum(0) % 2).astype(np.uint8), 128, 1),
    "rings in rings": (
        drawn("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######").repeat(3, 0).repeat(3, 1),
        2,
        2,
    ),
    "two squares at a corner": (np.kron(np.eye(2), np.ones((8, 8))).astype(np.uint8), 2, 1),
    "a ring closed by a corner": (drawn("####", "#..#", "#.#.", "####"), 1, 1),
    "a frame": (np.pad(np.zeros((20, 20), np.uint8), 1, constant_values=1), 1, 1),
    "everything": (np.ones((24, 24), np.uint8), 1, 1),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("shard", [8, 16, 64])
@pytest.mark.parametrize("corner", [(0, 0), (-8, -8), (-4, -5)], ids=str)
def test_a_figure_is_so_many_objects(name: str, shard: int, corner: tuple[int, int]) -> None:
    mask, by_side, by_corner = SHAPES[name]
    mosaic, grid = laid(mask, shard, at=corner)
    four, eight = (found(mosaic, grid, connectivity=connectivity) for connectivity in (4, 8))
    assert (len(four), len(eight)) == (by_side, by_corner)
    assert shapely.is_valid(eight.geometry).all()
    assert sum(outline.area for outline in eight.geometry) == 0.25 * mask.sum()


def test_what_hangs_together_by_corners_is_a_multipolygon_of_what_hangs_together_by_sides() -> None:
    (outline,) = found(*laid(SHAPES["two squares at a corner"][0], 8, at=(-8, -8))).geometry
    assert [part.bounds for part in outline.geoms] == [(-4.0, 0.0, 0.0, 4.0), (0.0, -4.0, 4.0, 0.0)]


def test_a_gap_between_two_halves_makes_two_objects() -> None:
    assert len(found(*laid(drawn("##?##", "## ##"), 8))) == 2


# Area ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crs", "resolution", "top", "left"),
    [
        ("EPSG:32645", 0.5, -11_121_472, 667_648),
        ("EPSG:32645", 10.0, -600_000, 20_648),
        ("EPSG:3857", 30.0, -200_000, 30_000),
        ("EPSG:4326", 0.001, -60_000, 30_000),
        ("EPSG:32645", 500.0, -9_000, 600),
    ],
)
def test_the_area_of_spans_is_that_of_their_pixels(crs: str, resolution: float, top: int, left: int) -> None:
    box = PixelBox(top, left, top + 200, left + 200)
    lattice = Lattice(crs=crs, res_x=resolution, res_y=resolution)
    draw = np.random.default_rng(0)
    row, begin = draw.integers(0, 200, (2, 500))
    end = np.minimum(200, begin + draw.integers(1, 200, 500))
    areas = span_areas(lattice, box)
    pixel = pixel_area_m2(lattice, box)
    expected = np.array([pixel[r, b:e].sum() for r, b, e in zip(row, begin, end, strict=True)])
    # Each end is rounded to 2^-22 of up to two pixels; the scale bends by 3e-8 between the points it is known at.
    assert (np.abs(areas(row, begin, end) * areas.unit_m2 - expected) < 2**-21 * pixel.max() + 1e-7 * expected).all()


def test_the_area_of_an_object_is_that_of_its_pixels() -> None:
    mask = (ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(90, 90)), 4) > 0).astype(np.uint8)
    objects = found(*laid(mask, 16))
    pixel = pixel_area_m2(LATTICE, PixelBox(TOP, LEFT, TOP + 90, LEFT + 90))
    assert objects.area_m2.sum() == pytest.approx(pixel[mask == 1].sum(), rel=1e-7)


# Order, processes, what is told --------------------------------------------------------------------------------------


def test_several_processes_give_the_same_objects_in_the_same_order(tmp_path: Any) -> None:
    mask = (np.random.default_rng(2).random((60, 60)) < 0.5).astype(np.uint8)
    mosaic, grid = laid(mask, 16, str(tmp_path / "map.zarr"))
    alone, together = (
        [told(batch) for batch in map_objects(mosaic, grid, prompt=0, time=0, workers=workers)] for workers in (1, 2)
    )
    assert alone == together


def test_objects_come_with_their_shard_or_behind_the_row_of_shards_in_which_they_end() -> None:
    mask = np.zeros((16, 24), np.uint8)
    mask[1, 1] = mask[1, 7:9] = mask[1, 20] = mask[7:9, 4] = mask[12, 12] = 1
    mosaic, grid = laid(mask, 8, at=(0, 0))
    batches = [batch.anchor.tolist() for batch in map_objects(mosaic, grid, prompt=0, time=0)]
    assert batches == [[[1, 1]], [[1, 20]], [[1, 7]], [[12, 12]], [[7, 4]]]


def test_without_outlines_everything_else_is_the_same() -> None:
    mosaic, grid = laid((np.random.default_rng(3).random((40, 40)) < 0.4).astype(np.uint8), 16)
    with_them, without = found(mosaic, grid), found(mosaic, grid, outlines=False)
    assert told(with_them)[:-1] == told(without)[:-1]
    assert set(without.geometry) == {None}


def test_pixels_are_told_by_what_is_known_of_them() -> None:
    mosaic, grid = laid(drawn("##..??", "#....?"), 8, at=(0, 5))
    seen: list[ShardsSeen] = []
    list(map_objects(mosaic, grid, prompt=0, time=0, progress=seen.append))
    assert [(one.shards, one.of) for one in seen] == [(1, 2), (2, 2)]
    assert np.sum([one.pixels for one in seen], axis=0).tolist() == [9, 3, 2 * 64 - 12]


def test_a_coarser_level_has_objects_too(tmp_path: Any) -> None:
    mosaic, grid = laid(np.ones((20, 20), np.uint8), 16, str(tmp_path / "map.zarr"), at=(0, 0))
    level = grid.pyramid()[1]
    mask = np.zeros((1, *level.shape), np.uint8)
    mask[0, 2:5, 2:14] = 1
    for tile in level.tiles():
        rows, columns = tile.core.within(level.box)
        part = mask[:, rows, columns]
        source = np.zeros(part.shape[1:], np.uint32)
        mosaic.write(level, tile, 0, TileLayers(mask=part, score=part * 200, source=source, prompts=(0,)))
    assert found(mosaic, level).bounds.tolist() == [[2, 2, 5, 14]]


# A box ---------------------------------------------------------------------------------------------------------------


@given(masks(), st.sampled_from([8, 16]), st.sampled_from([4, 8]), st.data())
def test_a_box_gives_whole_every_object_with_a_pixel_in_it(
    mask: NDArray[np.uint8], shard: int, connectivity: Connectivity, data: st.DataObject
) -> None:
    top, left = data.draw(st.tuples(st.integers(-3, 45), st.integers(-3, 45)))
    box = PixelBox(TOP + top, LEFT + left, TOP + top + data.draw(st.integers(1, 20)), LEFT + left + 6)
    mosaic, grid = laid(mask, shard)
    whole = found(mosaic, grid, connectivity=connectivity)
    labels = raster(whole.geometry, grid)
    inside = box.intersection(grid.box)
    touched = [] if inside.empty else [number for number in np.unique(labels[inside.within(grid.box)]) if number]
    some = found(mosaic, grid, connectivity=connectivity, box=box)
    rows = np.array(touched, np.int64) - 1
    expected = ObjectBatch(**{field.name: getattr(whole, field.name)[rows] for field in fields(whole)})
    assert told(some) == told(expected)


def spied(mask: NDArray[np.uint8], box: PixelBox) -> tuple[int, set[tuple[int, int]]]:
    """How many objects a box gives, and the shards looked into for them; the mask begins at the lattice's zero."""
    mosaic, grid = laid(mask, 8, at=(0, 0))
    assert isinstance(mosaic, Held)
    return len(found(mosaic, grid, box=box)), mosaic.looked


def test_an_object_is_followed_into_the_shards_it_touches_and_no_others() -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[4, 4:20] = mask[4:20, 19] = 1  # east over two borders, then south over two
    mask[28, :] = mask[:, 29] = 1  # others, not asked for
    count, looked = spied(mask, PixelBox(3, 3, 6, 6))
    assert (count, looked) == (1, {(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)})


def test_what_ends_at_a_border_is_looked_for_behind_it_and_no_further() -> None:
    mask = np.zeros((24, 24), np.uint8)
    mask[0:8, 2] = 1
    assert spied(mask, PixelBox(0, 0, 4, 4)) == (1, {(0, 0), (1, 0)})


def test_what_ends_in_a_corner_of_a_shard_is_looked_for_across_it() -> None:
    mask = np.zeros((24, 24), np.uint8)
    mask[7, 7] = mask[8, 8] = 1
    assert spied(mask, PixelBox(0, 0, 8, 8)) == (1, {(0, 0), (0, 1), (1, 0), (1, 1)})


def test_a_box_beside_the_mosaic_holds_nothing() -> None:
    assert spied(np.ones((8, 8), np.uint8), PixelBox(100, 100, 120, 120)) == (0, set())
