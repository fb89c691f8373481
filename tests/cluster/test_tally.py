"""Where a model's time goes, by a clock that the test moves."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.readings import WAITS
from cluster.tally import Stage, Tally, stage_of


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def waited(tally: Tally, worked_s: dict[str, float] | None = None) -> dict[str, float]:
    """What the model waited for, without what it did not wait for."""
    return {wait: seconds for wait, seconds in tally.charged(worked_s or {}).waited_s.items() if seconds}


@pytest.mark.parametrize(
    ("seen", "stage"),
    [
        ({}, "tasks"),
        ({"ready": 1, "reading": 2, "unwritten": 3, "full": True}, "blend"),
        ({"reading": 2, "unwritten": 3, "full": True}, "reading"),
        ({"unwritten": 3, "full": True}, "writing"),
        ({"unwritten": 3}, "tasks"),  # others may come, and nobody sends them
        ({"full": True}, "tasks"),  # all that is in hand needs no model
    ],
)
def test_an_idle_model_waits_for_the_stage_of_the_tile_that_is_next(seen: dict[str, Any], stage: Stage) -> None:
    assert stage_of(**{"ready": 0, "reading": 0, "unwritten": 0, "full": False} | seen) == stage


def test_a_model_that_was_given_nothing_waits_for_tasks(clock: Clock) -> None:
    tally = Tally(clock)
    clock.time += 3
    assert waited(tally) == {"tasks": 3}


def test_what_passes_while_it_computes_is_no_waiting_whatever_its_tiles_are_at(clock: Clock) -> None:
    tally = Tally(clock)
    tally.compute()
    tally.stage("reading")
    clock.time += 3
    tally.rest()
    clock.time += 1
    charged = tally.charged({"read": 1.0})
    assert (charged.busy_s, charged.waited_s["read"], charged.up_s) == (3, 1, 4)


@pytest.mark.parametrize(
    ("stage", "fetching", "working"), [("reading", "read", "decode"), ("writing", "write", "encode")]
)
def test_a_stage_that_is_two_in_one_is_shared_as_its_threads_spent_their_time(
    clock: Clock, stage: Stage, fetching: str, working: str
) -> None:
    tally = Tally(clock)
    tally.stage(stage)
    clock.time += 8
    assert waited(tally, {fetching: 6.0, working: 2.0}) == {fetching: 6, working: 2}
    clock.time += 8  # from here on they only work
    assert waited(tally, {fetching: 6.0, working: 4.0}) == {fetching: 6, working: 10}


def test_while_no_thread_has_come_back_it_is_bytes_that_are_waited_for(clock: Clock) -> None:
    tally = Tally(clock)
    tally.stage("reading")
    clock.time += 5
    assert waited(tally, {"decode": 0.0}) == {"read": 5}


def test_pixels_on_their_way_to_the_device_keep_the_model_waiting(clock: Clock) -> None:
    tally = Tally(clock)
    tally.compute()
    clock.time += 4
    tally.rest(copied_s=1.0)
    charged = tally.charged({})
    assert (charged.busy_s, charged.waited_s["copy"], charged.up_s) == (3, 1, 4)


def test_copying_is_charged_once_and_what_is_too_much_for_one_batch_with_the_next(clock: Clock) -> None:
    tally = Tally(clock)
    for passed_s, copied_s, busy_s in ((1.0, 1.5, 0.0), (2.0, 0.0, 1.5), (1.0, 0.0, 2.5)):
        tally.compute()
        clock.time += passed_s
        tally.rest(copied_s=copied_s)
        assert tally.charged({}).busy_s == busy_s
    assert tally.charged({}).waited_s["copy"] == 1.5


SECONDS = st.integers(0, 50).map(lambda eighths: eighths / 8)  # such sums are exact
ACTS = st.one_of(
    st.tuples(st.just("compute")),
    st.tuples(st.just("rest"), SECONDS),
    st.tuples(st.just("stage"), st.sampled_from(["blend", "reading", "writing", "tasks"])),
    st.tuples(st.just("look"), st.lists(SECONDS, min_size=4, max_size=4)),
)


@given(st.lists(st.tuples(SECONDS, ACTS), max_size=40))
def test_every_moment_is_charged_once_and_nothing_is_taken_back(story: list[tuple[float, Any]]) -> None:
    clock = Clock()
    tally, worked, last = Tally(clock), dict.fromkeys(("read", "decode", "write", "encode"), 0.0), None
    for passed_s, act in [*story, (1.0, ("look", [0.0] * 4))]:
        clock.time += passed_s
        match act:
            case ("compute",):
                tally.compute()
            case ("rest", copied_s):
                tally.rest(copied_s=copied_s)
            case ("stage", stage):
                tally.stage(stage)
            case ("look", more):
                worked = {name: seconds + one for (name, seconds), one in zip(worked.items(), more, strict=True)}
                charged = tally.charged(worked)
                assert tuple(charged.waited_s) == WAITS
                # A stage is shared by a division: its two parts may miss their sum by the last bit.
                assert math.isclose(charged.up_s, clock.time - 100, abs_tol=1e-9)
                assert charged.up_s == charged.busy_s + sum(charged.waited_s.values())
                if last is not None:
                    assert charged.busy_s >= last.busy_s
                    assert all(charged.waited_s[wait] >= last.waited_s[wait] for wait in WAITS)
                last = charged
