"""Windows across the border of two shards: looked at once by a worker that maps both, and no bit changes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from numpy.typing import NDArray

from mapper.curve import hilbert
from mapper.grid import PixelBox, Windows
from mapper.reuse import REMEMBERED_BYTES, Answer, Remembered, key_of

MEGABYTE = 1024 * 1024


def answer(value: float = 0.0, *, of_a_batch: bool = False) -> Future[Answer]:
    logits = np.full((1, 4, 4), value, np.float32)
    future: Future[Answer] = Future()
    future.set_result(Answer(logits=np.stack([logits, logits])[0] if of_a_batch else logits, seconds=1.0))
    return future


class Model:
    """Notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, positions: Sequence[int]) -> list[Future[Answer]]:
        self.asked.append(list(positions))
        return [answer(len(self.asked)) for _ in positions]


def test_what_was_asked_before_is_not_asked_again() -> None:
    remembered, model = Remembered(), Model()
    first = remembered.answers([b"a", None, b"b"], 64, model)
    again = remembered.answers([b"b", None, b"c", b"a"], 64, model)
    assert model.asked == [[0, 1, 2], [1, 2]]
    assert [reused for _, reused in first] == [False, False, False]
    assert [reused for _, reused in again] == [True, False, False, True]
    assert again[0][0] is first[2][0]


def test_two_windows_that_show_the_same_are_asked_about_once() -> None:
    model = Model()
    found = Remembered().answers([b"a", b"a", None, None], 64, model)
    assert model.asked == [[0, 2, 3]]
    assert [reused for _, reused in found] == [False, True, False, False]
    assert found[0][0] is found[1][0]


def test_an_answer_that_failed_is_asked_for_again() -> None:
    remembered, model = Remembered(), Model()
    failed: Future[Answer] = Future()
    failed.set_exception(MemoryError())
    remembered.answers([b"a"], 64, lambda _: [failed])
    remembered.own(b"a")
    (found, reused), *_ = remembered.answers([b"a"], 64, model)
    assert (model.asked, reused, found.exception()) == ([[0]], False, None)
    assert remembered.nbytes == 64


def test_no_more_is_kept_than_the_budget_and_the_oldest_goes_first() -> None:
    remembered, model = Remembered(3 * 64), Model()
    for key in (b"a", b"b", b"c"):
        remembered.answers([key], 64, model)
    remembered.answers([b"a"], 64, model)  # now b is the oldest
    remembered.answers([b"d"], 64, model)
    assert remembered.nbytes == 3 * 64
    assert [reused for _, reused in remembered.answers([b"a", b"c", b"d"], 64, model)] == [True, True, True]
    assert [reused for _, reused in remembered.answers([b"b"], 64, model)] == [False]


def test_what_is_kept_does_not_hold_the_batch_it_came_with() -> None:
    remembered = Remembered()
    remembered.answers([b"a"], 64, lambda _: [answer(3, of_a_batch=True)])
    remembered.own(b"a")
    (kept, _), *_ = remembered.answers([b"a"], 64, Model())
    assert kept.result().logits.base is None
    assert (kept.result().logits == 3).all()


@pytest.mark.parametrize("other", ["a pixel", "a prompt", "the shape"])
def test_a_key_tells_what_is_shown_and_what_is_asked(other: str) -> None:
    pixels: NDArray[np.uint8] = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    changed = pixels.copy()
    changed[2, 7, 7] += other == "a pixel"
    prompts = (0, 2) if other == "a prompt" else (0, 1)
    assert key_of(pixels, (0, 1)) == key_of(np.asfortranarray(pixels), (0, 1))
    assert key_of(changed.reshape(3, 4, 16) if other == "the shape" else changed, prompts) != key_of(pixels, (0, 1))


def looked_at(shards: int, *, shard_px: int, windows: Windows, prompts: int, budget_bytes: int) -> float:
    """Windows that one worker computes for a square of shards along the curve, for each that there is room for on
    its ground: 1 is every window of the lattice once, without the halo around the square."""
    remembered, asked = Remembered(budget_bytes), 0
    rows, columns = np.divmod(np.arange(shards * shards), shards)

    def ask(positions: Sequence[int]) -> list[Future[Answer]]:
        nonlocal asked
        asked += len(positions)
        return [nothing] * len(positions)

    nothing = answer()
    for shard in np.argsort(hilbert(rows, columns)):
        top, left = int(rows[shard]) * shard_px, int(columns[shard]) * shard_px
        core = PixelBox(top, left, top + shard_px, left + shard_px)
        keys = [None if core.contains(window) else repr(window).encode() for window in windows.touching(core)]
        remembered.answers(keys, 4 * prompts * windows.size_px**2, ask)
    return asked * windows.stride_px**2 / (shards * shard_px) ** 2


@pytest.mark.parametrize("prompts", [1, 2])
def test_at_shards_of_4096_px_the_halo_costs_less_than_15_per_cent(prompts: int) -> None:
    windows = Windows(size_px=512, overlap_px=128)
    alone = looked_at(1, shard_px=4096, windows=windows, prompts=prompts, budget_bytes=0)
    cost = looked_at(16, shard_px=4096, windows=windows, prompts=prompts, budget_bytes=REMEMBERED_BYTES)
    assert alone > 1.25  # what each shard on its own would cost
    assert cost <= 1.15
