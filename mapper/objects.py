"""From a mask and its score to objects: where each one lies, how sure it is, and which to leave out.

    mask, score ──► components ──► boxes along the axes ──► inner ones out ──► overlapping ones out
                        │     └──► boxes of the smallest area, turned ──► inner ones out
                        └ cut along a contour map, where there is one

Two pixels that touch by a side or a corner belong to one object. Boxes are rows of numbers in pixels, x to the
right and y down. A box along the axes is ``x1, y1, x2, y2`` with the right and bottom edge excluded: one pixel is
1 × 1. A turned box is its four corners ``x, y``, whole numbers that name pixels: one pixel is four times itself.

A pixel nobody observed is nobody's object, whatever its score.

The rules follow RemoteSAM's mask to boxes (Yao et al. 2025, section 3.3); pairs are found with a tree, so that a
hundred thousand boxes take seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from mapper.errors import SpecError
from mapper.masks import ABSENT, PRESENT, UNMAPPED, UNOBSERVED

Boxes: TypeAlias = NDArray[np.float64]
"""Rows of ``x1, y1, x2, y2`` or of four corners ``x, y``; tasks put the score behind."""

CONTOUR_ABOVE = 0.25
"""Where a contour map says more than this, an object is cut."""

CRUMB_SHARE = 5
"""Of the pieces a contour leaves of an object, those of at most one fifth of the largest are crumbs."""

OVERLAP_SHARE = 0.5
"""Two boxes that share more than this of their union are one object seen twice."""

_TOUCHING = np.ones((3, 3), np.bool_)
_PAIRS_AT_ONCE = 1 << 21
_BLOCK = 2048
_FIRST_HOLDERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """The objects of one mask; row ``n`` of each array is one object."""

    labels: NDArray[np.int32]
    """``(y, x)``: 0 where there is nothing, else the number of the component."""

    number: NDArray[np.int64]
    """Its number in ``labels``."""

    area_px: NDArray[np.int64]
    """Pixels."""

    score: NDArray[np.float64]
    """Mean score of its pixels, 0 to 1."""

    bounds: Boxes
    """``(object, 4)``: x1, y1, x2, y2."""

    def __len__(self) -> int:
        return len(self.number)

    def corners(self) -> Boxes:
        """``(object, 8)``: the turned box of each, see ``turned_boxes``."""
        return turned_boxes(self.labels)[self.number - 1]


def find_objects(
    mask: NDArray[Any],
    score: NDArray[Any],
    contour: NDArray[Any] | None = None,
    *,
    contour_above: float = CONTOUR_ABOVE,
) -> Objects:
    """The objects of a mask, from the top down.

    Args:
        mask: ``(y, x)``, True or 1 where an object is; 254 and 255 are gaps, as in a mosaic.
        score: float ``(y, x)``, 0 to 1.
        contour: float ``(y, x)``, 0 to 1: how probable an outline is, to part what touches. An object that
            vanishes under it is left out, and so are crumbs.
        contour_above: from where on the contour map cuts.

    Raises:
        SpecError: the arrays are no pictures of one size, or the mask has other values.
    """
    _check(mask=mask, score=score, contour=contour)
    whole = np.asarray(mask) == PRESENT
    if contour is None:
        labels, count = ndimage.label(whole, _TOUCHING)
        number = np.arange(1, count + 1)
        area = _areas(labels, count)
    else:
        labels, count = ndimage.label(whole & ~(np.asarray(contour) > contour_above), _TOUCHING)
        area = _areas(labels, count)
        number = _pieces_worth_keeping(labels, area, ndimage.label(whole, _TOUCHING)[0])
    there = labels > 0
    total = np.bincount(labels[there] - 1, weights=np.asarray(score)[there], minlength=count)
    slices = ndimage.find_objects(labels)
    bounds = np.array([(x.start, y.start, x.stop, y.stop) for y, x in slices], np.float64).reshape(-1, 4)
    at = number - 1
    return Objects(labels=labels, number=number, area_px=area[at], score=total[at] / area[at], bounds=bounds[at])


def turned_boxes(labels: NDArray[np.int32]) -> Boxes:
    """The rectangle of the smallest area around each component, turned as it needs.

    One side lies along an edge of the convex hull (Freeman and Shapira 1975), so every edge is tried. Of equal
    ones the rectangle along the axes is taken.

    Args:
        labels: ``(y, x)``, 0 for nothing, else 1 to the number of components, each at least one pixel.

    Returns:
        float64 ``(component, 8)``: four corners ``x, y`` in order around the rectangle, each cut to whole pixels
        towards zero; they may lie outside the picture.
    """
    points, owner = _row_ends(labels)
    count = int(owner[-1]) + 1 if len(owner) else 0
    corners = np.zeros((count, 8))
    if not count:
        return corners
    hulls = shapely.convex_hull(shapely.linestrings(points, indices=owner))  # a line: quicker made than its points
    ring, owner = shapely.get_coordinates(hulls, return_index=True)
    ring = ring.astype(np.int64)
    begins = np.searchsorted(owner, np.arange(count + 1))
    for first, last in _chunks(np.diff(begins) ** 2):
        rows = slice(begins[first], begins[last])
        corners[first:last] = np.trunc(_smallest_rectangles(ring[rows], owner[rows] - first, last - first))
    return corners


def inner(bounds: Boxes) -> NDArray[np.bool_]:
    """Which boxes along the axes lie inside another one.

    Right and bottom have a pixel to spare: a box that ends one pixel further than another is inside it still. Two
    equal boxes are inside each other.

    Args:
        bounds: ``(box, 4)``: x1, y1, x2, y2.

    Returns:
        bool ``(box,)``.
    """
    unique, group, times = np.unique(bounds, axis=0, return_inverse=True, return_counts=True)
    within = times > 1
    size = unique[:, 2:] - unique[:, :2]
    largest = np.argsort(-size.prod(1), kind="stable")
    corner = shapely.points(unique[:, :2])
    begin, many = 0, _FIRST_HOLDERS
    while begin < len(unique):  # the largest hold most of the others, which then need not be tried again
        holders = largest[begin : begin + many]
        begin, many = begin + many, 4 * many
        tree = shapely.STRtree(shapely.box(*unique[holders].T))
        tried = np.flatnonzero(~within & ((size - 1).clip(0).prod(1) <= size[holders[0]].prod()))
        for small, large in _pairs(tree, corner[tried]):
            at, holder = tried[small], holders[large]
            one, other = unique[at], unique[holder]
            held = (one[:, :2] >= other[:, :2]).all(1) & (one[:, 2:] <= other[:, 2:] + 1).all(1) & (at != holder)
            within[at[held]] = True
    return np.asarray(within[group.reshape(-1)], np.bool_)


def inner_turned(corners: Boxes) -> NDArray[np.bool_]:
    """Which turned boxes lie inside another one.

    What counts is what of a box can be drawn: pixels from zero on, and left of and above the larger one of the two
    right and bottom ends; an outline is half a pixel wide to either side. So a box one pixel thin, upright or level,
    is inside any that ends no further.

    Args:
        corners: ``(box, 8)``: four whole corners ``x, y``, in order around the box.

    Returns:
        bool ``(box,)``.
    """
    points = corners.reshape(-1, 4, 2)
    low, high = points.min(1), points.max(1)
    within = np.zeros(len(points), np.bool_)
    if len(points) < 2:
        return within
    for axis in (0, 1):
        two_least = np.argsort(high[:, axis], kind="stable")[:2]
        least_other = np.full(len(points), high[two_least[0], axis])
        least_other[two_least[0]] = high[two_least[1], axis]
        thin = high[:, axis] <= np.maximum(low[:, axis], 0)
        within |= thin & (least_other <= high[:, axis])
    shapes = shapely.convex_hull(shapely.multipoints(points.reshape(-1, 2), indices=np.repeat(range(len(points)), 4)))
    visible = np.clip(low, 0, None)
    tree = shapely.STRtree(shapely.box(*(low - 1).T, *(high + 1).T))
    for small, large in _pairs(tree, shapely.points(visible)):
        possible = (visible[small] >= low[large]).all(1) & (high[small] <= high[large] + 1).all(1) & (small != large)
        small, large = small[possible & ~within[small]], large[possible & ~within[small]]
        end = np.maximum(high[small], high[large]) - 1
        # A quarter of a pixel more all around, so that a single row or column of pixels has an area too.
        drawn = shapely.intersection(shapes[small], shapely.box(-0.25, -0.25, *(end + 0.25).T))
        within[small[_covers(points[large], drawn)]] = True
    return within


def best_of_overlapping(bounds: Boxes, score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which boxes stay where several show one object: the best, and none that overlaps a better one that stays.

    Args:
        bounds: ``(box, 4)``: x1, y1, x2, y2.
        score: ``(box,)``; of equal ones the box listed first is better.

    Returns:
        The rows that stay, the best first. Two of them share at most half of their union.
    """
    order = np.argsort(-score, kind="stable")
    return order[_undisputed(bounds[order])]


def _undisputed(bounds: Boxes) -> NDArray[np.int64]:
    """Rows that stay, of boxes sorted from the best down.

    The better half is settled first and takes out of the other half what it overlaps. What stays of a crowd is
    little, so a crowd costs little too.
    """
    if len(bounds) <= _BLOCK:
        return _undisputed_of_few(bounds)
    half = len(bounds) // 2
    better = _undisputed(bounds[:half])
    lost = np.zeros(len(bounds), np.bool_)
    for _, row in _overlapping(bounds[better], bounds[half:]):
        lost[half + row] = True
    rest = np.flatnonzero(~lost[half:]) + half
    return np.concatenate([better, rest[_undisputed(bounds[rest])]])


def _undisputed_of_few(bounds: Boxes) -> NDArray[np.int64]:
    lost = np.zeros(len(bounds), np.bool_)
    disputes: dict[int, list[int]] = {}
    for one, other in _overlapping(bounds, bounds):
        later = other > one
        for better, worse in zip(one[later].tolist(), other[later].tolist(), strict=True):
            disputes.setdefault(better, []).append(worse)
    for better in sorted(disputes):
        if not lost[better]:
            lost[disputes[better]] = True
    return np.flatnonzero(~lost)


def _overlapping(some: Boxes, others: Boxes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows of both whose boxes share more than half of their union; then each holds the other's centre."""
    tree = shapely.STRtree(shapely.box(*some.T))
    for other, one in _pairs(tree, shapely.points((others[:, :2] + others[:, 2:]) / 2)):
        a, b = some[one], others[other]
        shared = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0).prod(1)
        union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
        much = shared > OVERLAP_SHARE * union
        yield one[much], other[much]


def _pairs(tree: shapely.STRtree, points: NDArray[Any]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows of points and of the tree's boxes around them, some thousand points at a time to bound the memory."""
    for begin in range(0, len(points), _BLOCK):
        row, box = tree.query(points[begin : begin + _BLOCK])
        yield row + begin, box


def _covers(quads: NDArray[np.float64], shapes: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each quadrangle, drawn with its outline, covers the shape beside it; what is empty is covered.

    Args:
        quads: ``(pair, 4, 2)``.
        shapes: convex geometries ``(pair,)``.
    """
    point, pair = shapely.get_coordinates(shapes, return_index=True)
    quad = quads[pair]
    side = np.roll(quad, -1, axis=1) - quad
    off = point[:, None] - quad
    left = side[..., 0] * off[..., 1] - side[..., 1] * off[..., 0]
    turn = np.where(_signed_area(quad) < 0, -1.0, 1.0)[:, None]
    # A drawn line passes half a pixel or less from the pixels it marks, measured across its longer extent.
    beyond = (turn * left < -0.5 * np.abs(side).max(-1)).any(1)
    beyond |= (point < quad.min(1) - 0.5).any(1) | (point > quad.max(1) + 0.5).any(1)
    covered = np.ones(len(shapes), np.bool_)
    covered[pair[beyond]] = False
    return covered


def _signed_area(quad: NDArray[np.float64]) -> NDArray[np.float64]:
    one, other = quad[:, 2] - quad[:, 0], quad[:, 3] - quad[:, 1]
    return np.asarray(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0], np.float64)


def _pieces_worth_keeping(
    labels: NDArray[np.int32], area: NDArray[np.int64], whole: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Numbers of the pieces that are no crumbs, those of one object together."""
    there = labels > 0
    owner = np.zeros(len(area), np.int64)
    owner[labels[there] - 1] = whole[there]
    largest = np.zeros(int(whole.max(initial=0)) + 1, np.int64)
    np.maximum.at(largest, owner, area)
    kept = np.flatnonzero(CRUMB_SHARE * area > largest[owner])
    return kept[np.argsort(owner[kept], kind="stable")] + 1


def _areas(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    return np.bincount(labels.reshape(-1), minlength=count + 1)[1:]


def _row_ends(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last pixel of every run of each component: ``(point, 2)`` x, y, and its number less one, sorted."""
    padded = np.pad(labels, ((0, 0), (1, 1)))
    there = labels > 0
    y, x = np.hstack([np.nonzero(there & (labels != other)) for other in (padded[:, :-2], padded[:, 2:])])
    owner = labels[y, x].astype(np.int64) - 1
    order = np.argsort(owner, kind="stable")
    return np.column_stack([x, y])[order], owner[order]


def _chunks(cost: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of items whose costs add up to about ``_PAIRS_AT_ONCE``; an item that costs more stands alone."""
    upto = np.cumsum(cost)
    begin = 0
    while begin < len(cost):
        spent = upto[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(upto, spent + _PAIRS_AT_ONCE, side="right")))
        yield begin, end
        begin = end


def _smallest_rectangles(ring: NDArray[np.int64], owner: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """``(hull, 8)`` from the points of hulls in order around each, whole numbers, so that nothing is rounded.

    Args:
        ring: ``(point, 2)``.
        owner: ``(point,)``: number of its hull, 0 to ``count``, sorted.
        count: of hulls.
    """
    points_of = np.bincount(owner, minlength=count)
    first_point = np.cumsum(points_of) - points_of
    edge = ring[1:] - ring[:-1]
    real = (owner[1:] == owner[:-1]) & edge.any(1)
    hull = np.concatenate([np.arange(count), owner[1:][real]])  # the axes first: they win where areas are equal
    way = np.concatenate([np.tile([[1, 0]], (count, 1)), edge[real]])

    # every way with every point of its hull
    times = points_of[hull]
    begins = np.cumsum(times) - times
    point = np.arange(times.sum()) + np.repeat(first_point[hull] - begins, times)
    x, y = ring[point].T
    dx, dy = np.repeat(way, times, axis=0).T
    along, across = x * dx + y * dy, y * dx - x * dy
    a1, a2 = np.minimum.reduceat(along, begins), np.maximum.reduceat(along, begins)
    c1, c2 = np.minimum.reduceat(across, begins), np.maximum.reduceat(across, begins)
    length2 = (way**2).sum(1)
    area = (a2 - a1).astype(np.float64) * (c2 - c1) / length2

    order = np.lexsort((area, hull))  # stable: the axes stay first
    best = order[np.searchsorted(hull[order], np.arange(count))]
    dx, dy = way[best].T
    corners = [
        number / length2[best]
        for a, c in ((a1, c1), (a2, c1), (a2, c2), (a1, c2))
        for number in (a[best] * dx - c[best] * dy, a[best] * dy + c[best] * dx)
    ]
    return np.column_stack(corners)


def _check(*, mask: NDArray[Any], score: NDArray[Any], contour: NDArray[Any] | None) -> None:
    arrays = {"mask": mask, "score": score} | ({} if contour is None else {"contour": contour})
    if mask.ndim != 2 or len({array.shape for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise SpecError(
            f"mask, score and contour are (y, x) of one size, and these are {shapes}",
            fix="take one prompt and one date of each",
        )
    if mask.dtype != np.bool_ and not np.isin(mask, (ABSENT, PRESENT, UNOBSERVED, UNMAPPED)).all():
        raise SpecError(
            f"a mask is True and False, or 0, 1, 254 and 255 as in a mosaic, and this has up to {mask.max()}",
            fix="give score > 0.5",
        )
    if not np.issubdtype(score.dtype, np.floating):
        raise SpecError(f"a score is float, 0 to 1, and this is {score.dtype}", fix="open it with mapper.open_mosaic")
