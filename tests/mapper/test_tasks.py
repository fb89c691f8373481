"""Objects and tasks: against RemoteSAM's own results, and against plain loops over every pair and every pixel."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

import mapper
from mapper import objects, tasks
from mapper.errors import SpecError
from mapper.objects import Boxes

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "remotesam"

Mask: TypeAlias = NDArray[np.bool_]
Score: TypeAlias = NDArray[np.float32]

KINDS = [f"{split}_{kind}_inner{kept}" for split in ("plain", "epoc") for kind in ("hbb", "obb") for kept in (0, 1)]


class Reference:
    """RemoteSAM's stored maps, and what it makes of them."""

    def __init__(self) -> None:
        self.maps = np.load(REFERENCE / "postprocess.npz")
        self.said: dict[str, Any] = json.loads((REFERENCE / "postprocess.json").read_text())
        self.names: list[str] = self.said["classes"]
        self.wrapper: dict[str, Any] = self.said["wrapper"]
        self.shape: tuple[int, int] = tuple(self.said["image_size"])
        coarse = self.maps["maps"].astype(np.float32) / 16
        self.network_scores: Score = (1 / (1 + np.exp(-coarse))).repeat(8, axis=1).repeat(8, axis=2)
        rows, columns = (np.arange(length) * 896 // length for length in self.shape)
        self.scores: Score = self.network_scores[:, rows[:, None], columns]
        self.contour: Score = self.stored("contour")

    def stored(self, name: str) -> Score:
        return np.asarray(self.maps[name] / 1024, np.float32)

    def contour_of(self, split: str) -> Score | None:
        return self.contour if split == "epoc" else None


@pytest.fixture(scope="module")
def reference() -> Reference:
    if not REFERENCE.is_dir():
        pytest.skip("the reference results lie beside the repository, in ../shared/reference, and are not here")
    return Reference()


def assert_same_boxes(found: Boxes, expected: Any) -> None:
    """The same rows in any order: scores to 1e-5, corners of turned boxes in any cyclic order to one pixel."""
    wanted = [np.asarray(row, np.float64) for row in expected or []]
    assert len(found) == len(wanted)
    for row in found:
        same = [other for other in wanted if _same_box(row[:-1], other[:-1]) and abs(row[-1] - other[-1]) <= 1e-5]
        assert same, f"{row} is not among {wanted}"
        wanted = [other for other in wanted if other is not same[0]]


def _same_box(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    if len(one) == 4:
        return bool((one == other).all())
    first, second = one.reshape(4, 2), other.reshape(4, 2)
    turns = [np.roll(way, turn, axis=0) for way in (second, second[::-1]) for turn in range(4)]
    return min(float(np.abs(first - turn).max()) for turn in turns) <= 1


# ── RemoteSAM's own results ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("picture", ["m2b", "m2b2"])
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_from_a_mask_are_remotesams(reference: Reference, picture: str, kind: str) -> None:
    score = reference.stored(f"{picture}_prob")
    split, shape, inner = kind.split("_")
    contour = reference.stored(f"{picture}_contour") if split == "epoc" else None
    found = tasks.boxes_from_mask(score > 0.5, score, contour, oriented=shape == "obb", keep_inner=inner == "inner1")
    assert_same_boxes(found, reference.said[picture][kind])


def test_boxes_are_inside_each_other_as_in_remotesam(reference: Reference) -> None:
    for one, other, is_inside in reference.said["inner_pairs"]:
        assert objects.inner(np.array([one, other], np.float64))[0] == is_inside, (one, other)


@pytest.mark.parametrize("split", ["plain", "epoc"])
def test_detections_and_counts_are_remotesams(reference: Reference, split: str) -> None:
    contour = reference.contour_of(split)
    found = tasks.detect(reference.scores, reference.names, contour=contour)
    for name in reference.names:
        assert_same_boxes(found[name], reference.wrapper[f"detection_{split}"][name])
        assert (np.diff(found[name][:, 4]) <= 0).all()
    assert tasks.count(reference.scores, reference.names, contour=contour) == reference.wrapper[f"counting_{split}"]


def test_grounded_boxes_are_remotesams(reference: Reference) -> None:
    found = {name: tasks.ground(score) for name, score in zip(reference.names, reference.scores, strict=True)}
    assert {name: None if box is None else box.tolist() for name, box in found.items()} == reference.wrapper[
        "grounding"
    ]


def test_labels_are_remotesams(reference: Reference) -> None:
    labels = tasks.classify_multi_label(reference.network_scores, reference.names)
    expected = reference.wrapper["multi_label"]
    assert [name for name, label in labels.items() if label.present] == expected["labels"]
    assert {name: label.score for name, label in labels.items()} == pytest.approx(expected["scores"], abs=1e-5)
    assert (
        tasks.classify_multi_class(reference.network_scores, reference.names)
        == reference.wrapper["multi_class"]["label"]
    )


def test_masks_are_remotesams(reference: Reference) -> None:
    masks = tasks.class_masks(reference.scores, reference.names)
    for number, name in enumerate(reference.names):
        assert np.packbits(masks[name]).tobytes() == reference.maps[f"mask_bits_{number}"].tobytes()
        assert masks[name].sum() == reference.wrapper["mask_pixels"][name]


def test_the_scores_used_here_are_remotesams(reference: Reference) -> None:
    for number, (name, score) in enumerate(zip(reference.names, reference.scores, strict=True)):
        np.testing.assert_allclose(score[::7, ::7], reference.maps[f"prob_s7_{number}"], atol=1e-5)
        assert score.mean(dtype=np.float64) == pytest.approx(reference.wrapper["prob_mean"][name], abs=1e-5)
        assert score.max() == pytest.approx(reference.wrapper["prob_max"][name], abs=1e-5)


@pytest.mark.parametrize("cells", [4, 9])
def test_counts_in_cells_are_those_of_remotesams_captions(reference: Reference, cells: Any) -> None:
    boxes = tasks.detect(reference.scores, reference.names)
    counts = tasks.count_in_cells(boxes, reference.shape, cells=cells)
    found = {str(cell): there for cell, there in enumerate(counts) if there}
    assert found == reference.wrapper[f"caption_{cells}_cell_counts"]


# ── against plain loops ─────────────────────────────────────────────────────────────────────────────────────


def masks() -> st.SearchStrategy[Mask]:
    return arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9))


def axis_boxes() -> st.SearchStrategy[Boxes]:
    """Few places and sizes, so that boxes nest, repeat and overlap."""
    box = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 6)] * 2).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    )
    return st.lists(box, max_size=40).map(lambda rows: np.array(rows, np.float64).reshape(-1, 4))


def flooded(mask: Mask) -> list[set[tuple[int, int]]]:
    """The components of a mask, by walking from pixel to pixel."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        edge = [left.pop()]
        component = set(edge)
        while edge:
            y, x = edge.pop()
            near = {(y + dy, x + dx) for dy, dx in itertools.product((-1, 0, 1), repeat=2)} & left
            left -= near
            component |= near
            edge += near
        found.append(component)
    return found


def drawn(box: NDArray[np.float64], height: int, width: int) -> Mask:
    """The pixels of a box on a small canvas, its right and bottom edge drawn too."""
    x1, y1, x2, y2 = box.astype(int)
    canvas = np.zeros((height, width), np.bool_)
    canvas[y1 : y2 + 1, x1 : x2 + 1] = True
    return canvas


@given(masks())
def test_an_object_is_what_one_can_walk_over(mask: Mask) -> None:
    score = np.linspace(0.01, 1, mask.size, dtype=np.float32).reshape(mask.shape)
    found = objects.find_objects(mask, score)
    expected = {
        (
            (min(x for _, x in c), min(y for y, _ in c), max(x for _, x in c) + 1, max(y for y, _ in c) + 1),
            len(c),
            round(float(np.mean([score[p] for p in c], dtype=np.float64)), 9),
        )
        for c in flooded(mask)
    }
    said = zip(found.bounds.tolist(), found.area_px.tolist(), found.score.tolist(), strict=True)
    assert {(tuple(bounds), area, round(mean, 9)) for bounds, area, mean in said} == expected
    assert len(found) == len(expected)


@given(masks(), st.randoms(use_true_random=False))
def test_a_contour_cuts_objects_and_leaves_no_crumbs(mask: Mask, random: Any) -> None:
    contour = np.array([[random.random() for _ in row] for row in mask])
    score = np.full(mask.shape, 0.75)
    expected = set()
    for component in flooded(mask):
        cut = np.zeros_like(mask)
        for pixel in component:
            cut[pixel] = contour[pixel] <= 0.25
        pieces = flooded(cut)
        largest = max(map(len, pieces), default=0)
        expected |= {(frozenset(piece)) for piece in pieces if len(piece) > largest / 5}
    found = objects.find_objects(mask, score, contour)
    said = {
        frozenset((int(y), int(x)) for y, x in zip(*np.nonzero(found.labels == number), strict=True))
        for number in found.number
    }
    assert said == expected


@given(axis_boxes())
def test_a_box_is_inside_when_all_that_is_drawn_of_it_is_drawn_of_another(boxes: Boxes) -> None:
    expected = [
        any(
            not (drawn(one, *ends) & ~drawn(other, *ends)).any()
            for m, other in enumerate(boxes)
            for ends in [np.maximum(one[2:], other[2:])[::-1].astype(int).tolist()]
            if m != n
        )
        for n, one in enumerate(boxes)
    ]
    assert objects.inner(boxes).tolist() == expected


def test_in_a_crowd_the_boxes_inside_are_those_that_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(4)
    corner = rng.integers(0, 120, (3000, 2))
    boxes = np.column_stack([corner, corner + rng.integers(1, 30, (3000, 2))]).astype(np.float64)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    pairs = (low >= boxes[:, :2]).all(2) & (high <= boxes[:, 2:] + 1).all(2) & ~np.eye(3000, dtype=np.bool_)
    assert objects.inner(boxes).tolist() == pairs.any(1).tolist()


@given(axis_boxes(), st.randoms(use_true_random=False))
def test_overlapping_boxes_leave_what_a_greedy_loop_leaves(boxes: Boxes, random: Any) -> None:
    score = np.array([random.randrange(8) / 8 for _ in boxes])
    kept: list[int] = []
    for n in sorted(range(len(boxes)), key=lambda n: -score[n]):
        if all(_iou(boxes[n], boxes[m]) <= 0.5 for m in kept):
            kept.append(n)
    assert objects.best_of_overlapping(boxes, score).tolist() == kept


def _iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    a, b = shapely.box(*one), shapely.box(*other)
    return float(a.intersection(b).area / a.union(b).area)


def test_a_crowd_leaves_what_a_greedy_loop_leaves() -> None:
    rng = np.random.default_rng(3)
    corner, size = rng.integers(0, 400, (6000, 2)), rng.integers(5, 40, (6000, 2))
    boxes, score = np.column_stack([corner, corner + size]).astype(np.float64), rng.random(6000)
    left = np.argsort(-score)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        shared = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        both = shared.clip(0).prod(1)
        left = left[both / (size[best].prod() + size[left].prod(1) - both) <= 0.5]
    assert objects.best_of_overlapping(boxes, score).tolist() == kept


# ── turned boxes ────────────────────────────────────────────────────────────────────────────────────────────


@given(masks())
def test_a_turned_box_is_the_smallest_rectangle_around_the_pixels(mask: Mask) -> None:
    found = objects.find_objects(mask, np.ones(mask.shape))
    for number, corners in zip(found.number, objects.turned_boxes(found.labels), strict=True):
        y, x = np.nonzero(found.labels == number)
        points = np.column_stack([x, y])
        area = min(_area_at(points, angle) for angle in _angles(points))
        cut = shapely.MultiPoint(corners.reshape(4, 2)).convex_hull  # to whole pixels: at most one off in x and y
        assert shapely.MultiPoint(points).within(cut.buffer(np.sqrt(2) + 1e-9))
        assert cut.area <= area + np.sqrt(2) * shapely.MultiPoint(points).convex_hull.length + 8


def _angles(points: NDArray[np.int64]) -> set[float]:
    ways = (points[:, None] - points).reshape(-1, 2)
    return {0.0, *np.arctan2(ways[:, 1], ways[:, 0]).tolist()}


def _area_at(points: NDArray[np.int64], angle: float) -> float:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return float(np.ptp(points @ turn, axis=0).prod())


def test_a_turned_rectangle_is_found_as_it_lies() -> None:
    y, x = np.mgrid[:60, :60]
    along, across = 3 * (x - 30) + 4 * (y - 30), 3 * (y - 30) - 4 * (x - 30)
    mask = (np.abs(along) <= 100) & (np.abs(across) <= 50)  # 40 × 20 pixels, its side along (3, 4)
    row = tasks.boxes_from_mask(mask, mask.astype(np.float32), oriented=True)[0]
    assert _same_box(row[:8], np.array([26, 8, 50, 40, 34, 52, 10, 20], np.float64))


def test_a_blob_of_w_by_h_pixels_has_a_turned_box_of_one_less_each_way() -> None:
    mask = np.zeros((20, 30), np.bool_)
    mask[5:9, 10:20] = True
    row = tasks.boxes_from_mask(mask, mask.astype(np.float32), oriented=True)[0]
    assert row.tolist() == [10, 5, 19, 5, 19, 8, 10, 8, 1]


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 6), min_size=2, max_size=8))
def test_a_turned_box_is_inside_when_another_covers_what_can_be_drawn_of_it(quads: list[tuple[int, ...]]) -> None:
    corners = np.array([_turned(*numbers) for numbers in quads], np.float64)
    shapes = [shapely.MultiPoint(row.reshape(4, 2)).convex_hull for row in corners]
    for n, within in enumerate(objects.inner_turned(corners)):
        others = [shape for m, shape in enumerate(shapes) if m != n]
        if within:  # to about a pixel, which is how wide a drawn outline is
            assert any(shapely.covers(other.buffer(1), _visible(shapes[n], other)).all() for other in others)
        else:
            assert not any(shapes[n].covered_by(other) for other in others)


def _visible(shape: Any, other: Any) -> Any:
    """The whole pixels of a shape from zero on, before the larger of both right and bottom ends."""
    right, bottom = np.maximum(shape.bounds[2:], other.bounds[2:]).astype(int)
    y, x = np.mgrid[:bottom, :right]
    seen = shapely.intersects_xy(shape, x, y)
    return shapely.points(x[seen], y[seen])


def _turned(x: int, y: int, dx: int, dy: int, times: int, wide: int) -> list[int]:
    """Corners of a rectangle at x, y with one side along dx, dy."""
    length, width = 1 + times % 3, 1 + wide % 3
    a, b = np.array([dx % 7, dy % 7]) * length, np.array([-(dy % 7), dx % 7]) * width
    start = np.array([x, y])
    return np.concatenate([start, start + a, start + a + b, start + b]).tolist()  # type: ignore[no-any-return]


def test_a_dot_disappears_beside_an_object_that_ends_no_further() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[2:6, 2:6] = mask[15, 15] = True
    score = mask.astype(np.float32)
    assert len(tasks.boxes_from_mask(mask, score, oriented=True)) == 1
    assert len(tasks.boxes_from_mask(mask, score, oriented=True, keep_inner=True)) == 2
    assert len(tasks.boxes_from_mask(mask, score)) == 2


# ── what the tasks promise ──────────────────────────────────────────────────────────────────────────────────


def test_a_mask_of_nothing_has_no_boxes_of_either_kind() -> None:
    nothing = np.zeros((5, 7))
    assert tasks.boxes_from_mask(nothing > 0, nothing).shape == (0, 5)
    assert tasks.boxes_from_mask(nothing > 0, nothing, oriented=True).shape == (0, 9)
    assert tasks.detect(nothing[None], ["ship"])["ship"].shape == (0, 5)
    assert tasks.ground(nothing) is None
    assert tasks.classify_multi_class(nothing[None], ["ship"]) is None


def test_a_gap_is_never_an_object() -> None:
    mask = np.array([[254, 255, 0, 1]], np.uint8)
    score = np.array([[np.nan, np.nan, 0.25, 0.75]], np.float32)
    assert tasks.boxes_from_mask(mask, score).tolist() == [[3, 0, 4, 1, 0.75]]
    assert tasks.count(score[None], ["ship"]) == {"ship": 1}


def test_a_picture_is_labelled_by_what_was_observed_of_it() -> None:
    score = np.array([[[0.75, 0.25, np.nan, np.nan]]], np.float32)
    assert tasks.classify_multi_label(score, ["ship"]) == {"ship": tasks.Label(present=True, score=0.625)}
    seen = np.array([[False, True, False, True]])
    assert tasks.classify_multi_label(score, ["ship"], valid=seen) == {"ship": tasks.Label(present=False, score=0.25)}
    assert tasks.classify_multi_label(score, ["ship"], valid=~seen & False)["ship"] == tasks.Label(False, 0.0)


def test_the_first_of_equal_classes_is_the_pictures() -> None:
    assert tasks.classify_multi_class(np.full((3, 2, 2), 0.5), ["ship", "harbor", "dam"]) == "ship"


def test_where_classes_overlap_the_one_listed_later_wins() -> None:
    scores = np.array([[[0.9, 0.9, 0.1]], [[0.1, 0.6, 0.5]]])
    assert tasks.class_map(scores, ["road", "bridge"]).tolist() == [[1, 2, 0]]


def test_turned_detections_come_surest_first_and_keep_their_overlaps() -> None:
    score = np.zeros((20, 40), np.float32)
    score[2:8, 2:8], score[10:18, 20:30] = 0.6, 0.9
    found = tasks.detect(score[None], ["ship"], oriented=True)["ship"]
    assert found.shape == (2, 9)
    assert found[:, 8].tolist() == pytest.approx([0.9, 0.6])


def test_an_object_seen_as_too_faint_is_none() -> None:
    mask = np.ones((2, 2), np.bool_)
    assert len(tasks.boxes_from_mask(mask, np.full((2, 2), 0.009))) == 0


def test_tasks_take_what_segment_gives() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    names = ["ship", "storagetank"]
    scores = mapper.segment(pixels, [mapper.tasks.class_expression(name) for name in names])
    assert set(mapper.tasks.detect(scores, names)) == set(names)


def test_a_class_is_asked_for_as_remotesam_was_taught() -> None:
    assert tasks.class_expression("storagetank") == "storagetank in the image"


WRONG: dict[str, Callable[[], object]] = {
    "another size": lambda: tasks.boxes_from_mask(np.zeros((2, 3), np.bool_), np.zeros((3, 2))),
    "three axes": lambda: tasks.boxes_from_mask(np.zeros((1, 2, 3), np.bool_), np.zeros((1, 2, 3))),
    "a contour of another size": lambda: tasks.boxes_from_mask(
        np.zeros((2, 3), np.bool_), np.zeros((2, 3)), np.zeros((3, 3))
    ),
    "scores for a mask": lambda: tasks.boxes_from_mask(np.full((2, 3), 0.7), np.full((2, 3), 0.7)),
    "stored scores": lambda: tasks.boxes_from_mask(np.ones((2, 3), np.bool_), np.full((2, 3), 200, np.uint8)),
    "too few names": lambda: tasks.detect(np.zeros((2, 3, 3)), ["ship"]),
    "a name twice": lambda: tasks.detect(np.zeros((2, 3, 3)), ["ship", "ship"]),
    "valid of another size": lambda: tasks.classify_multi_label(
        np.zeros((1, 3, 3)), ["ship"], valid=np.ones((2, 3), np.bool_)
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_arrays_that_do_not_fit_are_refused_with_a_remedy(wrong: Callable[[], object]) -> None:
    with pytest.raises(SpecError) as caught:
        wrong()
    assert caught.value.fix


# ── captions ────────────────────────────────────────────────────────────────────────────────────────────────


def _at(*centres: tuple[float, float]) -> Boxes:
    """Boxes of two pixels around centres x, y."""
    return np.array([(x - 1, y - 1, x + 1, y + 1, 0.9) for x, y in centres], np.float64).reshape(-1, 5)


def test_a_caption_says_what_is_there_and_where() -> None:
    boxes = {"airplane": _at((10, 10)), "large-vehicle": _at((80, 20), (90, 20)), "dam": _at()}
    assert tasks.caption(boxes, (100, 100)) == (
        "This picture shows an airplane and 2 large vehicles. "
        "In the upper left is an airplane. In the upper right are large vehicles."
    )


def test_from_five_on_a_caption_says_many() -> None:
    four, five = ({"ship": _at(*[(5 + n, 5) for n in range(times)])} for times in (4, 5))
    assert tasks.caption(four, (100, 100)).startswith("This picture shows 4 ships.")
    assert tasks.caption(five, (100, 100)).startswith("This picture shows many ships.")


def test_in_nine_parts_there_is_a_centre() -> None:
    boxes = {"ship": _at((50, 50)), "harbor": _at((50, 50))}
    assert tasks.caption(boxes, (100, 100), cells=9).endswith("In the centre are a ship and a harbor.")


def test_a_caption_of_nothing_is_a_sentence() -> None:
    assert tasks.caption({"ship": _at()}, (10, 10)) == "None of what was looked for is in this picture."


def test_a_caption_takes_turned_boxes() -> None:
    turned = np.array([[80, 80, 90, 80, 90, 90, 80, 90, 0.9]], np.float64)
    assert tasks.caption({"ship": turned}, (100, 100)).endswith("In the lower right is a ship.")


@pytest.mark.parametrize(
    ("name", "plural"),
    [
        ("overpass", "overpasses"),
        ("Expressway-toll-station", "Expressway toll stations"),
        ("bus", "buses"),
        ("beach", "beaches"),
        ("quarry", "quarries"),
        ("runway", "runways"),
        ("storagetank", "storagetanks"),
        ("person", "people"),
        ("fields", "fields"),
        ("water", "water"),
        ("aircraft", "aircraft"),
    ],
)
def test_a_caption_knows_the_plural(name: str, plural: str) -> None:
    boxes = {name: _at(*[(5 + n, 5) for n in range(6)])}
    assert tasks.caption(boxes, (50, 50)).endswith(f"In the upper left are {plural}.")
