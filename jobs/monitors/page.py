"""One picture of an alert: a title, the ground with what changed outlined, a scale, a legend."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import box
from shapely.geometry.base import BaseGeometry

from jobs.monitors.alert import Alert, day, surface
from mapper.imagery import View
from mapper.masks import PRESENT, UNOBSERVED
from mapper.questions.places import polygons_of

if TYPE_CHECKING:
    from PIL.Image import Image

MAP_PX = 640
"""Width of the ground."""

CHANGED = {"appeared": (26, 133, 255), "vanished": (230, 97, 0)}
"""Told apart by the colour-blind too (after M. Okabe and K. Ito, "Color Universal Design")."""

MOST_OUTLINES = 500
FINER = 3
"""Lines are drawn so many times larger, so that they are smooth."""

_INK, _DIM, _PAPER, _LINE = (33, 37, 41), (108, 117, 125), (250, 250, 248), (206, 206, 200)
_LAND, _THING = (236, 235, 228), (150, 158, 164)
"""The plain ground, and the mask on it, where no imagery is."""

_MARGIN, _HEAD, _FOOT = 20, 78, 40


def drawn(
    alert: Alert,
    *,
    name: str,
    step: datetime,
    mask: NDArray[np.uint8],
    view: View | None,
    outlines: Sequence[BaseGeometry],
    metres_per_px: float,
) -> Image:
    """The picture.

    Args:
        alert: what it is of.
        name: Before or After.
        step: which it shows.
        mask: ``(y, x)``, as stored.
        view: the imagery in the same pixels; None where it cannot be had.
        outlines: what changed, in these pixels too, (x, y) from the upper left corner.
        metres_per_px: side of one of these pixels.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = MAP_PX / mask.shape[1]
    wide, high = MAP_PX, round(scale * mask.shape[0])
    page = Image.new("RGB", (wide + 2 * _MARGIN, high + _HEAD + _FOOT), _PAPER)
    draw = ImageDraw.Draw(page)
    tag = ImageFont.load_default(14)
    room = wide - draw.textlength(name, tag) - 40
    title = f"“{alert.expression}” · {day(step)}"
    draw.text((_MARGIN, 14), _fitted(title, room, 24), fill=_INK, font=ImageFont.load_default(24))
    _chip(draw, name, tag, right=_MARGIN + wide, top=17, filled=name == "After")
    said = f"{alert.place} · {alert.change}: {surface(alert.area_m2)} in {_places(alert.count)}"
    _line(draw, (_MARGIN, 48), _fitted(said, wide, 15), 15)
    smooth = Image.Resampling.LANCZOS if view is not None else Image.Resampling.BOX if scale < 1 else None
    ground = Image.fromarray(_ground(mask, view)).resize((wide, high), smooth or Image.Resampling.NEAREST)
    _hatch(ground, _blank(mask, view))
    ground = _outlined(ground, mask, outlines, CHANGED[alert.change], light=view is not None)
    _scale_bar(ground, metres_per_px / scale)
    page.paste(ground, (_MARGIN, _HEAD))
    draw.rectangle((_MARGIN - 1, _HEAD - 1, _MARGIN + wide, _HEAD + high), outline=_LINE)
    _legend(page, alert, top=_HEAD + high + 13, gaps=bool(_blank(mask, view).any()), light=view is not None)
    return page


def _places(count: int) -> str:
    return "1 place" if count == 1 else f"{count:,} places"


def _ground(mask: NDArray[np.uint8], view: View | None) -> NDArray[np.uint8]:
    """RGB ``(y, x, 3)``: the imagery, or the mask on plain ground."""
    if view is not None:
        colours = view.pixels[:3] if len(view.pixels) >= 3 else np.repeat(view.pixels[:1], 3, axis=0)
        return np.ascontiguousarray(colours.transpose(1, 2, 0))
    out = np.empty((*mask.shape, 3), np.uint8)
    out[:] = _LAND
    out[mask == PRESENT] = _THING
    return out


def _blank(mask: NDArray[np.uint8], view: View | None) -> NDArray[np.bool_]:
    """``(y, x)``: where nothing was seen. Cloud that is in the picture is shown as it is, and hatched."""
    return np.asarray(mask >= UNOBSERVED if view is None else (mask >= UNOBSERVED) | ~view.valid)


def _hatch(ground: Image, blank: NDArray[np.bool_]) -> None:
    """Stripes over what is blank."""
    from PIL import Image

    if blank.any():
        width, height = ground.size
        where = Image.fromarray(np.where(blank, np.uint8(255), np.uint8(0))).resize(
            ground.size, Image.Resampling.NEAREST
        )
        y, x = np.indices((height, width))
        stripes = np.where(np.equal((x + y) % 6, 0), np.uint8(196), np.uint8(232))
        ground.paste(Image.fromarray(stripes).convert("RGB"), mask=where)


def _outlined(
    ground: Image,
    mask: NDArray[np.uint8],
    outlines: Sequence[BaseGeometry],
    colour: tuple[int, int, int],
    *,
    light: bool,
) -> Image:
    """The ground with a thin line around the mask and a strong one around what changed."""
    from PIL import Image, ImageDraw

    (width, height), finer = ground.size, FINER * ground.width / mask.shape[1]
    over = Image.new("RGBA", (FINER * width, FINER * height))
    draw = ImageDraw.Draw(over)
    _mask_lines(draw, mask, finer, (255, 255, 255, 235) if light else (90, 98, 104, 255))
    frame = box(-8, -8, mask.shape[1] + 8, mask.shape[0] + 8)
    shown = [polygons_of(shape.intersection(frame)) for shape in outlines[:MOST_OUTLINES] if shape.intersects(frame)]
    rings = [
        [(finer * x, finer * y) for x, y in ring.coords]
        for shape in shown
        for polygon in shapely.get_parts(shape)
        for ring in (polygon.exterior, *polygon.interiors)
    ]
    for ink, thick in (((255, 255, 255, 255), 5.0), ((*colour, 255), 2.8)):
        for ring in rings:
            draw.line([*ring, ring[1]], fill=ink, width=round(FINER * thick), joint="curve")
    smooth = over.resize(ground.size, Image.Resampling.BOX)
    return Image.alpha_composite(ground.convert("RGBA"), smooth).convert("RGB")


def _mask_lines(draw: Any, mask: NDArray[np.uint8], finer: float, ink: tuple[int, int, int, int]) -> None:
    """The edges between what is present and what was seen to be absent, run by run."""
    present, seen = mask == PRESENT, mask < UNOBSERVED
    down = (present[1:] != present[:-1]) & seen[1:] & seen[:-1]
    across = (present[:, 1:] != present[:, :-1]) & seen[:, 1:] & seen[:, :-1]
    for edges, upright in ((down, False), (across.T, True)):
        for line in np.flatnonzero(edges.any(axis=1)):
            steps = np.diff(np.concatenate([[0], edges[line].astype(np.int8), [0]]))
            at = finer * (line + 1)
            for begin, end in zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True):
                ends = [(finer * begin, at), (finer * end, at)]
                draw.line([(y, x) for x, y in ends] if upright else ends, fill=ink, width=FINER + 1)


def _line(draw: Any, place: tuple[float, float], text: str, size: int) -> None:
    """A dim line. The font that comes with Pillow has no ², so a small 2 stands in its place."""
    from PIL import ImageFont

    x, y = place
    font, raised = ImageFont.load_default(size), ImageFont.load_default(0.65 * size)
    for number, part in enumerate(text.split("²")):
        if number:
            draw.text((x + 0.5, y), "2", fill=_DIM, font=raised)
            x += 0.5 + raised.getlength("2")
        draw.text((x, y), part, fill=_DIM, font=font)
        x += font.getlength(part)


def _chip(draw: Any, text: str, font: Any, *, right: int, top: int, filled: bool) -> None:
    """A word in a rounded frame, filled for what is now."""
    width = draw.textlength(text, font) + 20
    place = (right - width, top, right, top + 24)
    draw.rounded_rectangle(place, radius=12, fill=_INK if filled else None, outline=_INK if filled else _DIM)
    draw.text((right - width / 2, top + 12), text, fill=_PAPER if filled else _DIM, font=font, anchor="mm")


def _scale_bar(ground: Image, metres_per_px: float) -> None:
    from PIL import ImageDraw, ImageFont

    longest = metres_per_px * MAP_PX / 4
    unit = 10 ** math.floor(math.log10(longest))
    length_m = max(step * unit for step in (1, 2, 5) if step * unit <= longest)
    text = f"{length_m / 1000:g} km" if length_m >= 1000 else f"{length_m:g} m"
    draw, font = ImageDraw.Draw(ground, "RGBA"), ImageFont.load_default(14)
    left, base, length = 20, ground.height - 20, length_m / metres_per_px
    room = max(length, draw.textlength(text, font))
    draw.rounded_rectangle((left - 8, base - 26, left + room + 8, base + 10), radius=5, fill=(255, 255, 255, 215))
    draw.rectangle((left, base, left + length, base + 3), fill=_INK)
    draw.text((left, base - 21), text, fill=_INK, font=font)


def _legend(page: Image, alert: Alert, *, top: int, gaps: bool, light: bool) -> None:
    from PIL import Image, ImageDraw, ImageFont

    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    x, y, right = float(_MARGIN), top, _MARGIN + MAP_PX
    thing = _fitted(f"“{alert.expression}” in this step", 300, 14)
    entries = [("changed", alert.change), ("mask", thing), *([("gap", "not seen")] if gaps else [])]
    for kind, text in entries:
        draw.rectangle((x, y + 1, x + 22, y + 14), fill=(128, 134, 139) if light else _LAND)
        if kind == "changed":
            draw.rectangle((x, y + 1, x + 22, y + 14), outline=CHANGED[alert.change], width=3)
        elif kind == "mask":
            fill, line = (None, (255, 255, 255)) if light else (_THING, (90, 98, 104))
            draw.rectangle((x + 3, y + 4, x + 19, y + 11), fill=fill, outline=line)
        else:
            swatch = Image.new("RGB", (23, 14))
            _hatch(swatch, np.ones((14, 23), np.bool_))
            page.paste(swatch, (round(x), y + 1))
        draw.text((x + 31, y - 1), text, fill=_INK, font=font)
        x += 31 + draw.textlength(text, font) + 24
    if not light and (left := x) < right:
        said = _fitted("imagery not to be had: the mask alone", right - left, 13)
        draw.text((right, y + 8), said, fill=_DIM, font=ImageFont.load_default(13), anchor="rm")


def _fitted(text: str, width: float, size: int) -> str:
    """As much of a text as the width holds, on one line."""
    from PIL import ImageFont

    font, text = ImageFont.load_default(size), " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    fits = bisect_left(range(len(text)), True, key=lambda length: font.getlength(f"{text[:length]}…") > width)
    return f"{text[: max(0, fits - 1)]}…"
