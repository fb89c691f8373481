"""What comes late, is mapped anew or was broken off: in the end the changes are those of all made at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mapper import failpoints
from mapper.changes import ChangeRule, Renewed, changes_folder, changes_told, find_changes
from mapper.errors import StoreError
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from tests.mapper.changes.stacks import PIXEL_M2, RULES, SIDE, laid, random_scores, reckoned, step, told, write

STEPS = 3


def files_of(mosaic_url: str) -> dict[str, bytes]:
    """All shards and files of changes beside a mosaic.

    Without the metadata: an axis that grew is stored in more pieces than one that was made so long.
    """
    fs, folder = fsspec.core.url_to_fs(changes_folder(mosaic_url))
    layers = {"change", "state", "since", "seen", "polygons"}
    paths = {path.removeprefix(folder): path for path in fs.find(folder)}
    return {
        name: fs.cat_file(path)
        for name, path in paths.items()
        if layers & {*name.split("/")} and not name.endswith("zarr.json")
    }


def made_at_once(mosaic: Mosaic, scores: NDArray[np.uint8], rule: ChangeRule) -> dict[str, bytes]:
    """The changes of another mosaic of the same scores, made from nothing."""
    shard_px = mosaic.grids[0].shard_px
    order = [next(n for n in range(STEPS) if step(n) == time) for time in mosaic.times]
    other = laid(shard_px, scores, order=order, thresholds=[one.threshold for one in mosaic.prompts])
    find_changes(other.url, rule)
    return files_of(other.url)


@pytest.mark.parametrize(
    "examples", [2, pytest.param(60, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])], ids=["few", "many"]
)
def test_what_comes_late_in_any_order_leaves_the_bytes_of_all_made_at_once(examples: int) -> None:
    settings(max_examples=examples)(given(st.integers(0, 2**32), RULES, st.sampled_from([4, 6]))(late_is_as_at_once))()


def late_is_as_at_once(seed: int, rule: ChangeRule, shard_px: int) -> None:
    scores, mosaic = come_late(np.random.default_rng(seed), rule, shard_px)
    assert files_of(mosaic.url) == made_at_once(mosaic, scores, rule)
    told(mosaic).same(reckoned(scores, sorted(mosaic.times), 0.5, rule))


def come_late(rng: np.random.Generator, rule: ChangeRule, shard_px: int) -> tuple[NDArray[np.uint8], Mosaic]:
    """A mosaic that grew by tiles and steps in any order, its changes brought up to date each time; and its scores."""
    scores = random_scores(rng, STEPS, patch=2)
    order = [int(number) for number in rng.permutation(STEPS)]
    mosaic = laid(shard_px, scores, order=order[:2])
    find_changes(mosaic.url, rule)
    for at, number in enumerate(order[2:], 2):
        mosaic.add_times([step(number)])
        for row, column in np.ndindex(*mosaic.grids[0].tile_shape):
            write(mosaic, row, column, at, scores[None, number])
        find_changes(mosaic.url, rule, [])
    later = random_scores(rng, STEPS, patch=2)
    for _ in range(2):
        at = int(rng.integers(STEPS))
        places = [place for place in np.ndindex(*mosaic.grids[0].tile_shape) if rng.random() < 0.2]
        renewed = []
        for row, column in places:
            core = mosaic.grids[0].tile(row, column).core.within(mosaic.grids[0].box)
            scores[order[at]][core] = later[order[at]][core]
            write(mosaic, row, column, at, scores[order[at]][None])
            renewed.append(Renewed(grid="", time=mosaic.times[at], row=row, column=column))
        find_changes(mosaic.url, rule, renewed)
    return scores, mosaic


@pytest.mark.parametrize("point", [f"mid-put=raise@{turn}" for turn in (1, 9, 16)])
def test_what_is_killed_anywhere_and_asked_again_leaves_the_same_bytes(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = ChangeRule(min_area_m2=4.5 * PIXEL_M2)
    scores, mosaic, renewed = half_renewed(rule)
    monkeypatch.setenv(failpoints.VARIABLE, point)
    monkeypatch.setattr(failpoints, "_reached", Counter())
    failpoints._rules.cache_clear()
    with pytest.raises(StoreError):
        find_changes(mosaic.url, rule, renewed)
    monkeypatch.delenv(failpoints.VARIABLE)
    failpoints._rules.cache_clear()
    find_changes(mosaic.url, rule, [])
    assert files_of(mosaic.url) == made_at_once(mosaic, scores, rule)


def half_renewed(rule: ChangeRule) -> tuple[NDArray[np.uint8], Mosaic, list[Renewed]]:
    """A mosaic whose changes are known, but for half of the tiles of its second step, which were mapped since."""
    rng = np.random.default_rng(5)
    scores = random_scores(rng, STEPS)
    mosaic = laid(6, scores)
    find_changes(mosaic.url, rule)
    later, renewed = random_scores(rng, 1)[0], []
    for row, column in np.ndindex(*mosaic.grids[0].tile_shape):
        if (row + column) % 2:
            core = mosaic.grids[0].tile(row, column).core.within(mosaic.grids[0].box)
            scores[1][core] = later[core]
            write(mosaic, row, column, 1, scores[None, 1])
            renewed.append(Renewed(grid="", time=step(1), row=row, column=column))
    return scores, mosaic, renewed


def test_who_asks_the_same_again_is_told_of_the_same_steps() -> None:
    rule = ChangeRule()
    _, mosaic, renewed = half_renewed(rule)
    first = find_changes(mosaic.url, rule, renewed)
    assert {one.time for one in first} > {step(1)}
    assert find_changes(mosaic.url, rule, renewed) == first


def test_steps_that_only_followed_are_answered_again_until_somebody_was_told() -> None:
    rule = ChangeRule()
    _, mosaic, renewed = half_renewed(rule)
    first = find_changes(mosaic.url, rule, renewed, until_told=True)
    assert {one.time for one in first} > {step(1)}
    more = Renewed(grid="", time=step(1), row=0, column=0)  # mapped before anybody was told, so another thing is asked
    assert find_changes(mosaic.url, rule, [*renewed, more], until_told=True) == first
    changes_told(mosaic.url)
    assert find_changes(mosaic.url, rule, [], until_told=True) == []


def test_what_is_up_to_date_is_not_written_again(tmp_path: Path) -> None:
    mosaic = laid(6, random_scores(np.random.default_rng(1), STEPS), url=str(tmp_path / "map.zarr"))
    rule = ChangeRule()
    find_changes(mosaic.url, rule)
    shards = [path for path in Path(changes_folder(mosaic.url), "change.zarr").rglob("*") if path.is_file()]
    written = {path: path.stat().st_mtime_ns for path in shards}
    find_changes(mosaic.url, rule)
    assert {path: path.stat().st_mtime_ns for path in shards} == written
    assert find_changes(mosaic.url, rule, []) == []


def test_another_rule_decides_all_anew() -> None:
    scores = random_scores(np.random.default_rng(2), STEPS)
    mosaic = laid(6, scores)
    find_changes(mosaic.url, ChangeRule())
    rule = ChangeRule(hysteresis=0.3, min_area_m2=8.5 * PIXEL_M2)
    find_changes(mosaic.url, rule, [])
    assert files_of(mosaic.url) == made_at_once(mosaic, scores, rule)


def test_a_prompt_that_came_later_has_changes_from_the_first_step_on() -> None:
    scores = np.stack([random_scores(np.random.default_rng(seed), 2) for seed in (1, 2)])
    mosaic, rule = laid(6, scores[0]), ChangeRule()
    find_changes(mosaic.url, rule)
    mosaic.add_prompts([Prompt(name="thing 1", expression="other things", threshold=0.4)])
    for at, row, column in np.ndindex(2, *mosaic.grids[0].tile_shape):
        write(mosaic, row, column, at, scores[:, at])
    find_changes(mosaic.url, rule, [])
    for prompt, threshold in enumerate((0.5, 0.4)):
        told(mosaic, prompt).same(reckoned(scores[prompt], [step(0), step(1)], threshold, rule))


def test_a_tile_that_is_gone_is_unknown_in_its_step_and_as_before_in_the_next() -> None:
    scores = np.full((3, SIDE, SIDE), 250, np.uint8)
    scores[0] = 0
    mosaic, rule = laid(6, scores), ChangeRule()
    find_changes(mosaic.url, rule)
    write(mosaic, 1, 1, 1, np.full((1, SIDE, SIDE), 254, np.uint8))
    told_of = find_changes(mosaic.url, rule, [Renewed(grid="", time=step(1), row=1, column=1)])
    assert told(mosaic).change[:, 8, 8].tolist() == [254, 254, 2]
    assert [(one.time, one.appeared) for one in told_of] == [(step(1), 1), (step(2), 1)]
