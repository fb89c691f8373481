"""What is left to do: put down before anything is written, so that whoever is killed is taken up where it stood.

<changes>/pending.json    shards to decide anew, by zone, prompt and step; files to draw; the step under way

Of the step under way nobody knows what was written, so all it touched counts as changed when it is done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from mapper.changes.borders import Place
from mapper.errors import VerifyError
from mapper.storage import Folder

NAME = "pending.json"


class Series(NamedTuple):
    """One prompt of one zone: what happens in one has no part in another."""

    zone: str
    prompt: str


@dataclass(slots=True, kw_only=True)
class Left:
    """What is left to do in one series."""

    steps: dict[datetime, set[Place] | None] = field(default_factory=dict)
    """Shards to decide anew, by step; None for all that have anything."""

    wave: set[Place] = field(default_factory=set)
    """Shards in which something else is known than before, up to the step under way: the next step that has one of
    them follows."""

    under_way: set[datetime] = field(default_factory=set)
    """Steps that were begun and not finished."""

    def resume(self, steps: Iterable[datetime]) -> None:
        """Go on where somebody was killed: who follows in the wave is looked for in every step from there on."""
        if self.wave:
            for step in steps:
                if step >= min(self.under_way):
                    self.add(step, self.wave)
            self.wave = set()

    def add(self, step: datetime, places: Iterable[Place] | None) -> None:
        """Some shards of a step, or all."""
        before = self.steps.get(step, set())
        self.steps[step] = None if places is None or before is None else before | set(places)


@dataclass(slots=True, kw_only=True)
class Pending:
    """What is left to do, and what was asked last."""

    series: dict[Series, Left] = field(default_factory=dict)
    drawn_anew: set[tuple[str, datetime]] = field(default_factory=set)
    """Zones and steps whose polygons are to be drawn."""

    asked: str = ""
    """Digest of what was asked last. Who was killed before the answer was used asks the same again, and is told of
    the same steps."""

    reported: set[datetime] = field(default_factory=set)
    """The steps that were told of, or will be."""

    def of(self, series: Series) -> Left:
        """What is left of one series."""
        return self.series.setdefault(series, Left())

    @classmethod
    def read(cls, folder: Folder) -> Pending:
        """As it was put down; nothing is left where nothing was.

        Raises:
            VerifyError: it is no such file.
        """
        try:
            return cls._from(json.loads(folder.read(NAME)))
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError) as error:
            raise VerifyError(
                f"what is left to do of the changes cannot be read: {error}",
                fix="delete the folder of changes: all of it is made again from the mosaic",
                file=f"{folder.url}/{NAME}",
            ) from error

    @classmethod
    def _from(cls, said: dict[str, Any]) -> Pending:
        return cls(
            series={
                Series(one["zone"], one["prompt"]): Left(
                    steps={
                        datetime.fromisoformat(step): None if places is None else _places(places)
                        for step, places in one["steps"].items()
                    },
                    wave=_places(one["wave"]),
                    under_way={datetime.fromisoformat(step) for step in one["under_way"]},
                )
                for one in said["series"]
            },
            drawn_anew={(zone, datetime.fromisoformat(step)) for zone, step in said["drawn_anew"]},
            asked=said["asked"],
            reported={datetime.fromisoformat(step) for step in said["reported"]},
        )

    def save(self, folder: Folder) -> None:
        """Put it down, in place of what was."""
        said = {
            "series": [
                {
                    "zone": series.zone,
                    "prompt": series.prompt,
                    "steps": {
                        step.isoformat(): None if places is None else sorted(places)
                        for step, places in sorted(left.steps.items())
                    },
                    "wave": sorted(left.wave),
                    "under_way": [step.isoformat() for step in sorted(left.under_way)],
                }
                for series, left in sorted(self.series.items(), key=lambda one: one[0])
                if left.steps or left.wave
            ],
            "drawn_anew": [[zone, step.isoformat()] for zone, step in sorted(self.drawn_anew)],
            "asked": self.asked,
            "reported": [step.isoformat() for step in sorted(self.reported)],
        }
        folder.write(NAME, json.dumps(said, separators=(",", ":")).encode())


def _places(said: Iterable[Iterable[int]]) -> set[Place]:
    return {(row, column) for row, column in said}
