"""The text of a job that somebody sends → what it asks for, checked before anything is kept of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import shapely
import yaml

from catalogs.hrefs import unsigned
from jobs.areas import geometry_of
from jobs.dashboard.views import run_key
from jobs.job import Job
from jobs.job_file import document_in
from jobs.ledger import RunFolder
from jobs.spec import MOST_WORKERS, JobSpec, canonical, run_id, spec_from
from mapper.errors import MapperError, QuestionError, SpecError

FINISHED = {"done": 0, "quarantined": 4}
"""States in which a run has nothing left to do → exit status of the process that left it so."""

_ABSOLUTE = re.compile(r"/|file:///|(?!file:)[A-Za-z][A-Za-z0-9+.-]*://")
_SOURCE = "the job submitted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A valid job, and the run that it is."""

    key: str
    run: str
    name: str
    mosaic: str
    text: str
    """As it was given. It may sign its addresses."""

    kept: str
    """The same, without what signs them."""

    ended: int | None
    """Exit status of the run's last process, where its files say that nothing is left to do."""


def asked_by(text: str, *, gpus: int | None = None) -> Asked:
    """What the text of a job file asks for.

    Raises:
        SpecError: it is no job, or names a place that is not the same wherever it is run.
        CatalogError, CredentialsError: its area is a URL, and the server is down or refuses us.
    """
    if gpus is not None and not 1 <= gpus <= MOST_WORKERS:
        raise SpecError(f"gpus is 1 to {MOST_WORKERS}", fix="leave it out to take all there are")
    document = document_in(text, source=_SOURCE)
    spec = spec_from(document, source=_SOURCE)
    _check_places(spec)
    assert isinstance(document, dict)  # as spec_from has seen
    spec = Job.from_dict(document, folder="/").spec
    area = geometry_of(spec.area, folder=Path("/"))
    run, mosaic = run_id(spec, area_wkb=shapely.to_wkb(area)), spec.output.mosaic
    return Asked(
        key=run_key(run, mosaic),
        run=run,
        name=spec.name,
        mosaic=mosaic,
        text=text,
        kept=yaml.safe_dump(canonical(spec), sort_keys=False, allow_unicode=True),
        ended=_ended(RunFolder(mosaic, run, engine=spec.output.engine)),
    )


def asked_again(run: str, mosaic: str) -> Asked:
    """The job that lies beside a mosaic, with the outline that it had.

    Raises:
        QuestionError: there is no such run, or its job is not what it was.
    """
    folder = RunFolder(mosaic, run)
    if not folder.exists():
        raise QuestionError(
            "the files of this run are gone", fix="submit its job again", run=run, mosaic=unsigned(mosaic)
        )
    document = yaml.safe_load(folder.job())
    if document["area"].get("geojson"):  # relative to a folder that nobody knows any more, or changed since
        document["area"] = {"wkt": shapely.to_wkt(shapely.from_wkb(folder.area()), rounding_precision=-1)}
    found = asked_by(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    if found.run != run:
        raise QuestionError(
            "the job beside this mosaic is not the one of this run", fix="`resmap run` its job file", run=run
        )
    return found


def lost_tiles(asked: Asked) -> bool:
    """Whether the run gave tiles up, as it said at its end."""
    tiles = RunFolder(asked.mosaic, asked.run).facts().get("summary", {}).get("tiles", {})
    return bool(tiles.get("failed") or tiles.get("quarantined"))


def local_places(spec: JobSpec) -> dict[str, str]:
    """Key → what the job names there, for everything it names that may be a file."""
    named = {
        "area.geojson": spec.area.geojson,
        "imagery.catalog": spec.imagery.catalog,
        "model.weights": spec.model.weights,
        "output.mosaic": spec.output.mosaic,
    }
    return {key: place for key, place in named.items() if place is not None}


def _check_places(spec: JobSpec) -> None:
    for key, place in local_places(spec).items():
        if not _ABSOLUTE.match(place):
            raise SpecError(
                f"{key} is a path that begins nowhere: {place[:200]}",
                fix="write it from / on; a server has a folder and a home of its own",
            )
    if unsigned(spec.output.mosaic) != spec.output.mosaic:
        raise SpecError(
            "output.mosaic holds a secret, and is written down in many places",
            fix="give the server its credentials by its environment, and leave them out of the address",
        )


def _ended(folder: RunFolder) -> int | None:
    try:
        facts = folder.facts() if folder.exists() else {}
    except (MapperError, FileNotFoundError, ValueError):  # away or damaged: the run will say so better than we can
        return None
    return None if facts.get("levels_behind") else FINISHED.get(str(facts.get("state")))
