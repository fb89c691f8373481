"""What is done about a failed tile, as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.retries import Outage, RetryPolicy, Verdict, after_failure
from mapper import errors
from mapper.errors import MapperError

POLICY = RetryPolicy(attempts=4, lost_workers=2, first_wait_s=0.5, longest_wait_s=30)


@pytest.mark.parametrize(
    ("kind", "attempt", "answer"),
    [
        (errors.ReadError, 1, 0.5),
        (errors.ReadError, 2, 1.0),
        (errors.ReadError, 3, 2.0),
        (errors.ReadError, 4, Verdict.QUARANTINE),
        (errors.StoreError, 1, 0.5),
        (errors.StoreError, 4, Verdict.QUARANTINE),
        (errors.ResourceError, 1, 2.0),
        (errors.ResourceError, 3, 8.0),
        (errors.ResourceError, 4, Verdict.QUARANTINE),
        (errors.WorkerLostError, 1, 0.5),
        (errors.WorkerLostError, 2, Verdict.QUARANTINE),
        (errors.AssetError, 1, Verdict.QUARANTINE),
        (errors.MapperError, 1, Verdict.QUARANTINE),
        (errors.SpecError, 1, Verdict.STOP),
        (errors.GridError, 1, Verdict.STOP),
        (errors.ModelError, 1, Verdict.STOP),
        (errors.MosaicError, 1, Verdict.STOP),
        (errors.BusyError, 1, Verdict.STOP),
        (errors.CredentialsError, 1, 2.0),
        (errors.CredentialsError, 2, 4.0),
        (errors.CredentialsError, 3, Verdict.STOP),
        (errors.HandedBackError, 1, 0.0),
        (errors.HandedBackError, 10_000, 0.0),
    ],
)
def test_a_failure_is_answered_as_the_table_says(
    kind: type[MapperError], attempt: int, answer: float | Verdict
) -> None:
    assert after_failure(kind("it broke"), attempt, POLICY) == answer


def test_a_wait_is_never_longer_than_the_policy_says() -> None:
    patient = RetryPolicy(attempts=100)
    assert after_failure(errors.ReadError("slow"), 50, patient) == patient.longest_wait_s


@given(st.integers(1, 3), st.floats(0, 1))
def test_tiles_that_failed_together_do_not_return_together(attempt: int, spread: float) -> None:
    plain = after_failure(errors.ReadError("slow"), attempt, POLICY)
    spread_out = after_failure(errors.ReadError("slow"), attempt, POLICY, spread=spread)
    assert isinstance(plain, float)
    assert spread_out == pytest.approx(plain * (1 + spread / 2))


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MapperError)]
COUNTED = [kind for kind in KINDS if kind.cause != "returned"]


@pytest.mark.parametrize("kind", COUNTED)
def test_every_error_but_of_a_leaving_machine_has_a_budget_that_is_used_up(kind: type[MapperError]) -> None:
    tries = POLICY.budget(kind.cause).tries
    assert isinstance(after_failure(kind("it broke"), tries, POLICY), Verdict)
    for earlier in range(1, tries):
        assert isinstance(after_failure(kind("it broke"), earlier, POLICY), float)


def test_what_a_server_says_is_waited_but_not_for_ever() -> None:
    for said_s, waited_s in ((0.1, 0.5), (7.0, 7.0), (1e9, POLICY.longest_said_s)):
        error = errors.StoreError("slow down")
        error.wait_s = said_s
        assert after_failure(error, 1, POLICY) == waited_s


def failed(outage: Outage, error: MapperError, *, tasks: Sequence[int], now: float = 0.0) -> None:
    for task in tasks:
        outage.failed(task, error, now)


def test_an_outage_is_try_after_try_that_fails_for_what_is_away_from_here() -> None:
    for error, tasks, there in (
        (errors.ReadError("no answer"), (1, 2, 3), False),
        (errors.ReadError("no answer"), (1, 2, 3, 4), True),
        (errors.ReadError("no answer"), (1, 1, 1, 1), False),
        (errors.StoreError("no answer"), (1, 1, 1, 1), True),
        (errors.AssetError("corrupt"), (1, 2, 3, 4, 5), False),
        (errors.ResourceError("no memory"), (1, 2, 3, 4, 5), False),
        (errors.HandedBackError("its worker leaves"), (1, 2, 3, 4, 5), False),
    ):
        outage = Outage(POLICY)
        failed(outage, error, tasks=tasks)
        assert outage.holds(1.0) is there, error


def test_one_broken_file_is_no_outage_however_many_tiles_it_shows() -> None:
    outage = Outage(POLICY)
    failed(outage, errors.BrokenReadError("not a block", asset="a.tif"), tasks=(1, 2, 3, 4, 5))
    assert not outage.holds(1.0)
    failed(outage, errors.BrokenReadError("not a block", asset="b.tif"), tasks=(6,))
    assert outage.holds(1.0)


def test_an_outage_is_over_when_anything_arrives() -> None:
    for error in (None, errors.AssetError("it arrived, and is corrupt")):
        outage = Outage(POLICY)
        failed(outage, errors.ReadError("no answer"), tasks=(1, 2, 3, 4))
        if error is None:
            outage.went_well()
        else:
            outage.failed(9, error, 1.0)
        assert not outage.holds(1.0)


def test_an_outage_is_waited_out_from_its_first_failure() -> None:
    outage = Outage(POLICY)
    failed(outage, errors.ReadError("no answer"), tasks=(1,), now=100.0)
    failed(outage, errors.ReadError("no answer"), tasks=(2, 3, 4), now=150.0)
    assert outage.holds(100.0 + POLICY.outage_s - 0.1)
    assert not outage.too_long(100.0 + POLICY.outage_s - 0.1)
    assert outage.too_long(100.0 + POLICY.outage_s)
    assert not outage.holds(100.0 + POLICY.outage_s)
