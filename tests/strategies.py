"""Values for property tests: boxes, lattices, grids and windows as jobs make them."""

from __future__ import annotations

from hypothesis import strategies as st

from mapper.grid import Grid, Lattice, PixelBox, Windows

FAR_PX = 50_000_000
"""Lattice pixels run this far from the CRS's zero: 15 000 km at 0.3 m."""


def boxes(*, largest_px: int = 400, far_px: int = FAR_PX) -> st.SearchStrategy[PixelBox]:
    """Boxes with at least one pixel, anywhere."""
    corner = st.integers(-far_px, far_px)
    side = st.integers(1, largest_px)
    return st.builds(
        lambda top, left, height, width: PixelBox(top, left, top + height, left + width), corner, corner, side, side
    )


def lattices() -> st.SearchStrategy[Lattice]:
    """Lattices in metres, square or not, with and without a phase."""
    resolution = st.sampled_from([0.06, 0.1, 0.3, 0.5, 1.0, 10.0, 28.5, 30.0])
    phase = st.sampled_from([0.0, 0.25, 0.5, 0.9])
    return st.builds(
        lambda res_x, res_y, x, y: Lattice(
            crs="EPSG:32645", res_x=res_x, res_y=res_y, phase_x=x * res_x, phase_y=y * res_y
        ),
        resolution,
        resolution,
        phase,
        phase,
    )


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Grids of a few small shards, anywhere."""
    chunk_px = draw(st.sampled_from([4, 8, 16]))
    shard_px = chunk_px * draw(st.integers(1, 4))
    row, column = draw(st.integers(-1000, 1000)), draw(st.integers(-1000, 1000))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return Grid(
        lattice=draw(lattices()),
        box=PixelBox(row * shard_px, column * shard_px, (row + rows) * shard_px, (column + columns) * shard_px),
        shard_px=shard_px,
        chunk_px=chunk_px,
    )


@st.composite
def window_lattices(draw: st.DrawFn, *, largest_px: int = 64) -> Windows:
    """Windows of any size and any overlap that is allowed."""
    size_px = draw(st.integers(1, largest_px))
    return Windows(size_px=size_px, overlap_px=draw(st.integers(0, size_px // 2)))


def parts_of(box: PixelBox) -> st.SearchStrategy[PixelBox]:
    """Boxes inside a box, with at least one pixel."""

    def of_corners(ys: tuple[int, int], xs: tuple[int, int]) -> PixelBox:
        return PixelBox(min(ys), min(xs), max(ys) + 1, max(xs) + 1)

    rows, columns = st.integers(box.top, box.bottom - 1), st.integers(box.left, box.right - 1)
    return st.builds(of_corners, st.tuples(rows, rows), st.tuples(columns, columns))
