"""One model, every task: what a mask and its score say as boxes, counts, labels and captions.

    names = ["airplane", "storagetank"]
    scores = mapper.segment(pixels, [mapper.tasks.class_expression(name) for name in names], model=net)
    boxes = mapper.tasks.detect(scores, names)
    print(mapper.tasks.caption(boxes, pixels.shape[:2]))

Everything is a function of arrays: what ``mapper.segment`` gives, or mask and score of a mosaic. Scores are float
``(class, y, x)`` or ``(y, x)``, 0 to 1, and a class is where its score is above one half. Nothing is ever found in
a gap: NaN in a score is a pixel nobody observed, and so are 254 and 255 in the mask of a mosaic.

The tasks are those of RemoteSAM (Yao et al. 2025, section 3.3), with its rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mapper.errors import SpecError
from mapper.objects import (
    CONTOUR_ABOVE,
    Boxes,
    best_of_overlapping,
    find_objects,
    inner,
    inner_turned,
)

__all__ = [
    "Label",
    "boxes_from_mask",
    "caption",
    "class_expression",
    "class_map",
    "class_masks",
    "classify_multi_class",
    "classify_multi_label",
    "count",
    "count_in_cells",
    "detect",
    "ground",
]

PRESENT_ABOVE = 0.5
"""Of scores of pixels and of pictures."""

FAINTEST = 0.01
"""An object whose mean score is below this is none."""

MANY = 5
"""From here on a caption does not count."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a picture says of one class."""

    present: bool
    score: float
    """0 to 1; the class is present above one half."""


def class_expression(name: str) -> str:
    """The sentence that asks for a class, as in ``airplane in the image``."""
    return f"{name} in the image"


def class_masks(scores: NDArray[Any], names: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Where each class is, ``(y, x)``; classes may overlap.

    Args:
        scores: float ``(class, y, x)``, 0 to 1.
        names: of the classes, in the order of ``scores``.

    Raises:
        SpecError: the array is not of that shape, or a name stands twice.
    """
    _check(scores, names)
    return {name: np.asarray(score > PRESENT_ABOVE) for name, score in zip(names, scores, strict=True)}


def class_map(scores: NDArray[Any], names: Sequence[str]) -> NDArray[np.int32]:
    """One class a pixel, ``(y, x)``: 0 where there is none, else its place in ``names`` counted from 1.

    Where classes overlap, the one listed later wins.

    Args:
        scores: float ``(class, y, x)``, 0 to 1.
        names: of the classes, in the order of ``scores``.

    Raises:
        SpecError: the array is not of that shape, or a name stands twice.
    """
    merged = np.zeros(scores.shape[-2:], np.int32)
    for number, mask in enumerate(class_masks(scores, names).values(), start=1):
        merged[mask] = number
    return merged


def boxes_from_mask(
    mask: NDArray[Any],
    score: NDArray[Any],
    contour: NDArray[Any] | None = None,
    oriented: bool = False,
    keep_inner: bool = False,
    *,
    contour_above: float = CONTOUR_ABOVE,
) -> Boxes:
    """The objects of a mask as boxes with a score each.

    Args:
        mask: ``(y, x)``, True or 1 where an object is; 254 and 255 are gaps, as in a mosaic.
        score: float ``(y, x)``, 0 to 1.
        contour: float ``(y, x)``, 0 to 1: how probable an outline is there, to part objects that touch.
        oriented: turned boxes of the smallest area instead of boxes along the axes.
        keep_inner: keep boxes that lie inside another one.
        contour_above: from where on the contour map parts.

    Returns:
        float64, one row an object, the rows from the top of the picture down. ``(object, 5)``: x1, y1, x2, y2 in
        pixels, the right and bottom edge excluded, and the mean score of its pixels. Oriented ``(object, 9)``:
        four corners x, y in order around the box, whole numbers that name pixels, and the score.

    Raises:
        SpecError: the arrays are no pictures of one size.
    """
    found = find_objects(mask, score, contour, contour_above=contour_above)
    clear = found.score >= FAINTEST
    boxes = (found.corners() if oriented else found.bounds)[clear]
    rows = np.column_stack([boxes, found.score[clear]])
    if keep_inner:
        return rows
    return rows[~(inner_turned(boxes) if oriented else inner(boxes))]


def detect(
    scores: NDArray[Any],
    names: Sequence[str],
    *,
    contour: NDArray[Any] | None = None,
    contour_above: float = CONTOUR_ABOVE,
    oriented: bool = False,
) -> dict[str, Boxes]:
    """The objects of each class, the surest first.

    Args:
        scores: float ``(class, y, x)``, 0 to 1.
        names: of the classes, in the order of ``scores``.
        contour: float ``(y, x)``, 0 to 1, see ``boxes_from_mask``.
        contour_above: from where on the contour map parts.
        oriented: turned boxes; of those that overlap all stay.

    Returns:
        Rows as ``boxes_from_mask`` gives them, for every class; no rows where there is nothing.

    Raises:
        SpecError: the arrays do not fit, or a name stands twice.
    """
    found = {}
    for (name, mask), score in zip(class_masks(scores, names).items(), scores, strict=True):
        rows = boxes_from_mask(mask, score, contour, oriented, contour_above=contour_above)
        best = np.argsort(-rows[:, -1], kind="stable") if oriented else best_of_overlapping(rows[:, :4], rows[:, 4])
        found[name] = rows[best]
    return found


def ground(score: NDArray[Any]) -> NDArray[np.float64] | None:
    """The one box around all that a sentence speaks of.

    Args:
        score: float ``(y, x)``, 0 to 1.

    Returns:
        x1, y1, x2, y2 in pixels, the right and bottom edge excluded; None where there is nothing.

    Raises:
        SpecError: the array is no picture.
    """
    rows = boxes_from_mask(score > PRESENT_ABOVE, score)
    return np.concatenate([rows[:, :2].min(0), rows[:, 2:4].max(0)]) if len(rows) else None


def count(
    scores: NDArray[Any],
    names: Sequence[str],
    *,
    contour: NDArray[Any] | None = None,
    contour_above: float = CONTOUR_ABOVE,
) -> dict[str, int]:
    """How many objects of each class ``detect`` finds.

    Args:
        scores: float ``(class, y, x)``, 0 to 1.
        names: of the classes, in the order of ``scores``.
        contour: float ``(y, x)``, 0 to 1, see ``boxes_from_mask``; without it objects that touch count as one.
        contour_above: from where on the contour map parts; RemoteSAM's authors count with 0.15.

    Raises:
        SpecError: the arrays do not fit, or a name stands twice.
    """
    found = detect(scores, names, contour=contour, contour_above=contour_above)
    return {name: len(rows) for name, rows in found.items()}


def classify_multi_label(
    scores: NDArray[Any], names: Sequence[str], *, valid: NDArray[np.bool_] | None = None
) -> dict[str, Label]:
    """Which classes a picture shows: by the mean of the highest score and the mean score.

    Args:
        scores: float ``(class, y, x)``, 0 to 1.
        names: of the classes, in the order of ``scores``.
        valid: bool ``(y, x)``, True where observed; None is wherever the score is a number.

    Raises:
        SpecError: the arrays do not fit, or a name stands twice.
    """
    labels = {}
    for name, seen in _observed(scores, names, valid).items():
        mark = float(seen.max() + seen.mean()) / 2 if len(seen) else 0.0
        labels[name] = Label(mark > PRESENT_ABOVE, mark)
    return labels


def classify_multi_class(
    scores: NDArray[Any], names: Sequence[str], *, valid: NDArray[np.bool_] | None = None
) -> str | None:
    """The one class a picture shows: that of the highest score anywhere; of equal ones the class listed first.

    Args:
        scores: float ``(class, y, x)``, 0 to 1.
        names: of the classes, in the order of ``scores``.
        valid: bool ``(y, x)``, True where observed; None is wherever the score is a number.

    Returns:
        Its name; None where no score reaches one half.

    Raises:
        SpecError: the arrays do not fit, or a name stands twice.
    """
    highest = {name: float(seen.max(initial=0)) for name, seen in _observed(scores, names, valid).items()}
    best = max(highest, key=highest.__getitem__, default=None)
    return best if best is not None and highest[best] >= PRESENT_ABOVE else None


def count_in_cells(
    boxes: Mapping[str, Boxes], shape: tuple[int, int], *, cells: Literal[4, 9] = 4
) -> list[dict[str, int]]:
    """How many boxes have their centre in each cell of a picture cut in 2 × 2 or 3 × 3.

    Args:
        boxes: of each class, as ``detect`` gives them.
        shape: height and width of the picture in pixels.
        cells: 4 or 9.

    Returns:
        For each cell, row by row, the classes that are there and their counts.
    """
    side = {4: 2, 9: 3}[cells]
    found: list[dict[str, int]] = [{} for _ in range(cells)]
    for name, rows in boxes.items():
        x, y = _centres(rows).T
        at_y, at_x = (
            np.clip(np.floor(along * side / length), 0, side - 1).astype(int)
            for along, length in ((y, shape[0]), (x, shape[1]))
        )
        for cell, times in zip(*np.unique(at_y * side + at_x, return_counts=True), strict=True):
            found[int(cell)][name] = int(times)
    return found


def caption(boxes: Mapping[str, Boxes], shape: tuple[int, int], *, cells: Literal[4, 9] = 4) -> str:
    """What a picture shows, and where, in sentences; the same boxes give the same words.

    Args:
        boxes: of each class, as ``detect`` gives them.
        shape: height and width of the picture in pixels.
        cells: 4 cuts the picture in 2 × 2 parts, 9 in 3 × 3.
    """
    counts = {name: len(rows) for name, rows in boxes.items() if len(rows)}
    if not counts:
        return "None of what was looked for is in this picture."
    sentences = [f"This picture shows {_listed([_counted(name, number) for name, number in counts.items()])}."]
    for place, there in zip(_PLACES[cells], count_in_cells(boxes, shape, cells=cells), strict=True):
        if there:
            words = [_plural(name) if number > 1 else _one(name) for name, number in there.items()]
            verb = "are" if sum(there.values()) > 1 else "is"
            sentences.append(f"{place} {verb} {_listed(words)}.")
    return " ".join(sentences)


_PLACES = {
    4: ("In the upper left", "In the upper right", "In the lower left", "In the lower right"),
    9: (
        *("In the upper left", "At the top", "In the upper right"),
        *("On the left", "In the centre", "On the right"),
        *("In the lower left", "At the bottom", "In the lower right"),
    ),
}

_OWN_PLURALS = {"aircraft": "aircraft", "person": "people", "man": "men", "woman": "women", "child": "children"}
_UNCOUNTED = {"asphalt", "bareland", "cropland", "farmland", "grass", "land", "soil", "vegetation", "water"}


def _counted(name: str, number: int) -> str:
    if number == 1 or _is_uncounted(name):
        return _one(name)
    return f"{number if number < MANY else 'many'} {_plural(name)}"


def _one(name: str) -> str:
    words = _words(name)
    if _is_uncounted(name) or _is_plural(name):
        return words
    return f"{'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"


def _plural(name: str) -> str:
    """More than one of a class: the last word of its name changes."""
    before, space, last = _words(name).rpartition(" ")
    small = last.lower()
    if _is_uncounted(name) or _is_plural(name):
        return _words(name)
    if small in _OWN_PLURALS:
        last = _OWN_PLURALS[small]
    elif small.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif small.endswith("y") and small[-2:-1] not in ("", *"aeiou"):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return before + space + last


def _is_plural(name: str) -> bool:
    return name.lower().endswith("s") and not name.lower().endswith(("ss", "us", "is"))


def _is_uncounted(name: str) -> bool:
    return _words(name).lower().rpartition(" ")[2] in _UNCOUNTED


def _words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").strip()


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _centres(rows: Boxes) -> NDArray[np.float64]:
    """``(box, 2)`` x, y of boxes along the axes or turned."""
    corners = rows[:, :-1].reshape(len(rows), (rows.shape[1] - 1) // 2, 2)
    return np.asarray(corners.mean(1), np.float64)


def _observed(
    scores: NDArray[Any], names: Sequence[str], valid: NDArray[np.bool_] | None
) -> dict[str, NDArray[np.float64]]:
    """The scores of each class at the pixels that were observed, in one row."""
    _check(scores, names)
    if valid is not None and valid.shape != scores.shape[1:]:
        raise SpecError(f"valid is {valid.shape}, and a score is {scores.shape[1:]}", fix="give (y, x) of one size")
    seen = ~np.isnan(scores) if valid is None else ~np.isnan(scores) & valid
    return {name: np.asarray(score[at], np.float64) for name, score, at in zip(names, scores, seen, strict=True)}


def _check(scores: NDArray[Any], names: Sequence[str]) -> None:
    if np.ndim(scores) != 3 or len(scores) != len(names) or not np.issubdtype(scores.dtype, np.floating):
        raise SpecError(
            f"scores are float (class, y, x), a class for each of {len(names)} names, "
            f"and these are {scores.dtype} {np.shape(scores)}",
            fix="give one score picture a name, in the order of the names, 0 to 1",
        )
    if len(set(names)) != len(names):
        raise SpecError("a class is named twice", fix="give each class its own name", names=", ".join(names))
