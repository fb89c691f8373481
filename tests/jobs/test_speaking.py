"""Which of several runs speaks for a tile, held against a rule that looks at one tile after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.speaking import Axes, RunColumns, columns_of, renews_of, voices
from tests.jobs.renewed import JULY, JUNE, MAY, by_hand, every, item

LAYERS = 3


@st.composite
def runs(draw: st.DrawFn) -> list[RunColumns]:
    """A few runs over a few places, each place at most once a run; -1 where the mosaic has no such place."""
    found = []
    for renews in draw(st.lists(st.integers(0, 4), min_size=1, max_size=5)):
        places = draw(st.lists(st.integers(0, 8), unique=True, max_size=9))
        places += [-1] * draw(st.integers(0, 2))
        flags = draw(st.lists(st.booleans(), min_size=LAYERS * len(places), max_size=LAYERS * len(places)))
        finished = np.array(flags, np.bool_).reshape(LAYERS, len(places))
        found.append(RunColumns(renews=renews, place=np.array(places, np.int64), finished=finished))
    return found


def has_finished(run: RunColumns, place: int, layer: int) -> bool:
    return any(done for at, done in zip(run.place.tolist(), run.finished[layer].tolist(), strict=True) if at == place)


@given(runs(), st.integers(0, 5))
def test_a_layer_of_a_tile_is_the_last_runs_that_finished_it(all_runs: Sequence[RunColumns], lost: int) -> None:
    for run, voice in zip(all_runs, voices(all_runs, lost=lost), strict=True):
        later = [other for other in all_runs if other.renews > run.renews]
        for row, place in enumerate(run.place.tolist()):
            overtaken = [place >= 0 and any(has_finished(o, place, layer) for o in later) for layer in range(LAYERS)]
            assert voice.overtaken[:, row].tolist() == overtaken
            unsure = run.renews < lost or any(place >= 0 and place in other.place for other in later)
            assert bool(voice.unsure[row]) == unsure
            said = run.finished[:, row].tolist()
            silent = any(said) and all(gone for done, gone in zip(said, overtaken, strict=True) if done)
            assert bool(voice.silent(run.finished)[row]) == silent


def test_a_million_tiles_of_one_run_are_all_its_own() -> None:
    many = 1_000_000
    whole = RunColumns(renews=0, place=np.arange(many), finished=np.ones((LAYERS, many), np.bool_))
    again = RunColumns(renews=1, place=np.array([7, 999_999]), finished=np.ones((LAYERS, 2), np.bool_))
    (alone,) = voices([whole])
    assert not alone.overtaken.any()
    assert not alone.unsure.any()
    old, new = voices([whole, again])
    assert np.flatnonzero(old.overtaken[0]).tolist() == [7, 999_999]
    assert not new.overtaken.any()


def test_a_tile_has_one_number_in_all_runs_however_their_plans_number_the_steps(tmp_path: Path) -> None:
    made = by_hand(tmp_path)
    made.plan(every(JUNE), items=[item("a", JUNE)])
    later = made.plan([(MAY, 0, 1), (JUNE, 2, 3), (JULY, 0, 0)], items=[item("b", MAY)], renews=True, grow=False)
    axes = Axes(made.mosaic)
    first, second = (columns_of(run.folder, run.folder.facts(), axes) for run in made.runs)
    assert len(set(first.place.tolist())) == 12
    assert second.place.tolist() == [-1, first.place[11], -1]  # the axis has no May and no July yet
    assert [renews_of(run.folder.facts()) for run in made.runs] == [0, 1]
    assert later.renews == 1
