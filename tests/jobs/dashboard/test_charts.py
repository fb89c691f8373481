"""Pictures and words of figures: they say what they show, nothing unknown is a 0, nothing of strangers is markup."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.readings import WAITS
from jobs.dashboard import charts, words
from jobs.dashboard.plain_map import COLUMNS, ROWS, plain_map
from jobs.dashboard.views import Span
from tests.jobs.dashboard.fakes import LIVE, FakeQueries, page
from tests.jobs.dashboard.hostile import HOSTILE

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
shares = st.floats(0, 1, allow_subnormal=False)


def drawn(picture: str) -> Any:
    """As XML, which also says that it is whole."""
    return ElementTree.fromstring(picture)


def widths(picture: str) -> list[float]:
    """Of the parts of a bar, in the order they stand, plates left out."""
    return [
        float(part.attrib["width"]) for part in drawn(picture).iter("rect") if part.attrib.get("fill", "#fff") != "#fff"
    ]


@given(st.lists(shares, min_size=len(WAITS) + 1, max_size=len(WAITS) + 1).filter(lambda parts: sum(parts) > 0.01))
def test_a_stall_bar_is_as_wide_as_all_its_parts_and_begins_with_computing(parts: list[float]) -> None:
    whole = sum(parts)
    busy, *waited = (part / whole for part in parts)
    picture = charts.stall_bar(dict(zip(WAITS, waited, strict=True)), busy)
    # Each width is rounded to a tenth of a pixel.
    assert sum(widths(picture)) == pytest.approx(charts.BAR[0], abs=0.05 * len(parts) + 1e-6)
    if busy >= 0.005:
        assert drawn(picture).attrib["aria-label"].startswith(f"computes {words.share(busy)}")


def test_a_stall_bar_of_which_nothing_is_known_says_so_and_has_no_part() -> None:
    picture = charts.stall_bar({}, None)
    assert widths(picture) == []
    assert "not known" in drawn(picture).attrib["aria-label"]


def test_every_stage_and_state_has_a_pattern_of_its_own_or_none_but_its_colour() -> None:
    inks = [part.attrib["fill"] for name in (*WAITS, "busy") for part in drawn(charts.swatch(name)).iter("rect")]
    assert len(set(inks)) == len(WAITS) + 1
    defined = {part.attrib["id"] for part in drawn(charts.definitions()).iter("pattern")}
    assert {ink[5:-1] for ink in inks if ink.startswith("url(")} <= defined


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=60))
def test_a_sparkline_leaves_gaps_where_nothing_is_known(values: list[float | None]) -> None:
    picture = drawn(charts.spark(values))
    lines = [path.attrib["d"] for path in picture.iter("path") if path.attrib["class"] == "line"]
    beginnings = sum(value is not None and (n == 0 or values[n - 1] is None) for n, value in enumerate(values))
    assert sum(line.count("M") for line in lines) == beginnings


@given(st.lists(st.floats(0, 1e7), min_size=2, max_size=240))
def test_a_history_keeps_within_its_picture_and_its_axis_ends_above_all(values: list[float]) -> None:
    picture = drawn(charts.history([(NOON + timedelta(seconds=10 * n), value) for n, value in enumerate(values)]))
    (line,) = (path.attrib["d"] for path in picture.iter("path") if path.attrib["class"] == "line")
    for point in line[1:].split("L"):
        x, y = map(float, point.split())
        assert 0 <= x <= charts.HISTORY[0]
        assert 0 <= y <= charts.HISTORY[1]


def test_the_tiles_of_a_progress_bar_are_all_that_are_planned() -> None:
    progress = page().progress
    assert sum(tiles for _, tiles in charts.tile_counts(progress)) == progress.planned
    late = replace(progress, waiting=3, in_hand=24)  # the live file is a second older than the ledger
    assert dict(charts.tile_counts(late))["in_hand"] == 3


@pytest.mark.parametrize("text", HOSTILE[::10])
def test_words_of_strangers_are_text_in_pictures(text: str) -> None:
    clean = "".join(mark for mark in text if mark.isprintable())  # XML knows no control characters
    assert drawn(charts.spark([1.0], what=clean)).attrib["aria-label"].startswith(clean)


@pytest.mark.parametrize("say", [words.figure, words.count, words.share, words.memory, words.traffic, words.duration,
                                 words.left, words.usd, words.moment, words.clock])  # fmt: skip
def test_what_nobody_knows_is_a_dash(say: Any) -> None:
    assert say(None) == "–"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (720, 900, "12 to 15 minutes left"),
        (40, 80, "40 to 80 seconds left"),
        (3600, 9000, "1 to 2.5 hours left"),
        (3600 * 3, 3600 * 4.5, "3 to 4.5 hours left"),
        (700, 730, "about 12 minutes left"),
        (0.2, 1.2, "0 to 1 seconds left"),
        (0.1, 0.3, "less than a second left"),
        (86400 * 2, 86400 * 3, "2 to 3 days left"),
    ],
)  # fmt: skip
def test_time_left_is_a_range_in_words(low: float, high: float, said: str) -> None:
    assert words.left(Span(low=low, high=high)) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.4213, "0.42"), (12.34, "12.3"), (1234.5, "1,234"), (0.0123, "0.012"), (4096, "4,096")],
)
def test_figures_have_three_digits_that_matter(value: float, said: str) -> None:
    assert words.figure(value) == said


def test_a_share_that_is_not_nothing_is_never_said_to_be_nothing() -> None:
    assert words.share(0.0001) == "<1\u00a0%"
    assert words.share(0) == "0\u00a0%"


@pytest.mark.parametrize("href", [*HOSTILE[-25:], "file:///etc/passwd", "https:", "http:///x", "ftp://a/b", 7, None])
def test_only_the_web_is_linked_to(href: object) -> None:
    assert words.web_address(href) is None


def test_an_address_of_the_web_is_left_as_it_is() -> None:
    assert words.web_address("https://example.com/a.tif?x=1") == "https://example.com/a.tif?x=1"


@given(st.fixed_dictionaries({}, optional={name: st.text(max_size=3) | st.integers(0, 40).map(str)
                                           for name in ("z", "x", "y", "layer", "prompt", "step")}))  # fmt: skip
def test_every_address_of_the_plain_map_shows_pictures_that_there_are(query: dict[str, str]) -> None:
    info = FakeQueries().map(LIVE.id)
    shown = plain_map(info, query)
    for there in (shown, shown.nearer(), shown.farther(), shown.moved(2, 1), shown.moved(-9, -9)):
        assert 0 <= there.z <= info.max_zoom
        assert 0 <= there.x < 2**there.z
        assert 0 <= there.y < 2**there.z
        assert there.layer in info.layers
        assert there.prompt < len(info.prompts)
        assert there.step < len(info.steps)
        assert [len(row) for row in there.pictures()] == [COLUMNS] * ROWS
        assert there.pictures()[ROWS // 2][COLUMNS // 2] == (there.z, there.x, there.y)
