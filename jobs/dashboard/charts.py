"""Pictures of figures as SVG, made on the server: they need no script, and say in words what they show.

Colours are those of Okabe and Ito, told apart by people who are blind to some; a pattern or a word stands beside each.
Pages and reports that show bars put ``definitions()`` into themselves once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise

from markupsafe import Markup, escape

from cluster.readings import WAITS
from jobs.dashboard.map_colours import STATE_COLOURS
from jobs.dashboard.monitor_views import TickLine
from jobs.dashboard.views import Progress
from jobs.dashboard.words import TICK_WORDS, TILE_WORDS, WAIT_WORDS, clock, count, figure, moment, share, wall

GREEN, BLUE, SKY, PURPLE, YELLOW, ORANGE, RED = (
    "#009e73", "#0072b2", "#56b4e9", "#cc79a7", "#f0e442", "#e69f00", "#d55e00",
)  # fmt: skip
GREY = "#8c959b"

_RISING, _FALLING, _UPRIGHT, _LEVEL = "M-1 7 7-1M-1 1 1-1M5 7 7 5", "M-1-1 7 7M5-1 7 1M-1 5 1 7", "M3 0v6", "M0 3h6"
_DOTS, _CROSSES = "M2 3h2M5.5 0h1M-.5 0h1M5.5 6h1M-.5 6h1", "M0 3h6M3 0v6"
_INKS: Mapping[str, tuple[str, str]] = {
    "busy": (GREEN, ""),
    "read": (BLUE, _RISING),
    "decode": (SKY, _DOTS),
    "copy": (PURPLE, _UPRIGHT),
    "blend": (YELLOW, _CROSSES),
    "encode": (ORANGE, _LEVEL),
    "write": (RED, _FALLING),
    "tasks": (GREY, _DOTS),
    "done": (STATE_COLOURS["done"], ""),
    "in_hand": (SKY, _RISING),
    "nodata": (STATE_COLOURS["nodata"], _DOTS),
    "failed": (STATE_COLOURS["failed"], _FALLING),
    "quarantined": (STATE_COLOURS["quarantined"], _CROSSES),
    "mapped": (BLUE, ""),
    "new": (GREEN, _RISING),
    "changed": (ORANGE, _LEVEL),
    "gone": (GREY, _DOTS),
}
"""Stage, state or kind of news → colour and the lines over it, in a square of 6."""

SPARK, BAR, HISTORY, TICKS = (120, 26), (190, 18), (460, 150), (560, 190)
"""Widths and heights of the pictures, in pixels."""

TICKS_SHOWN, FEWEST_SLOTS = 60, 12
"""Bars of the latest ticks; a few of them are as wide as if there were twelve."""

_LABEL_PX = 62
"""A part of a bar that is so wide has room for its figure."""


def definitions() -> Markup:
    """The patterns that bars are filled with."""
    made = Markup("").join(
        Markup(
            '<pattern id="ink-{}" width="6" height="6" patternUnits="userSpaceOnUse"><path d="M0 0h6v6H0z" fill="{}"/>'
            '<path d="{}" fill="none" stroke="#000" stroke-opacity=".42" stroke-width="1.3"/></pattern>'
        ).format(name, colour, lines)
        for name, (colour, lines) in _INKS.items()
    )
    return Markup(
        '<svg class="defs" width="0" height="0" aria-hidden="true" focusable="false"><defs>{}</defs></svg>'
    ).format(made)


def swatch(name: str) -> Markup:
    """The colour and pattern of a stage or a state, for a legend."""
    return Markup(
        '<svg class="swatch" width="16" height="12" viewBox="0 0 16 12" aria-hidden="true"><rect x=".5" y=".5" '
        'width="15" height="11" rx="2" fill="{}" stroke="currentColor" stroke-opacity=".45"/></svg>'
    ).format(_fill(name))


def spark(values: Sequence[float | None], *, what: str = "tiles a second") -> Markup:
    """The last intervals as a line from 0 up, oldest left; a gap where nothing is known."""
    width, height = SPARK
    known = [value for value in values if value is not None]
    if not known:
        return _picture("spark", SPARK, f"{what}: nothing known yet", Markup('<path class="axis" d="M0 25.5h120"/>'))
    top = max(known) or 1.0
    step = width / max(1, len(values) - 1)
    points = [
        None if value is None else (round(n * step), round(height - 2 - (height - 5) * value / top))
        for n, value in enumerate(values)
    ]
    said = f"{what}, latest {figure(known[-1])}, between {figure(min(known))} and {figure(max(known))}"
    return _picture("spark", SPARK, said, Markup('<path class="axis" d="M0 25.5h120"/>') + _line(points, height - 1))


def stall_bar(waits: Mapping[str, float], busy: float | None) -> Markup:
    """What a model's time goes to: computing, then all that it waits for, longest first; together the whole width."""
    if busy is None:
        return _picture("bar", BAR, "what its time goes to is not known yet", _frame(BAR))
    ordered = sorted((name for name in WAITS if waits.get(name, 0) > 0), key=lambda name: -waits[name])
    parts = [("busy", busy, "computes"), *((name, waits[name], f"waits for {WAIT_WORDS[name]}") for name in ordered)]
    said = ", ".join(f"{words} {share(part)}" for _, part, words in parts if part >= 0.005) or "nothing yet"
    return _picture(
        "bar", BAR, said, _stacked([(name, part) for name, part, _ in parts], BAR, labels=True) + _frame(BAR)
    )


def longest_wait(waits: Mapping[str, float]) -> str:
    """What it waits for most and for how much of its time, in words; empty where it hardly waits."""
    name = max((name for name in WAITS if name in waits), key=lambda name: waits[name], default="")
    return f"{WAIT_WORDS[name]} {share(waits[name])}" if name and waits[name] >= 0.01 else ""


def progress_bar(progress: Progress) -> Markup:
    """All planned tiles by state, as wide as there is room."""
    size = (1000, 22)
    parts = [(name, tiles / max(1, progress.planned)) for name, tiles in tile_counts(progress) if name != "waiting"]
    said = ", ".join(f"{TILE_WORDS[name]} {count(tiles)}" for name, tiles in tile_counts(progress))
    return _picture("progress", size, f"tiles: {said}", _stacked(parts, size) + _frame(size), stretched=True)


def tile_counts(progress: Progress) -> tuple[tuple[str, int], ...]:
    """State and tiles, those in hand apart from those that wait: together all that are planned."""
    in_hand = min(progress.in_hand, progress.waiting)
    return (
        ("done", progress.done),
        ("nodata", progress.nodata),
        ("failed", progress.failed),
        ("quarantined", progress.quarantined),
        ("in_hand", in_hand),
        ("waiting", progress.waiting - in_hand),
    )


def history(points: Sequence[tuple[datetime, float]], *, what: str = "tiles a second") -> Markup:
    """A rate over time, with axes: from 0 up, oldest left, times in UTC."""
    if len(points) < 2:
        return _picture(
            "history", HISTORY, f"{what}: too early to draw", _words(HISTORY[0] / 2, 90, "too early to draw", "middle")
        )
    width, height = HISTORY
    left, right, top, bottom = 46.0, width - 8.0, 14.0, height - 24.0
    begin, end = points[0][0].timestamp(), points[-1][0].timestamp()
    ticks = _round_ticks(max(value for _, value in points))
    high = ticks[-1]

    def x(moment_s: float) -> float:
        return round(left + (right - left) * (moment_s - begin) / max(1e-9, end - begin), 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * value / high, 1)

    grid = Markup("").join(
        Markup('<path class="grid" d="M{} {}H{}"/>').format(left, y(tick), right)
        + _words(left - 6, y(tick) + 4, figure(tick), "end")
        for tick in ticks
    )
    moments = [points[0][0], points[len(points) // 2][0], points[-1][0]]
    below = Markup("").join(
        _words(x(at.timestamp()), height - 6, clock(at), anchor)
        for at, anchor in zip(moments, ("start", "middle", "end"), strict=True)
    )
    line = _line([(x(at.timestamp()), y(value)) for at, value in points], bottom)
    top_value, latest = max(value for _, value in points), points[-1][1]
    during = f"{what} from {clock(moments[0])} to {clock(moments[-1])} UTC"
    said = f"{during}, latest {figure(latest)}, at most {figure(top_value)}"
    return _picture("history", HISTORY, said, grid + below + line)


def ticks(newest_first: Sequence[TickLine], zone: str) -> Markup:
    """A bar a tick, oldest left: tiles that were mapped above, items that were news below; a mark where it failed."""
    shown = list(reversed(newest_first[:TICKS_SHOWN]))
    if not shown:
        return _picture("ticks", TICKS, "no tick yet", _words(TICKS[0] / 2, 95, "no tick yet", "middle"))
    news = [[("new", tick.new_items), ("changed", tick.changed_items), ("gone", tick.gone_items)] for tick in shown]
    tiles = [[("mapped", tick.tiles)] for tick in shown]
    slot = (TICKS[0] - 52) / max(len(shown), FEWEST_SLOTS)
    middles = [46 + (n + 0.5) * slot for n in range(len(shown))]
    drawn = [_bars(tiles, middles, ground=80, high=66), _bars(news, middles, ground=164, high=58)]
    drawn += [_words(x, 93, "▲", "middle") for x, tick in zip(middles, shown, strict=True) if tick.state == "failed"]
    ends = [(46.0, shown[0], "start"), (middles[-1] + slot / 2, shown[-1], "end")]
    drawn += [
        _words(x, TICKS[1] - 6, wall(tick.due, zone), anchor) for x, tick, anchor in ends[: 2 if len(shown) > 5 else 1]
    ]
    states = Counter(tick.state for tick in shown)
    said = ", ".join(f"{states[state]} {told}" for state, told in TICK_WORDS.items() if states[state])
    mapped = count(sum(tick.tiles or 0 for tick in shown))
    said = f"{len(shown)} ticks since {moment(shown[0].due)}: {said}; {mapped} tiles mapped"
    return _picture("ticks", TICKS, said, Markup("").join(drawn))


def _bars(
    columns: Sequence[Sequence[tuple[str, int | None]]], middles: Sequence[float], *, ground: float, high: float
) -> Markup:
    """Stacked bars upon a line, before a scale from 0 up; nothing where nothing is known."""
    top = _round_ticks(max(sum(value or 0 for _, value in column) for column in columns))[-1]
    drawn = [
        Markup('<path class="grid" d="M46 {}H{}"/>').format(ground - part * high, TICKS[0] - 6)
        + _words(40, ground - part * high + 4, figure(part * top), "end")
        for part in (0, 1)
    ]
    wide = min(26.0, 0.72 * (TICKS[0] - 52) / max(len(columns), FEWEST_SLOTS))
    for column, middle in zip(columns, middles, strict=True):
        at = ground
        for name, value in column:
            tall = max(1.5, high * value / top) if value else 0.0
            at -= tall
            place = f'x="{middle - wide / 2:.1f}" y="{at:.1f}" width="{wide:.1f}" height="{tall:.1f}"'
            drawn += [Markup(f'<rect {place} fill="{_fill(name)}"/>')] if tall else []
    return Markup("").join(drawn)


# Numbers and our own constants are written as they are: escaping each would be most of the work of a page of 256 GPUs.


def _picture(kind: str, size: tuple[int, int], said: str, drawn: str, *, stretched: bool = False) -> Markup:
    width, height = size
    shape = ' preserveAspectRatio="none"' if stretched else ""
    said = escape(said)
    return Markup(
        f'<svg class="chart {kind}" role="img" viewBox="0 0 {width} {height}" width="{width}" height="{height}"{shape} '
        f'aria-label="{said}"><title>{said}</title>{drawn}</svg>'
    )


def _stacked(parts: Iterable[tuple[str, float]], size: tuple[int, int], *, labels: bool = False) -> Markup:
    """Parts of 1 side by side; what is there at all is a pixel wide at least."""
    width, height = size
    shown = [(name, part) for name, part in parts if part > 0]
    wide = [max(1.0, part * width) for _, part in shown]
    shrink = min(1.0, width / sum(wide)) if wide else 1.0
    drawn, at = [], 0.0
    for (name, part), length in zip(shown, wide, strict=True):
        length *= shrink
        drawn.append(f'<rect x="{at:.1f}" width="{length:.1f}" height="{height}" fill="{_fill(name)}"/>')
        if labels and length >= _LABEL_PX:
            drawn.append(_plate(at, length, height, f"{name} {share(part)}"))
        at += length
    return Markup("".join(drawn))


def _plate(at: float, length: float, height: float, text: str) -> str:
    """A figure upon a pattern, with ground of its own to be legible."""
    middle, wide = at + length / 2, 6.0 * len(text) + 6
    return (
        f'<rect x="{middle - wide / 2:.1f}" y="3" width="{wide:g}" height="{height - 6:g}" rx="3" fill="#fff" '
        f'fill-opacity=".9"/><text x="{middle:.1f}" y="13" text-anchor="middle" font-size="10.5" fill="#111">'
        f"{escape(text)}</text>"
    )


def _line(points: Sequence[tuple[float, float] | None], ground: float) -> Markup:
    """A line through what is known, the area below it tinted."""
    strokes, areas = [], []
    for run in _unbroken(points):
        path = "L".join(f"{x:g} {y:g}" for x, y in run)
        strokes.append(f"M{path}" if len(run) > 1 else f"M{path}h.1")
        areas.append(f"M{run[0][0]:g} {ground:g}L{path}L{run[-1][0]:g} {ground:g}z")
    return Markup(f'<path class="area" d="{"".join(areas)}"/><path class="line" d="{"".join(strokes)}"/>')


def _unbroken(points: Sequence[tuple[float, float] | None]) -> Iterable[list[tuple[float, float]]]:
    gaps = [-1, *(n for n, point in enumerate(points) if point is None), len(points)]
    for before, after in pairwise(gaps):
        run = [point for point in points[before + 1 : after] if point is not None]
        if run:
            yield run


def _round_ticks(highest: float) -> list[float]:
    """0 and a few round figures above it, the last at least as high as the highest."""
    if highest <= 0:
        return [0.0, 1.0]
    power = 10 ** math.floor(math.log10(highest))
    step = next(unit * power / 10 for unit in (2, 2.5, 5, 10, 20, 25, 50) if highest <= 4 * unit * power / 10)
    return [n * step for n in range(math.ceil(highest / step - 1e-9) + 1)]


def _frame(size: tuple[int, int]) -> Markup:
    return Markup(f'<rect class="frame" x=".5" y=".5" width="{size[0] - 1}" height="{size[1] - 1}"/>')


def _words(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}" font-size="11" fill="currentColor">{}</text>').format(
        x, y, anchor, text
    )


def _fill(name: str) -> str:
    colour, lines = _INKS.get(name, ("none", ""))
    return f"url(#ink-{name})" if lines else colour
