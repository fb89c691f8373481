"""What is done about a failed tile, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.retries import RetryPolicy, Verdict, after_failure
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
        (errors.ResourceError, 1, 0.5),
        (errors.ResourceError, 4, Verdict.QUARANTINE),
        (errors.WorkerLostError, 1, 0.5),
        (errors.WorkerLostError, 2, Verdict.QUARANTINE),
        (errors.AssetError, 1, Verdict.QUARANTINE),
        (errors.MapperError, 1, Verdict.QUARANTINE),
        (errors.SpecError, 1, Verdict.STOP),
        (errors.GridError, 1, Verdict.STOP),
        (errors.ModelError, 1, Verdict.STOP),
        (errors.MosaicError, 1, Verdict.STOP),
        (errors.CredentialsError, 1, Verdict.STOP),
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
