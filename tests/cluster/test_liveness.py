"""When an actor is given up."""

from __future__ import annotations

from pathlib import Path

from cluster.liveness import LOOK_S, RAY_TELLS_S, Limits, Signs, Watched
from cluster.worker import Worker
from tests.cluster.tiles import world

LIMITS = Limits(silent_s=120.0, stuck_s=900.0)


def heard(at: float) -> Signs:
    signs = Signs()
    signs.hear(at)
    signs.move(at)
    return signs


def test_one_that_was_not_placed_yet_is_waited_for() -> None:
    assert LIMITS.verdict(Signs(), 1e9, in_hand=0) is None


def test_one_that_says_nothing_is_given_up_after_the_bound_and_not_before() -> None:
    signs = heard(10.0)
    assert LIMITS.verdict(signs, 130.0, in_hand=1) is None
    assert LIMITS.verdict(signs, 130.5, in_hand=0) == "it has said nothing for 120 s"


def test_within_the_bound_a_sign_of_life_may_be_lost_seven_times_over() -> None:
    assert LIMITS.alive_every_s * 8 == LIMITS.silent_s


def test_one_that_lives_and_gets_nowhere_is_given_up_while_it_has_something_in_hand() -> None:
    signs = heard(0.0)
    for at in range(0, 1000, 15):
        signs.hear(at)
        signs.move(at, 0)
    assert LIMITS.verdict(signs, 1000.0, in_hand=0) is None
    assert LIMITS.verdict(signs, 1000.0, in_hand=2) == "nothing in it has got on for 1000 s"


def test_one_that_gets_on_slowly_is_kept() -> None:
    signs = heard(0.0)
    for at in range(0, 10_000, 15):
        signs.hear(at)
        signs.move(at, at // 600)
        assert LIMITS.verdict(signs, at, in_hand=1) is None


def test_after_a_line_broke_ray_is_given_some_seconds_to_say_why() -> None:
    signs = heard(0.0)
    signs.broken_at = 10.0
    assert LIMITS.verdict(signs, 10.0 + RAY_TELLS_S, in_hand=1) is None
    assert LIMITS.verdict(signs, 10.1 + RAY_TELLS_S, in_hand=1) == "its line broke"


def test_a_driver_that_was_stopped_itself_has_not_waited() -> None:
    clock = Watched(100.0)
    assert clock.look(101.0) == 1.0
    assert clock.look(5000.0) == 1.0 + LOOK_S
    assert clock.look(5000.5) == 1.5 + LOOK_S


def test_a_worker_gets_on_with_each_stage_of_a_tile_and_each_batch_of_its_windows(tmp_path: Path) -> None:
    mapped = world(tmp_path)
    worker = Worker("gpu-0", mapped.setup)
    assert worker.moves == 0
    worker.run(mapped.tasks[0])
    assert worker.moves > len(("read", "segmented", "written"))
    worker.close()
