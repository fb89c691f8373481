"""Jobs as Ray jobs: a run's name is its submission's, its file travels in a small folder, its driver says how it ended.

    resmap-<run>      the first submission of a run     while it waits or runs, every other attaches to it
    resmap-<run>-2    the next, where that one is over  the run goes on from where it was left; nothing is done twice

The head takes a name once, so of two that submit at the same moment one begins the run, and the other attaches.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import shapely
import yaml

from catalogs.hrefs import unsigned
from cluster.ray_jobs import OPEN, RayHead, RayJob, Wanted, checked_env, zipped
from jobs import ray_driver
from jobs.areas import geometry_of
from jobs.dashboard.control import Submitted
from jobs.dashboard.views import RunState
from jobs.interrupts import TERMINATED
from jobs.job import Job
from jobs.job_file import document_in
from jobs.sending import sent
from jobs.spec import run_id
from jobs.submissions import ENDINGS
from jobs.submitted import local_places
from mapper.errors import BusyError, QuestionError, SpecError, told

STOP_WAIT_S = 1800
"""How long a run that is told to end may finish the tiles in hand. Ray's own three seconds are not enough for one."""

DRIVER_CPUS = 0.5
"""Of a node that ``--driver-label`` chose."""

MOST_IN_ENV = 90_000
"""Bytes of an environment variable: Linux takes 128 KiB."""

_OURS = re.compile(r"resmap-(?P<run>.+-[0-9a-f]{10})(?:-(?P<turn>[1-9]\d*))?")
_RUN, _MOSAIC, _RETRY, _FROM = "resmap_run", "resmap_mosaic", "resmap_retry", "resmap_version"
_LABEL = re.compile(r"[A-Za-z0-9]([\w./-]*[A-Za-z0-9])?=[\w.!(), -]+")
_DRIVER = "resmap_driver.py"
_UNPACK = (
    "import base64,io,os,runpy,tempfile,zipfile;f=tempfile.mkdtemp();"
    "zipfile.ZipFile(io.BytesIO(base64.b64decode(os.environ['RESMAP_FILES']))).extractall(f);"
    f"runpy.run_path(f+'/{_DRIVER}',run_name='__main__')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a run is driven on a cluster."""

    gpus: int | None = None
    local: bool = False
    retry: bool = False
    repair: bool = False
    insecure_ray: bool = False
    same_files: bool = False
    image: str | None = None
    runtime_env: Path | None = None
    driver_labels: Sequence[str] = ()
    """``key=value`` of the node that the driver may be on; none has it on the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class There:
    """A run on a Ray cluster, as it stands."""

    key: str
    """Its submission, the last of the run."""

    run: str
    mosaic: str
    state: RunState
    turn: int
    """How often it was submitted."""

    begun: str = ""
    ended: str = ""
    exit_status: int | None = None
    says: str = ""
    """The last line of it; of one that failed, what Ray says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What became of a job that was sent."""

    submitted: Submitted
    attached: bool
    """Whether a submission was under way already; it stays as it is."""


def submit(head: RayHead, job: Path, manner: Manner) -> Sent:
    """Send a job. The same job is the same run: one that is under way stays as it is.

    Raises:
        SpecError: the job is not valid, names files that the cluster cannot see, or holds a secret.
        BusyError: tiles are to be taken again or repaired, and the run is under way.
        MapperError: the head refuses it.
    """
    text = sent(job, here=manner.same_files or _sees_our_files(head))
    run, mosaic = _named(text)
    words = ["run", "job.yaml", *_where(manner), *(["--retry"] * manner.retry), *(["--repair"] * manner.repair)]
    return _submitted(head, run, mosaic, words, {"job.yaml": text.encode()}, manner)


def retry(head: RayHead, named: str, manner: Manner) -> Sent:
    """Take the tiles again that a run gave up, from the job that lies beside its mosaic.

    Raises:
        QuestionError: there is no such run.
        BusyError: it is under way.
    """
    known = find(head, named)
    words = ["retry", known.mosaic, "--run", known.run, *_where(manner)]
    return _submitted(head, known.run, known.mosaic, words, {}, replace(manner, retry=True))


def runs(head: RayHead) -> tuple[There, ...]:
    """The runs of a cluster, the latest first; of each its last submission."""
    return tuple(there_of(job) for job in sorted(_last_turns(head), key=_begun, reverse=True))


def find(head: RayHead, named: str) -> There:
    """A run, from its name or the name of a submission.

    Raises:
        QuestionError: there is none.
    """
    match = _OURS.fullmatch(named)
    run = match["run"] if match else named
    for job in _last_turns(head):
        if _parts(job)[0] == run:
            return there_of(job)
    raise QuestionError(
        f"no run there is called {told(named, 200)!r}", fix=f"`resmap status --address {head.address}` lists them"
    )


def submission_of(head: RayHead, named: str) -> str:
    """The submission that is meant: one that is named, or the last of a run."""
    return named if _OURS.fullmatch(named) and head.job(named) is not None else find(head, named).key


def closer(head: RayHead, there: There) -> There:
    """The same run with the last line that it said."""
    if there.says:
        return there
    lines = [line for line in head.log(there.key).splitlines() if line.strip() and ray_driver.told(line) is None]
    return replace(there, says=told(lines[-1], 300) if lines else "")


def cancel(head: RayHead, named: str) -> tuple[There, RunState]:
    """End a run after the tiles in hand; its state then."""
    known = find(head, named)
    if known.state not in ("queued", "running"):
        return known, known.state
    head.stop(known.key)
    return known, "running"


def _submitted(
    head: RayHead, run: str, mosaic: str, words: list[str], files: Mapping[str, bytes], manner: Manner
) -> Sent:
    """Attach to the run's submission that is under way, or make the next."""
    wanted = _wanted(head, run, mosaic, words, files, manner)
    while True:
        last = max((job for job in _turns(head) if _parts(job)[0] == run), key=_turn, default=None)
        if last is not None and last.status in OPEN:
            if manner.repair or (manner.retry and last.metadata.get(_RETRY) != "yes"):
                raise BusyError("this run is under way", fix="wait for its end, then take tiles again", run=run)
            there = Submitted(key=last.submission, run=run, mosaic=mosaic, state=_state(last), created=False)
            return Sent(submitted=there, attached=True)
        turn = 1 if last is None else _turn(last) + 1
        key = f"resmap-{run}" if turn == 1 else f"resmap-{run}-{turn}"
        if head.submit(wanted(key)):
            new = Submitted(key=key, run=run, mosaic=mosaic, state="queued", created=turn == 1)
            return Sent(submitted=new, attached=False)
        # Somebody else was first with this name: it is looked at again, and mostly attached to.


def _wanted(
    head: RayHead, run: str, mosaic: str, words: list[str], files: Mapping[str, bytes], manner: Manner
) -> Callable[[str], Wanted]:
    """The job of Ray, but for its name."""
    env = {} if manner.runtime_env is None else checked_env(_yaml(manner.runtime_env))
    asked = {"resmap": version("resmap"), "words": [*words, "--json"]}
    folder = {
        _DRIVER: Path(ray_driver.__file__).read_bytes(),
        "asked.json": json.dumps(asked).encode(),
        **files,
    }
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **env.get("env_vars", {})}
    if manner.image is None:
        entrypoint = f"python {_DRIVER}"
        env = {**env, "env_vars": variables, "working_dir": head.keep(folder)}
    else:  # Ray gives a container no working_dir
        if beside := sorted(name for name in env if name not in ("env_vars", "config") and not name.startswith("_")):
            raise SpecError(
                f"--image and {', '.join(beside)} of the runtime environment cannot be had together",
                fix="put it into the image",
            )
        packed = base64.b64encode(zipped(folder)).decode()
        if len(packed) > MOST_IN_ENV:
            raise SpecError(
                f"the job file is too large to be sent into an image ({len(packed):,} bytes of {MOST_IN_ENV:,})",
                fix="put its outline where the cluster reads it, as https:// or s3://",
            )
        entrypoint = f"python -c {shlex.quote(_UNPACK)}"
        env = {**env, "env_vars": variables | {"RESMAP_FILES": packed}, "image_uri": manner.image}
    metadata = {_RUN: run, _MOSAIC: mosaic, _RETRY: "yes" if manner.retry else "no", _FROM: version("resmap")}
    labels = _labels(manner.driver_labels)
    return lambda key: Wanted(
        submission=key, entrypoint=entrypoint, runtime_env=env, metadata=metadata, labels=labels, cpus=DRIVER_CPUS
    )


def _where(manner: Manner) -> list[str]:
    """On which workers, for the driver on the cluster."""
    where = ["--local"] if manner.local else ["--address", "auto"]
    gpus = [] if manner.gpus is None else ["--gpus", str(manner.gpus)]
    return [*where, *gpus, *(["--insecure-ray"] * manner.insecure_ray)]


def _named(text: str) -> tuple[str, str]:
    """The run that the text of a job file is, and its mosaic.

    Raises:
        SpecError: it is no job, or holds a secret.
    """
    document = document_in(text)
    assert isinstance(document, dict)  # as ``sent`` has seen
    spec = Job.from_dict(document, folder="/").spec
    for key, place in local_places(spec).items():
        if unsigned(place) != place:
            raise SpecError(
                f"{key} holds a secret, and the job would lie on the nodes of the cluster",
                fix="give the cluster's nodes their credentials, and leave them out of the address",
            )
    area = geometry_of(spec.area, folder=Path("/"))
    return run_id(spec, area_wkb=shapely.to_wkb(area)), spec.output.mosaic


def _sees_our_files(head: RayHead) -> bool:
    """Whether a head on the loopback is on this machine, and not at the other end of a tunnel."""
    places = {os.environ.get("RAY_TMPDIR") or "/tmp/ray", f"{tempfile.gettempdir()}/ray"}
    return head.here and bool(head.session) and any((Path(place) / head.session).is_dir() for place in places)


def _labels(said: Sequence[str]) -> dict[str, str]:
    for label in said:
        if not _LABEL.fullmatch(label):
            raise QuestionError(
                f"this is no label of a node: {told(label, 100)}", fix="write --driver-label key=value, as in Ray"
            )
    return dict(label.split("=", 1) for label in said)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError("the runtime environment cannot be read", fix="write it as YAML", file=file) from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise SpecError("the runtime environment is no mapping", fix="write it as Ray's runtime_env", file=file)
    return found


def _turns(head: RayHead) -> list[RayJob]:
    return [job for job in head.jobs() if _OURS.fullmatch(job.submission)]


def _last_turns(head: RayHead) -> list[RayJob]:
    last: dict[str, RayJob] = {}
    for job in sorted(_turns(head), key=_turn):
        last[_parts(job)[0]] = job
    return list(last.values())


def _parts(job: RayJob) -> tuple[str, int]:
    """Run and turn of a submission of ours."""
    match = _OURS.fullmatch(job.submission)
    assert match is not None  # as ``_turns`` has seen
    return match["run"], int(match["turn"] or 1)


def _turn(job: RayJob) -> int:
    return _parts(job)[1]


def _begun(job: RayJob) -> str:
    return job.begun.isoformat() if job.begun else ""


def there_of(job: RayJob) -> There:
    """A submission of ours, as the head tells of it."""
    run, turn = _parts(job)
    return There(
        key=job.submission,
        run=run,
        mosaic=job.metadata.get(_MOSAIC, ""),
        state=_state(job),
        turn=turn,
        begun=_begun(job),
        ended=job.ended.isoformat() if job.ended else "",
        exit_status=job.exit_status,
        says=told(job.message.partition("\n")[0], 300) if job.status == "FAILED" and job.exit_status is None else "",
    )


def _state(job: RayJob) -> RunState:
    """A job's state in the words of runs."""
    if job.status in OPEN:
        return "queued" if job.status == "PENDING" else "running"
    if job.status == "STOPPED":
        return "cancelled"
    if job.status == "SUCCEEDED":
        return "done"
    return "interrupted" if job.exit_status == TERMINATED else ENDINGS.get(job.exit_status or -1, "stopped")
