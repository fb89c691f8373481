"""Which prompt, which time step and which zone of a mosaic somebody means, and what files of them are called."""

from __future__ import annotations

from datetime import UTC, datetime

from mapper.errors import QuestionError
from mapper.grid import Grid
from mapper.mosaic import Mosaic
from mapper.names import slug
from mapper.questions.asking import LATEST, When, prompts_of, time_of
from mapper.questions.places import did_you_mean


def chosen_prompt(mosaic: Mosaic, name: str | None) -> int:
    """Position on the prompt axis of the one named; of the only one where none is.

    Raises:
        QuestionError: there is no such prompt, or there are several and none is named.
    """
    found = prompts_of(mosaic, name)
    if len(found) > 1:
        names = ", ".join(prompt.name for prompt in mosaic.prompts)
        raise QuestionError(f"this mosaic has {len(found)} prompts", fix=f"choose one: {names}", mosaic=mosaic.url)
    return found[0]


def chosen_time(mosaic: Mosaic, moment: When | None) -> int:
    """Position on the time axis of the step that begins then; of the latest where nothing is said.

    Raises:
        QuestionError: no step begins then, or several do.
    """
    return time_of(mosaic, LATEST if moment is None else moment)


def chosen_zone(mosaic: Mosaic, name: str | None) -> Grid:
    """The grid of the zone named; the only one where none is.

    Raises:
        QuestionError: there is no such zone, or there are several and none is named.
    """
    grids = {grid.name: grid for grid in mosaic.grids}
    if name is None and len(grids) == 1:
        return mosaic.grids[0]
    if name is None:
        raise QuestionError(
            f"this mosaic has {len(grids)} zones, each with pixels of its own",
            fix=f"choose one ({', '.join(grids)}), or give a folder: it takes a file a zone",
            mosaic=mosaic.url,
        )
    if name not in grids:
        fix = did_you_mean(name, list(grids)) if all(grids) else "leave the zone out: it has one grid, without a name"
        raise QuestionError(f"this mosaic has no zone {name!r}", fix=fix, mosaic=mosaic.url)
    return grids[name]


def file_stem(*, prompt: str | None = None, time: datetime, zone: str = "") -> str:
    """Name, without a suffix, of a file about one slice: ``building-0f1e2d3c4b_20240620T103000Z_utm32n``.

    Nothing of a stranger's text but a-z, 0-9 and hyphens gets into it; the digest keeps apart what looks alike.
    """
    parts = ["" if prompt is None else slug(prompt), f"{time.astimezone(UTC):%Y%m%dT%H%M%SZ}", zone]
    return "_".join(filter(None, parts))


def iso(moment: datetime) -> str:
    """RFC 3339 in UTC, with seconds and a Z; with microseconds where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
