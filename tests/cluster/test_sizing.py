"""How many threads and windows a worker works with: rules of what the queues say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.sizing import CALM_BATCHES, Batch, Limits, Queues, Sizes, sized

LIMITS = Limits(readers=4, writers=3)
NOW = Sizes(readers=2, writers=2)
EVEN = Queues(waiting=0, reading=2, ready=2, unwritten=0, writing=1)


@pytest.mark.parametrize(
    ("seen", "readers", "writers", "because"),
    [
        (EVEN, 2, 2, "two tiles are ready and none waits to be written"),
        (replace(EVEN, ready=1), 3, 2, "nothing is behind the tile on the model, and all readers are at work"),
        (replace(EVEN, ready=0, waiting=5), 4, 2, "the model waits"),
        (replace(EVEN, ready=1, reading=1), 2, 2, "a reader is idle: there is nothing to read"),
        (replace(EVEN, ready=5), 2, 2, "a few more than wanted are no reason"),
        (replace(EVEN, ready=6), 1, 2, "too many tiles wait for the model"),
        (replace(EVEN, unwritten=1, writing=2), 2, 3, "a tile waits for a writer"),
        (replace(EVEN, unwritten=1, writing=1), 2, 2, "a writer is about to take it"),
        (replace(EVEN, writing=0), 2, 1, "both writers are idle"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sizes_follow_the_queues(seen: Queues, readers: int, writers: int, because: str) -> None:
    assert sized(NOW, seen, LIMITS) == Sizes(readers=readers, writers=writers), because


def test_sizes_keep_within_their_limits() -> None:
    starved = Queues(waiting=9, reading=99, ready=0, unwritten=9, writing=99)
    flooded = Queues(waiting=0, reading=0, ready=9, unwritten=0, writing=0)
    most = least = NOW
    for _ in range(20):
        most, least = sized(most, starved, LIMITS), sized(least, flooded, LIMITS)
    assert most == Sizes(readers=4, writers=3)
    assert least == Sizes(readers=1, writers=1)


def test_a_worker_holds_a_tile_for_every_thread_and_two_for_the_model() -> None:
    assert Sizes(readers=5, writers=2).holds == 5 + 2 + 2 + 1


def test_a_batch_is_halved_when_memory_runs_out_down_to_what_no_answer_depends_on() -> None:
    batch: Batch | None = Batch(size=16, most=16, least=4)
    sizes = []
    while batch is not None:
        sizes.append(batch.size)
        batch = batch.after(out_of_memory=True)
    assert sizes == [16, 8, 4]


def test_a_batch_grows_back_after_a_calm_time_and_no_further_than_it_was() -> None:
    batch: Batch | None = Batch(size=6, most=16, least=1)
    seen = []
    for _ in range(3 * CALM_BATCHES):
        assert batch is not None
        batch = batch.after(out_of_memory=False)
        assert batch is not None
        seen.append(batch.size)
    assert seen[: CALM_BATCHES - 1] == [6] * (CALM_BATCHES - 1)
    assert seen[CALM_BATCHES - 1] == 12
    assert set(seen[2 * CALM_BATCHES - 1 :]) == {16}
