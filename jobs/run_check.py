"""The files of a mosaic's runs: whether all are there, can be read, and say the same."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from jobs.faults import FROM_COPY, Fault
from jobs.ledger import RunFolder
from jobs.renewal import Renewal
from jobs.speaking import renews_of
from jobs.spec import JobSpec, answer_key, run_id, spec_from
from mapper.errors import MapperError
from mapper.storage import Folder, state_folder

FILES = ("job.yaml", "area.wkb", "items.parquet", "tiles.parquet", "run.json")
BOOKS = ("ledger", "levels")
ANY_NUMBER = 1 << 30
"""More renewing runs than a mosaic ever has."""

_OF_A_TICK = re.compile(r"-\d{8}T\d{6}Z-[0-9a-f]{10}$")

WITHOUT_PART = "`resmap run JOB --repair` takes it away and maps its tiles again; or bring it back from a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRun:
    """One run, as far as its files can be read."""

    name: str
    folder: RunFolder
    facts: dict[str, Any]
    """Empty where ``run.json`` cannot be read."""

    spec: JobSpec | None
    """None where the job cannot be read, or was not looked at."""

    faults: tuple[Fault, ...]
    readable: bool
    """Whether its plan and its ledgers can be read: only then its tiles can be looked at."""

    @property
    def planned(self) -> bool:
        """Whether it can be read what it has planned, if not what it has finished."""
        return not {fault.key for fault in self.faults} & {"tiles.parquet", "run.json"}


def lost_before(run: KnownRun) -> int:
    """Of which runs nobody knows what this one has renewed: those of a lower number; 0 where its plan can be read.

    Whether it renews at all is told by its name where its facts are gone: a tick's has the moment in it.
    """
    if run.planned:
        return 0
    return renews_of(run.facts) or (ANY_NUMBER if not run.facts and is_of_a_tick(run.name) else 0)


def is_of_a_tick(name: str) -> bool:
    """Whether a run is named as those that a monitor begins: with the moment in it."""
    return _OF_A_TICK.search(name) is not None


def look_at_runs(mosaic: str) -> list[KnownRun]:
    """All runs of a mosaic, oldest first: those that have a plan, and those that have books and should have one."""
    folder = state_folder(mosaic).child("runs")
    names = {path.split("/")[0] for pattern in ("*/run.json", "*/*/part-*") for path in folder.names(pattern)}
    runs = [_look_at(mosaic, name, folder.child(name)) for name in sorted(names)]
    return sorted(runs, key=lambda run: str(run.facts.get("created", "")))


def _look_at(mosaic: str, name: str, files: Folder) -> KnownRun:
    told: dict[str, str] = {}
    """File → what is wrong with it."""

    contents = {file: _content(files, file, told) for file in FILES}
    spec = _job(name, contents["job.yaml"], contents["area.wkb"], told)
    facts = _facts(contents["run.json"], spec, contents["area.wkb"], told)
    for file in ("items.parquet", "tiles.parquet"):
        if (content := contents[file]) is not None and (why := why_unreadable(content)):
            told[file] = why
    parts = {f"{book}/{part}": why for book in BOOKS for part, why in _bad_parts(files.child(book))}
    faults = [
        Fault(run=name, tile=f".resmap/runs/{name}/{file}", reason=why, fix=FROM_COPY, kind="run", key=file)
        for file, why in told.items()
    ]
    faults += [
        Fault(run=name, tile=f".resmap/runs/{name}/{part}", reason=f"{why}; the run's tiles were not looked at",
              fix=WITHOUT_PART, kind="part", key=part)
        for part, why in parts.items()
    ]  # fmt: skip
    readable = not parts and not told.keys() & {"tiles.parquet", "run.json"}
    folder = RunFolder(mosaic, name)
    return KnownRun(name=name, folder=folder, facts=facts, spec=spec, faults=tuple(faults), readable=readable)


def _content(files: Folder, name: str, told: dict[str, str]) -> bytes | None:
    try:
        return files.read(name)
    except FileNotFoundError:
        told[name] = "a file of the run is missing"
        return None


def _job(name: str, job: bytes | None, area: bytes | None, told: dict[str, str]) -> JobSpec | None:
    """The job, whose digest with its area is in the run's name: no byte that matters can have changed."""
    if job is None:
        return None
    try:
        spec = spec_from(yaml.safe_load(job))
    except (MapperError, yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        told["job.yaml"] = f"the job cannot be read: {str(error).splitlines()[0]}"
        return None
    if area is not None and run_id(spec, area_wkb=area).rsplit("-", 1)[1] != name.rsplit("-", 1)[1]:
        told["job.yaml"] = "the job or its area (area.wkb) is not the one that the run is named after"
    return spec


def _facts(content: bytes | None, spec: JobSpec | None, area: bytes | None, told: dict[str, str]) -> dict[str, Any]:
    if content is None:
        return {}
    try:
        facts = json.loads(content)
    except ValueError:
        told["run.json"] = "it is no JSON any more"
        return {}
    if not isinstance(facts, dict) or not isinstance(facts.get("steps", []), list) or not _has_a_turn(facts):
        told["run.json"] = "it does not say what a run's file says"
        return {}
    if spec is None or area is None or "job.yaml" in told:
        return facts
    if facts.get("answer_key") != answer_key(spec, area_wkb=area):
        told["run.json"] = "it speaks of another job than the one beside it"
    return facts


def _has_a_turn(facts: dict[str, Any]) -> bool:
    """Whether it says plainly which turn the run has among those that renew, if it is one."""
    try:
        renewal = Renewal.of(facts)
    except (KeyError, TypeError, ValueError):
        return False
    return renewal is None or (renewal.number > 0 and renewal.sources_from >= 0)


def _bad_parts(book: Folder) -> Iterator[tuple[str, str]]:
    for name in book.names("*"):
        try:
            why = why_unreadable(book.read(name))
        except FileNotFoundError:  # merged away since it was listed
            continue
        if why:
            yield name, why


def why_unreadable(content: bytes) -> str:
    """What keeps a Parquet file from being read, page by page with their checksums; empty where nothing does."""
    try:
        file = pq.ParquetFile(io.BytesIO(content), page_checksum_verification=True)
        for group in range(file.num_row_groups):
            file.read_row_group(group, use_threads=False).validate(full=True)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        said = str(error).strip().splitlines()
        return f"it is damaged: {said[0] if said else type(error).__name__}"
    return ""
