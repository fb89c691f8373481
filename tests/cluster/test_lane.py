"""The model's thread: batches of several tiles' windows, memory that runs out, an end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.lane import Lane
from mapper.errors import ModelError, ResourceError
from mapper.look import Model
from mapper.prompts import Prompt
from mapper.segmenter import Logits

PROMPTS = (Prompt(name="one", expression="the first"), Prompt(name="two", expression="the second"))


class OutOfMemoryError(RuntimeError):
    """As torch names its own."""


class Scripted:
    """A model whose answer is the brightness of a window; it waits to be let go, and can run out of memory."""

    name, window_px, band_names, fingerprint = "scripted", 4, ("red",), "scripted"

    def __init__(self, *, fits: int = 99, device: str = "cpu") -> None:
        self.device = device
        self.fits = fits
        self.go = threading.Event()
        self.began = threading.Event()
        self.batches: list[list[int]] = []
        self.threads: set[str] = set()

    def encode_text(self, expressions: Sequence[str]) -> Any:
        if "nonsense" in expressions:
            raise ModelError("no words in it")
        return list(expressions)

    def logits(self, pixels: NDArray[np.uint8], text: Any) -> Logits:
        self.threads.add(threading.current_thread().name)
        self.began.set()
        assert self.go.wait(20)
        if len(pixels) > self.fits:
            raise OutOfMemoryError
        self.batches.append([int(window.max()) for window in pixels])
        return np.broadcast_to(pixels[:, :1].astype(np.float32), (len(pixels), len(text), 4, 4)).copy()


class Begins(Scripted):
    """Answers a call later than it was begun, as a GPU does."""

    def __init__(self) -> None:
        super().__init__(device="cuda:0")
        self.go.set()
        self.story: list[str] = []

    def begin(self, pixels: NDArray[np.uint8], text: Any) -> Callable[[], Logits]:
        number = len([one for one in self.story if one.startswith("begun")])
        self.story.append(f"begun {number}")

        def fetched() -> Logits:
            self.story.append(f"fetched {number}")
            return self.logits(pixels, text)

        return fetched


class Loaded:
    """As much of a tile mapper as a lane needs."""

    def __init__(self, segmenter: Scripted, batch: int, prompts: Sequence[Prompt] = PROMPTS) -> None:
        self.model = Model(segmenter, prompts, batch=batch)


@pytest.fixture
def lane_of() -> Iterator[Callable[..., Lane]]:
    lanes = []

    def make(segmenter: Scripted, batch: int = 4, prompts: Sequence[Prompt] = PROMPTS) -> Lane:
        lanes.append(Lane("a", lambda: Loaded(segmenter, batch, prompts)))  # type: ignore[arg-type,return-value]
        return lanes[-1]

    yield make
    for lane in lanes:
        lane.close()


def window(value: int) -> NDArray[np.uint8]:
    return np.full((1, 4, 4), value, np.uint8)


def test_windows_of_several_tiles_fill_a_batch_and_the_earliest_tile_goes_first(lane_of: Callable[..., Lane]) -> None:
    net = Scripted()
    lane = lane_of(net)
    lane.ask(0)([window(1)], (0,))
    assert net.began.wait(20)  # the model is busy while the others come
    later = lane.ask(7)([window(70), window(71), window(72)], (0,))
    sooner = lane.ask(3)([window(30), window(31), window(32)], (0,))
    net.go.set()
    assert [int(one.result(20).logits.max()) for one in [*later, *sooner]] == [70, 71, 72, 30, 31, 32]
    assert net.batches == [[1], [30, 31, 32, 70], [71, 72]]
    assert net.threads == {"a-model_0"}


def test_windows_that_are_asked_different_things_are_not_mixed(lane_of: Callable[..., Lane]) -> None:
    net = Scripted()
    lane = lane_of(net)
    lane.ask(0)([window(1)], (0,))
    assert net.began.wait(20)
    one, two = lane.ask(1)([window(2)], (0, 1))[0], lane.ask(2)([window(3)], (1,))[0]
    net.go.set()
    assert one.result(20).logits.shape == (2, 4, 4)
    assert two.result(20).logits.shape == (1, 4, 4)
    assert net.batches == [[1], [2], [3]]


def test_when_memory_runs_out_the_same_windows_are_asked_fewer_at_a_time(lane_of: Callable[..., Lane]) -> None:
    net = Scripted(fits=2)
    net.go.set()
    lane = lane_of(net, batch=8)
    answers = lane.ask(0)([window(value) for value in range(20)], (0,))
    assert [int(one.result(20).logits.max()) for one in answers] == list(range(20))
    assert sorted(value for batch in net.batches for value in batch) == list(range(20))
    assert lane.batch == 2


def test_on_a_gpu_the_shape_of_a_call_outlives_an_error_of_memory(lane_of: Callable[..., Lane]) -> None:
    net = Scripted(device="cuda:0")
    net.go.set()
    lane = lane_of(net, batch=16)
    for one in lane.ask(0)([window(value + 1) for value in range(19)], (0,)):
        one.result(20)
    assert {len(batch) for batch in net.batches} == {8}  # filled up with black


def test_a_call_on_a_gpu_is_filled_up_only_where_nothing_else_waits(lane_of: Callable[..., Lane]) -> None:
    net = Scripted(device="cuda:0")
    lane = lane_of(net, batch=16)
    lane.ask(0)([window(1)], (0,))
    assert net.began.wait(20)
    answers = lane.ask(1)([window(value) for value in range(100, 119)], (0,))
    net.go.set()
    assert [int(one.result(20).logits.max()) for one in answers] == list(range(100, 119))
    assert [sum(value > 0 for value in batch) for batch in net.batches] == [1, 8, 8, 3]


def test_a_call_is_begun_before_the_last_one_is_fetched_where_a_model_can() -> None:
    net = Begins()
    model = Model(net, PROMPTS, batch=24)
    answers = model.logits([window(value) for value in range(19)], (0,))
    assert net.story == ["begun 0", "begun 1", "fetched 0", "begun 2", "fetched 1", "fetched 2"]
    assert [int(one.max()) for one in answers] == list(range(19))


def test_when_the_least_does_not_fit_who_asked_is_told_and_the_others_go_on(lane_of: Callable[..., Lane]) -> None:
    net = Scripted(fits=0)
    net.go.set()
    lane = lane_of(net, batch=2)
    with pytest.raises(OutOfMemoryError):
        lane.ask(0)([window(1)], (0,))[0].result(20)
    net.fits = 1
    assert lane.ask(1)([window(2)], (0,))[0].result(20).logits.max() == 2


def test_a_refused_sentence_reaches_who_asked(lane_of: Callable[..., Lane]) -> None:
    net = Scripted()
    net.go.set()
    lane = lane_of(net, prompts=(PROMPTS[0], Prompt(name="bad", expression="nonsense")))
    bad, good = lane.ask(0)([window(1)], (1,))[0], lane.ask(1)([window(2)], (0,))[0]
    with pytest.raises(ModelError, match="no words"):
        bad.result(20)
    assert good.result(20).logits.max() == 2


def test_once_closed_who_waits_is_told(lane_of: Callable[..., Lane]) -> None:
    net = Scripted()
    lane = lane_of(net)
    first = lane.ask(0)([window(1)], (0,))[0]
    assert net.began.wait(20)
    waiting = lane.ask(0)([window(2)], (0,))[0]
    lane.close()
    net.go.set()
    assert first.result(20).logits.max() == 1
    for late in (waiting, lane.ask(1)([window(3)], (0,))[0]):
        with pytest.raises(ResourceError, match="closed"):
            late.result(20)
