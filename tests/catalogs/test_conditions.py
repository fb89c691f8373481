from __future__ import annotations

import resource
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.conditions import Filter, Interval, dates_of, interval_of
from mapper.errors import SpecError
from tests.catalogs.examples import stac_item


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("2020", "2020-01-01T00:00:00Z/2020-12-31T23:59:59.999999Z"),
        ("2020-02", "2020-02-01T00:00:00Z/2020-02-29T23:59:59.999999Z"),
        ("2020-02-29", "2020-02-29T00:00:00Z/2020-02-29T23:59:59.999999Z"),
        ("2020-01-01/2020-12-31", "2020-01-01T00:00:00Z/2020-12-31T23:59:59.999999Z"),
        ("2020-06-01T10:00:00Z", "2020-06-01T10:00:00Z/2020-06-01T10:00:00Z"),
        ("2020-06-01T10:00:00+02:00/..", "2020-06-01T08:00:00Z/.."),
        ("../2020", "../2020-12-31T23:59:59.999999Z"),
        ("/2020", "../2020-12-31T23:59:59.999999Z"),
        ("9999", "9999-01-01T00:00:00Z/.."),
    ],
)
def test_dates_mean_all_of_what_they_name(text: str, sent: str) -> None:
    assert interval_of(text).text == sent


@pytest.mark.parametrize("text", ["", "soon", "2020-1", "2020-13", "2020-02-30", "20200101", "2020/x", "1/2", "0000"])
def test_what_is_no_date_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpecError, match="2020-01-01/2020-12-31"):
        interval_of(text)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(SpecError, match="ends before it begins"):
        interval_of("2021/2020")


instants = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


@given(instants, instants)
def test_an_interval_is_read_back_as_it_is_sent(a: datetime, b: datetime) -> None:
    interval = Interval(first=min(a, b), last=max(a, b))
    assert interval_of(interval.text) == interval


def test_an_item_of_a_range_answers_when_any_of_it_does() -> None:
    dates = {"datetime": None, "start_datetime": "2020-01-01T00:00:00Z", "end_datetime": "2020-12-31T00:00:00Z"}
    found = dates_of(stac_item(properties=dates))
    assert found is not None
    assert interval_of("2020-06").meets(*found)
    assert not interval_of("2021").meets(*found)


def test_a_leap_second_is_the_second_after() -> None:
    found = dates_of(stac_item(properties={"datetime": "2016-12-31T23:59:60Z"}))
    assert found == (datetime(2017, 1, 1, tzinfo=UTC),) * 2


def kept(text: str, *docs: dict[str, Any]) -> str:
    return "".join(doc["id"] for doc in Filter.parse(text).keep(docs))


class TestFilter:
    clear = stac_item("a", properties={"eo:cloud_cover": 5, "platform": "x", "gsd": 1})
    cloudy = stac_item("b", properties={"eo:cloud_cover": 90, "platform": "y", "gsd": 2})
    unknown = stac_item("c", properties={"eo:cloud_cover": None, "platform": "x"})
    docs = (clear, cloudy, unknown)

    @pytest.mark.parametrize(
        ("text", "names"),
        [
            ("eo:cloud_cover < 20", "a"),
            ('"eo:cloud_cover" >= 20', "b"),
            ("eo:cloud_cover IS NULL", "c"),
            ("NOT (eo:cloud_cover < 20)", "b"),
            ("platform = 'x' OR eo:cloud_cover > 50", "abc"),
            ("platform IN ('x') AND gsd BETWEEN 0 AND 1", "a"),
            ("platform LIKE 'y%'", "b"),
            ("id = 'c'", "c"),
            ("collection = 'fields'", "abc"),
            ("datetime > TIMESTAMP('2024-01-01T00:00:00Z')", "abc"),
            ("S_INTERSECTS(geometry, POINT(10.5 50.5))", "abc"),
            ("never:heard IS NULL", "abc"),
        ],
    )
    def test_what_an_item_does_not_say_is_unknown_and_not_true(self, text: str, names: str) -> None:
        assert kept(text, *self.docs) == names

    @pytest.mark.parametrize("text", ["", "eo:cloud_cover <", "eo:cloud_cover", "a = 1; drop", "'x'", "1 + 1"])
    def test_what_is_no_condition_is_refused(self, text: str) -> None:
        with pytest.raises(SpecError, match="filter is not CQL2") as caught:
            Filter.parse(text)
        assert "eo:cloud_cover < 20" in caught.value.fix

    def test_a_property_that_no_item_has_is_a_slip_of_the_pen(self) -> None:
        with pytest.raises(SpecError, match="'eo:cloudcover'") as caught:
            kept("eo:cloudcover < 20", *self.docs)
        assert "eo:cloud_cover" in caught.value.fix

    @pytest.mark.parametrize("text", ["eo:cloud_cover < 'low'", "casei(eo:cloud_cover) = 'x'", "magic(gsd) = 1"])
    def test_what_cannot_be_decided_is_an_error_not_an_empty_answer(self, text: str) -> None:
        with pytest.raises(SpecError, match="cannot be decided"):
            kept(text, self.clear)

    def test_a_filter_denies_only_what_is_plainly_false(self) -> None:
        condition = Filter.parse("eo:cloud_cover < 20")
        assert [condition.denies(doc) for doc in self.docs] == [False, True, False]


@given(st.integers(0, 86_399_999_999))
def test_microseconds_survive(micros: int) -> None:
    moment = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
    found = dates_of(stac_item(properties={"datetime": moment.isoformat()}))
    assert found == (moment, moment)


def test_a_date_of_many_words_is_refused_in_few() -> None:
    for text in ("x" * 20_000, f"2021/{'2020' + ' ' * 20_000}", f"2020/{'y' * 20_000}"):
        with pytest.raises(SpecError) as caught:
            interval_of(text)
        assert len(caught.value.what) < 200


@pytest.mark.parametrize("text", ["a LIKE 'x%' AND a = true" * 50, "-a + 1 * 4 % 5 AND a = true"])
def test_a_filter_of_which_cql2_has_gigabytes_to_say_costs_this_process_little(text: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SpecError, match="filter is"):
        Filter.parse(text)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 200 * 1024
