"""The table of what can become of a shard, and that nothing gets past it."""

from __future__ import annotations

import itertools

import pytest

from cluster.shard_state import FINISHED, GIVEN_UP, RECORDED, TRANSITIONS, ShardState, given_up, moved
from mapper import errors
from mapper.errors import MapperError

STATES: tuple[ShardState, ...] = tuple(TRANSITIONS)


@pytest.mark.parametrize(("now", "to"), list(itertools.product(STATES, STATES)))
def test_what_is_not_in_the_table_raises(now: ShardState, to: ShardState) -> None:
    if to in TRANSITIONS[now]:
        assert moved(now, to) == to
    else:
        with pytest.raises(MapperError, match=f"is {now} cannot become {to}"):
            moved(now, to)


def test_every_state_is_reached_from_planned_and_every_one_leads_back() -> None:
    for begin in STATES:
        reached: set[ShardState] = {begin}
        while grown := {to for state in reached for to in TRANSITIONS[state]} - reached:
            reached |= grown
        assert reached == set(STATES)


def test_nothing_is_recorded_that_was_not_written_or_given_up() -> None:
    before = {state: {now for now in STATES if state in TRANSITIONS[now]} for state in RECORDED}
    assert all(before[state] == {"written"} for state in FINISHED)
    assert all(before[state] == {"leased"} for state in GIVEN_UP)


def test_only_what_is_recorded_as_finished_can_be_verified() -> None:
    assert {now for now in STATES if "verified" in TRANSITIONS[now]} == FINISHED


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (errors.ReadError, "failed"),
        (errors.StoreError, "failed"),
        (errors.ResourceError, "failed"),
        (errors.WorkerLostError, "quarantined"),
        (errors.AssetError, "quarantined"),
        (errors.MapperError, "quarantined"),
    ],
)
def test_the_next_sitting_takes_again_what_may_have_passed_and_nothing_that_kills(
    kind: type[MapperError], state: str
) -> None:
    assert given_up(kind("it broke")) == state
