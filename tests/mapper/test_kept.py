"""What is made once and kept for all threads, within bounds."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapper.kept import Kept


@given(st.lists(st.integers(0, 9)), st.integers(0, 20))
def test_what_is_kept_never_weighs_more_than_it_may(keys: list[int], capacity: int) -> None:
    kept: Kept[int, int] = Kept(capacity, weigh=lambda value: value)
    for key in keys:
        assert kept.get(key, lambda value=key: value) == key  # type: ignore[misc]  # bound now, not when called
        assert kept.weight <= capacity


def test_a_value_is_made_once_while_it_is_kept_and_the_least_recently_used_goes_first() -> None:
    made: list[str] = []
    dropped: list[str] = []
    kept: Kept[str, str] = Kept(2, drop=dropped.append)

    def make(key: str) -> str:
        made.append(key)
        return key

    for key in "abacab":
        kept.get(key, lambda of=key: make(of))  # type: ignore[misc]  # bound now, not when called
    assert made == ["a", "b", "c", "b"]
    assert dropped == ["b", "c"]


def test_threads_that_ask_at_once_get_the_value_that_one_of_them_made() -> None:
    kept: Kept[str, object] = Kept(1)
    makers: list[int] = []
    all_ask, threads = threading.Event(), 8

    def make() -> object:
        makers.append(threading.get_ident())
        assert all_ask.wait(10)
        return object()

    with ThreadPoolExecutor(threads) as pool:
        asked = [pool.submit(kept.get, "a", make) for _ in range(threads)]
        all_ask.set()
        values = {id(future.result()) for future in asked}
    assert (len(makers), len(values)) == (1, 1)


def test_a_failure_is_told_to_all_who_wait_and_is_forgotten() -> None:
    kept: Kept[str, int] = Kept(1)
    asked, mine = kept.claim(["a"])
    waiting, none = kept.claim(["a"])
    assert not none
    kept.fail("a", mine["a"], OSError("gone"))
    for futures in (asked, waiting):
        with pytest.raises(OSError, match="gone"):
            futures["a"].result()
    assert kept.get("a", lambda: 1) == 1


def test_what_is_forgotten_while_it_is_made_is_handed_out_and_not_kept() -> None:
    dropped: list[int] = []
    kept: Kept[str, int] = Kept(10, drop=dropped.append)
    asked, mine = kept.claim(["a"])
    kept.forget(lambda key: key == "a")
    kept.put("a", mine["a"], 1)
    assert asked["a"].result() == 1
    assert (kept.peek("a"), kept.weight, dropped) == (None, 0, [1])


def test_what_is_being_made_is_not_there_to_peek_at() -> None:
    kept: Kept[str, int] = Kept(1)
    _, mine = kept.claim(["a"])
    assert kept.peek("a") is None
    kept.put("a", mine["a"], 1)
    assert kept.peek("a") == 1
