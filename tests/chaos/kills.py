"""Kill a driver, start it again, until the map is whole."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from mapper.failpoints import ONCE, POINTS, VARIABLE
from tests.chaos.drivers import KILLED, drive
from tests.chaos.grounds import unrecorded

OF_COMMITS = ("before-commit", "mid-commit", "commit-before-answer")
"""Reached where something must be committed."""

SELDOM = {"plan-half-saved": 0, "run-begins": 1, "lease-taken": 1, "before-run-json": 2, "after-run-json": 2}
"""How often a sitting of a run comes by, of those points that it does not pass again and again."""

LATEST = (4, 24)
"""A driver of ``killed_again_and_again`` dies when it takes up a tile between these, at the latest."""

OF_READERS = ("reader-reads",)
"""Reached where reading has actors of its own."""


def points_of(engine: str) -> list[str]:
    """The points that a driver with ``--local`` comes by."""
    others = OF_READERS if engine == "icechunk" else (*OF_READERS, *OF_COMMITS)
    return [name for name in POINTS if name not in others]


@dataclass(slots=True, kw_only=True)
class Story:
    """What happened until the map was whole."""

    kills: Counter[str] = field(default_factory=Counter)
    """Failpoint → drivers that died there."""

    redone: list[int] = field(default_factory=list)
    """Tiles that were put and not recorded, at each kill."""

    drivers: int = 0


def killed_at_each(job: Path, names: Sequence[str], folder: Path) -> Story:
    """Every driver dies at a point at which none has died yet; the one that finds none finishes.

    Raises:
        AssertionError: a driver ended in another way.
    """
    once = folder / f"once-{uuid.uuid4().hex}"
    once.mkdir()
    story = Story()
    rules = ",".join(f"{name}=kill" for name in names)
    for _ in range(2 * len(names) + 2):  # a point acts once, so there are no more deaths than points
        before = {path.name for path in once.iterdir()}
        over = drive(folder, "run", str(job), "--local", "--json", env={VARIABLE: rules, ONCE: str(once)})
        story.drivers += 1
        story.kills.update({path.name for path in once.iterdir()} - before)
        if over.status == 0:
            return story
        assert over.status == KILLED, over.err
    raise AssertionError(f"not finished after {story.drivers} drivers")


def killed_at(job: Path, name: str, turn: int, folder: Path) -> bool:
    """One driver dies at a point and a turn, and the next one finishes. Whether the first came by so often.

    Raises:
        AssertionError: a driver ended in another way.
    """
    over = drive(folder, "run", str(job), "--local", "--json", env={VARIABLE: f"{name}=kill@{turn}"})
    if over.status == 0:
        return False
    assert over.status == KILLED, over.err
    over = drive(folder, "run", str(job), "--local", "--json")
    assert over.status == 0, over.err
    return True


def killed_again_and_again(
    job: Path,
    folder: Path,
    *,
    kills: int,
    seed: int,
    env: Mapping[str, str] = MappingProxyType({}),
    most_turns: int = 4,
) -> Story:
    """So many drivers die, each at a point and a turn drawn by chance, on one plain Zarr mosaic; the last one finishes.

    A driver may come by its point too seldom: then it finishes, and what died is all that the story tells of.

    Raises:
        AssertionError: a driver ended in another way.
    """
    dice, story = random.Random(seed), Story()
    turns = {name: SELDOM.get(name, most_turns) for name in points_of("zarr")}
    names = [name for name, turn in turns.items() if turn]
    while story.kills.total() < kills:
        name = dice.choice(names)
        turn, latest = dice.randint(1, turns[name]), dice.randint(*LATEST)
        once = folder / f"once-{story.drivers}"
        once.mkdir()
        # A driver that does not come by dies all the same, when it takes up a later tile.
        rules = f"{name}=kill@{turn}" + ("" if name == "before-read" else f",before-read=kill@{latest}")
        over = drive(folder, "run", str(job), "--local", "--json", env={**env, VARIABLE: rules, ONCE: str(once)})
        story.drivers += 1
        if over.status == 0:
            return story
        assert over.status == KILLED, over.err
        story.kills[next(path.name for path in once.iterdir())] += 1
        story.redone.append(unrecorded(job.parent / "map"))
    over = drive(folder, "run", str(job), "--local", "--json")
    story.drivers += 1
    assert over.status == 0, over.err
    return story
