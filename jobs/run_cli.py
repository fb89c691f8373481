"""``resmap run``, ``retry`` and ``verify``: a job is mapped, taken up again, and read back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs.interrupts import INTERRUPTED, TERMINATED, draining
from jobs.terminal import AsJson, plain, print_json
from mapper.errors import MapperError, QuestionError, SpecError

if TYPE_CHECKING:
    from jobs.job import Job
    from jobs.run import Run
    from jobs.summary import Summary

LARGEST_PICTURE_PX = 300_000_000
"""Pixels of a mosaic that is drawn unasked: some seconds' worth."""

FAULTS_SHOWN = 20
"""Of what is damaged, what people read; ``--json`` has it all."""

JobFile = Annotated[Path, typer.Argument(help="The job file (YAML).", show_default=False)]
Gpus = Annotated[int | None, typer.Option(min=1, help="GPU actors; logical ones where the machine has none.")]
Address = Annotated[str | None, typer.Option(help="A running Ray cluster, as Ray writes it; or auto.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="A running Ray cluster: auto or host:6379 from one of its nodes; http(s)://host:8265 or ray://host:10001 "
        "from anywhere, where the run is a job of the cluster, followed here.",
    ),
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Send the token though it crosses the network in plain text.")
]
SameFiles = Annotated[
    bool, typer.Option("--same-files", help="The server or cluster has the files of this machine under the same paths.")
]
Image = Annotated[
    str | None, typer.Option(help="Container image for a run that is a job of a Ray cluster.", show_default=False)
]
RuntimeEnvFile = Annotated[
    Path | None,
    typer.Option(
        "--runtime-env", help="Ray runtime environment (YAML) for a run that is a job there.", show_default=False
    ),
]
DriverLabel = Annotated[
    list[str] | None,
    typer.Option(
        "--driver-label",
        help="Label of the nodes that its driver may be on, as key=value; the head where left out.",
        show_default=False,
    ),
]
InsecureRay = Annotated[
    bool, typer.Option("--insecure-ray", help="Join a cluster of other machines though it asks nobody for a token.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        help="File with a resmap server's token; RESMAP_TOKEN where left out.",
        show_default=False,
        exists=True,
        dir_okay=False,
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Until a run that was sent has ended; end as it did.")]
Local = Annotated[bool, typer.Option("--local", help="In this process, without Ray.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """On which workers a job runs."""

    address: str | None
    gpus: int | None
    local: bool
    insecure_ray: bool


def run(
    job: JobFile,
    address: Cluster = None,
    gpus: Gpus = None,
    local: Local = False,
    retry: Annotated[bool, typer.Option("--retry", help="Take tiles again that were given up.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read the whole mosaic back first, and map again what is damaged.")
    ] = False,
    insecure_ray: InsecureRay = False,
    insecure: Insecure = False,
    same_files: SameFiles = False,
    image: Image = None,
    runtime_env: RuntimeEnvFile = None,
    driver_label: DriverLabel = None,
    as_json: AsJson = False,
) -> None:
    """Run a job or resume it. A finished job says so and exits 0; one that is under way is followed to its end."""
    if address is not None and _is_url(address):
        from jobs.ray_cli import run_there
        from jobs.ray_submit import Manner

        manner = Manner(
            gpus=gpus,
            local=local,
            retry=retry,
            repair=repair,
            insecure_ray=insecure_ray,
            same_files=same_files,
            image=image,
            runtime_env=runtime_env,
            driver_labels=driver_label or (),
        )
        raise typer.Exit(run_there(job, address, manner, insecure=insecure, as_json=as_json))
    if image or runtime_env or driver_label:
        raise QuestionError(
            "--image, --runtime-env and --driver-label are for a run that is a job of a Ray cluster",
            fix="name the cluster's dashboard: --address http://host:8265",
        )
    from jobs.job import Job

    where = Where(address=address, gpus=gpus, local=local, insecure_ray=insecure_ray)
    raise typer.Exit(_run(Job.from_file(job), where, retry=retry, repair=repair, as_json=as_json))


def retry(
    run_or_mosaic: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MOSAIC|JOB", help="As `resmap status` names it; or a job file.", show_default=False
        ),
    ],
    run: Annotated[str | None, typer.Option(help="Of a mosaic, this run alone.", show_default=False)] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="A running Ray cluster, as Ray writes it, or auto; a resmap server or a Ray cluster's dashboard, as "
            "https://host."
        ),
    ] = None,
    gpus: Gpus = None,
    local: Local = False,
    wait: Wait = False,
    token_file: TokenFile = None,
    insecure_ray: InsecureRay = False,
    insecure: Insecure = False,
    as_json: AsJson = False,
) -> None:
    """Take tiles again that a run gave up, from the job that lies beside its mosaic."""
    if address is not None and _is_url(address):
        from jobs.submit_cli import retry_there

        status = retry_there(
            run_or_mosaic,
            address,
            gpus=gpus,
            local=local,
            wait=wait,
            token_file=token_file,
            insecure=insecure,
            insecure_ray=insecure_ray,
            as_json=as_json,
        )
        raise typer.Exit(status)
    jobs = _jobs_to_retry(run_or_mosaic, run)
    if not jobs:
        print_json([]) if as_json else print("no tile was given up; there is nothing to take again")
        return
    where = Where(address=address, gpus=gpus, local=local, insecure_ray=insecure_ray)
    statuses: list[int] = []
    for job in jobs:
        statuses.append(_run(job, where, retry=True, repair=False, as_json=as_json))
        if statuses[-1] in (INTERRUPTED, TERMINATED):  # the signal was meant for all of them
            break
    raise typer.Exit(max(statuses))


def _is_url(address: str) -> bool:
    """Whether an address is one of a server, or of a cluster that is reached from outside."""
    return address.lower().startswith(("http://", "https://", "ray://"))


def _jobs_to_retry(named: str, run: str | None) -> list[Job]:
    """The jobs of the runs that gave tiles up.

    Raises:
        SpecError: there is no such run.
    """
    import yaml

    from jobs.job import Job
    from jobs.ledger import RunFolder
    from jobs.status import run_status

    if named.endswith((".yaml", ".yml")):
        return [Job.from_file(named)]
    known = run_status(named)
    chosen = [status for status in known if run in (None, status.run)]
    if not chosen:
        names = ", ".join(status.run for status in known)
        raise SpecError(f"this mosaic has no run {run!r}", fix=f"it has {names}", mosaic=named)
    lost = [status for status in chosen if status.counts.get("quarantined") or status.counts.get("failed")]
    return [Job.from_dict(yaml.safe_load(RunFolder(status.mosaic, status.run).job())) for status in lost]


def _run(job: Job, where: Where, *, retry: bool, repair: bool, as_json: bool) -> int:
    """Run or resume a job, and say how it ended; the exit status."""
    from jobs.budget import check_budget
    from jobs.prepare import prepare
    from jobs.progress import watcher
    from jobs.repair import mend_run_files
    from jobs.run import start

    watching = watcher()
    if repair:
        mend_run_files(job, watching.say)
    prepared = prepare(job, tell=watching.say)
    check_budget(prepared, elsewhere=where.address is not None, tell=watching.say)
    with draining() as drained:
        under_way = drained(
            start(
                prepared,
                gpus=where.gpus,
                address=where.address,
                local=where.local,
                insecure_ray=where.insecure_ray,
                watcher=watching,
                retry=retry,
                repair=repair,
            )
        )
        summary = under_way.wait()
        status = drained.status(summary.exit_status)
    if as_json:
        print_json(summary.as_json())
        if summary.stopped:
            watching.say(summary.stopped)
        return status
    console = Console()
    if summary.worked_tiles:
        print_workers(console, summary)
    print_ending(console, summary)
    if summary.worked_tiles and (picture := _picture(under_way)) is not None:
        console.print(f"Picture  {picture}", soft_wrap=True)
    return status


def _picture(under_way: Run) -> Path | None:
    """A quick-look of a finished run beside its ledger, where that is a local folder and the map is not large."""
    from jobs.quicklook import write_quicklook
    from mapper.storage import is_local, state_folder

    prepared = under_way.prepared
    mosaic, plan = prepared.job.spec.output.mosaic, prepared.plan
    pixels = sum(grid.shard_px**2 * int((plan.tiles.grid == n).sum()) for n, grid in enumerate(plan.grids))
    if not is_local(mosaic) or pixels > LARGEST_PICTURE_PX:
        return None
    folder = state_folder(mosaic, engine=prepared.job.spec.output.engine).child("runs").child(under_way.name)
    path = Path(folder.url.removeprefix("file://")) / "quicklook.png"
    try:
        write_quicklook(prepared, path)
    except MapperError:  # a file that spoilt a tile spoils the picture too; the run has said so
        return None
    return path


def verify(
    mosaic: Annotated[str, typer.Argument(help="Path or URL of the mosaic.", show_default=False)],
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Every shard of every level, not a sample of each run; and what should not be there."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read tiles back with their checksums, and hold all that lies there against the ledgers."""
    from jobs.job import absolute
    from jobs.verify import verify as verify_mosaic
    from mapper.errors import VerifyError

    report = verify_mosaic(absolute(mosaic), full=full)
    if as_json:
        print_json(report.as_json())
    else:
        for bad in report.bad[:FAULTS_SHOWN]:
            print(f"{bad.tile}: {bad.reason}\n    do: {bad.fix}")
        if len(report.bad) > FAULTS_SHOWN:
            print(f"… and {len(report.bad) - FAULTS_SHOWN:,} more; --json has them all")
        print(report.says)
        if report.unrecorded:
            print(report.says_unrecorded)
        if not report.bytes_compared:
            print("another edition of zstd wrote it: pixels were compared, and not the bytes that hold them")
    if report.bad:
        raise typer.Exit(VerifyError.exit_status)


def print_workers(console: Console, summary: Summary) -> None:
    """Throughput and where the time went."""
    from jobs.tables import workers_table

    console.print(workers_table(summary))


def print_ending(console: Console, summary: Summary) -> None:
    """How a run ended, what was given up and why, and where the map is."""
    order = ("planned", "done", "nodata", "failed", "quarantined")
    counts = ", ".join(f"{summary.tiles[state]} {state}" for state in order if summary.tiles[state] or state == "done")
    console.print(
        f"Run {summary.run} is {summary.state}: {counts}; {summary.seconds:.1f} s, "
        f"{summary.verified_tiles} tiles read back."
    )
    if summary.stopped:
        console.print(f"Stopped  {summary.stopped}.", highlight=False, soft_wrap=True)
    print_problems(console, summary.problems, rest=f"`resmap status {summary.run}` has them all")
    console.print(f"Mosaic   {summary.mosaic}", soft_wrap=True)
    if summary.tiles["done"]:
        console.print(f"Look     resmap preview {shlex.quote(summary.mosaic)}", soft_wrap=True)


def print_problems(
    console: Console, problems: Sequence[Mapping[str, str]], *, rest: str = "--json has them all"
) -> None:
    """The tiles that were given up, as many as people read."""
    for problem in problems[:10]:
        console.print(f"  {plain(problem['tile'])}: {plain(problem['error'])}", highlight=False, soft_wrap=True)
    if len(problems) > 10:
        console.print(f"  … and {len(problems) - 10} more; {rest}")
