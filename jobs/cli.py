"""The commands. Results go to stdout, progress and errors to stderr; ``--json`` makes stdout one JSON document."""

from __future__ import annotations

import contextlib
import shlex
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs import export_cli, models_cli, preview_cli, query_cli
from jobs.terminal import AsJson, complain, plain, print_json
from mapper.errors import MapperError

if TYPE_CHECKING:
    from jobs.run import Run
    from jobs.summary import Summary

app = typer.Typer(
    name="resmap",
    help="Say what you are looking for in a sentence; get it as a map of a continent.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done · 1 unexpected · 2 usage · 3 job file invalid · 4 finished with tiles given up · "
    "5 credentials · 6 cancelled, or out of budget · 7 verify failed · 8 more gaps than allowed · 130 interrupted.",
)

app.add_typer(models_cli.app, name="models")
app.add_typer(query_cli.app, name="query")
app.add_typer(export_cli.app, name="export")

LARGEST_PICTURE_PX = 300_000_000
"""Pixels of a mosaic that is drawn unasked: some seconds' worth."""

JobFile = Annotated[Path, typer.Argument(help="The job file (YAML).", show_default=False)]
Gpus = Annotated[int | None, typer.Option(min=1, help="GPU actors; logical ones where the machine has none.")]


def main() -> None:
    """The console command."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, to their callers; not to our users
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # rasterio, of its own scratch arrays
    try:
        app()
    except MapperError as error:
        complain(error)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        libraries = ("torch", "ray", "zarr", "xarray", "rasterio", "transformers")
        print(f"resmap {version('resmap')}  ({', '.join(f'{name} {version(name)}' for name in libraries)})")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Versions of resmap and its libraries."),
    ] = False,
) -> None:
    """Holds the options of ``resmap`` itself."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the world, the mosaic and the picture.")] = Path("resmap-demo"),
    gpus: Annotated[
        int, typer.Option(min=1, help="Ray actors, with one logical GPU each where there is no real one.")
    ] = 2,
    as_json: AsJson = False,
) -> None:
    """Make a small Earth with known truth, map two sentences over it on local Ray, score and draw the map."""
    from jobs import demo as demonstration
    from jobs.progress import watcher

    report = demonstration.demo(out, gpus=gpus, watcher=watcher())
    if as_json:
        print_json(report.as_json())
        return
    console = Console()
    _scores_table(console, report.scores)
    _workers_table(console, report.summary)
    if report.seams.differ is not None:
        console.print(
            f"Seams: beside {report.seams.borders} shard borders, {100 * report.seams.differ:.2f} % of the pixels "
            f"differ from one window centred there (mean score gap {report.seams.score_gap:.3f})."
        )
    _ending(console, report.summary)
    console.print(f"Picture  {report.quicklook}", soft_wrap=True)
    console.print(f"Job file {report.job}  (change a sentence, then: resmap run {report.job})", soft_wrap=True)


@app.command("try")
def try_picture(
    image: Annotated[
        Path, typer.Argument(help="A picture: PNG, JPEG, GeoTIFF.", show_default=False, exists=True, dir_okay=False)
    ],
    sentence: Annotated[str, typer.Argument(help="What to look for.", show_default=False)],
    model: Annotated[str, typer.Option(help="Which model; `resmap models list` names them.")] = "pocket",
    weights: Annotated[
        str | None, typer.Option(help="Its weights file, as in a job; the shipped one where left out.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="Of the weights; needed where they are fetched.")] = None,
    out: Annotated[Path | None, typer.Option(help="The overlay; beside the picture where left out.")] = None,
    threshold: Annotated[float, typer.Option(min=0.01, max=1.0)] = 0.5,
    as_json: AsJson = False,
) -> None:
    """One picture, one sentence, an overlay in seconds."""
    from jobs.trial import try_sentence
    from mapper.map_tile import ModelChoice

    choice = ModelChoice(name=model, weights=weights, sha256=sha256)
    result = try_sentence(image, sentence, model=choice, out=out, threshold=threshold)
    if as_json:
        print_json(asdict(result))
        return
    print(f"{100 * result.share:.1f} % of the picture is “{sentence}” (highest score {result.highest:.2f})")
    print(f"Overlay  {result.overlay}")


@app.command()
def plan(
    job: JobFile,
    pilot: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Map so many tiles, spread over the plan, and throw them away: hours and money as measured.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search, freeze and tile, and say what it will cost. Leaves nothing behind."""
    from jobs.job import Job
    from jobs.prepare import prepare
    from jobs.pricing import price
    from jobs.progress import watcher
    from jobs.tables import pilot_table, plan_table

    watching = watcher()
    prepared = prepare(Job.from_file(job), tell=watching.say)
    priced = price(prepared, pilot=pilot, watcher=watching)
    if as_json:
        print_json(priced.as_json())
    else:
        console = Console()
        console.print(plan_table(prepared, priced.cost, priced.device, measured=priced.pilot is not None))
        if priced.pilot is not None:
            console.print()
            console.print(pilot_table(priced.pilot))
            _problems(console, priced.pilot.problems)
    raise typer.Exit(priced.exit_status)


@app.command()
def run(
    job: JobFile,
    address: Annotated[str | None, typer.Option(help="A running Ray cluster, as Ray writes it; or auto.")] = None,
    gpus: Gpus = None,
    local: Annotated[bool, typer.Option("--local", help="In this process, without Ray.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Take tiles again that were given up.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job or resume it. A finished job says so and exits 0."""
    from jobs.budget import check_budget
    from jobs.job import Job
    from jobs.prepare import prepare
    from jobs.progress import watcher
    from jobs.run import start

    loaded = Job.from_file(job)
    watching = watcher()
    prepared = prepare(loaded, tell=watching.say)
    check_budget(prepared, elsewhere=address is not None, tell=watching.say)
    under_way = start(prepared, gpus=gpus, address=address, local=local, watcher=watching, retry=retry)
    with _draining(under_way):
        summary = under_way.wait()
    if as_json:
        print_json(summary.as_json())
        if summary.stopped:
            watching.say(summary.stopped)
    else:
        console = Console()
        if summary.worked_tiles:
            _workers_table(console, summary)
        _ending(console, summary)
        if summary.worked_tiles:
            picture = _picture(under_way)
            if picture is not None:
                console.print(f"Picture  {picture}", soft_wrap=True)
    raise typer.Exit(summary.exit_status)


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


@contextlib.contextmanager
def _draining(under_way: Run) -> Iterator[None]:
    """The first Ctrl-C finishes what is in hand and saves; the second leaves at once."""
    import os
    import signal

    def heard(number: int, frame: Any) -> None:
        print("finishing the tiles in hand; once more to leave at once", file=sys.stderr, flush=True)
        under_way.stop()
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))

    before = signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@app.command()
def status(
    run_or_mosaic: Annotated[
        str | None, typer.Argument(metavar="[RUN|MOSAIC]", help="All runs where left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What runs there are, and how far each is."""
    from jobs.status import known_runs, run_status
    from jobs.tables import runs_table, status_table

    if run_or_mosaic is None:
        rows = known_runs()
        if as_json:
            print_json([asdict(row) for row in rows])
        elif rows:
            Console().print(runs_table(rows))
        else:
            print("no runs yet; `resmap demo` makes one")
        return
    statuses = run_status(run_or_mosaic)
    if as_json:
        print_json([asdict(entry) for entry in statuses])
        return
    for entry in statuses:
        Console().print(status_table(entry))


@app.command()
def verify(
    mosaic: Annotated[str, typer.Argument(help="Path or URL of the mosaic.", show_default=False)],
    full: Annotated[bool, typer.Option("--full", help="Every tile, not a sample of each run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read tiles back with their checksums and compare them with the ledger."""
    from jobs.job import absolute
    from jobs.verify import verify as verify_mosaic
    from mapper.errors import VerifyError

    report = verify_mosaic(absolute(mosaic), full=full)
    if as_json:
        print_json(asdict(report))
    else:
        for bad in report.bad:
            print(f"{bad.tile}: {bad.reason}")
        print(f"{report.checked} tiles read back, {len(report.bad)} bad, {report.unfinished} not finished yet")
    if report.bad:
        raise typer.Exit(VerifyError.exit_status)


app.command()(preview_cli.preview)


@app.command()
def schema() -> None:
    """The JSON Schema of the job file."""
    from jobs.spec import JobSpec

    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **JobSpec.model_json_schema(by_alias=True),
    }
    print_json(document)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine has and lacks."""
    from jobs.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"good": "[green]✓[/]", "note": "[yellow]![/]", "bad": "[red]✗[/]"}
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            fix = f"  → {finding.fix}" if finding.fix else ""
            console.print(f"{marks[finding.state]} {finding.what:<10} {plain(finding.says)}{plain(fix)}")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _scores_table(console: Console, scores: dict[str, float]) -> None:
    from jobs.demo import PROMPTS
    from jobs.tables import scores_table

    console.print(scores_table(scores, PROMPTS))


def _workers_table(console: Console, summary: Summary) -> None:
    from jobs.tables import workers_table

    console.print(workers_table(summary))


def _ending(console: Console, summary: Summary) -> None:
    order = ("planned", "done", "nodata", "failed", "quarantined")
    counts = ", ".join(f"{summary.tiles[state]} {state}" for state in order if summary.tiles[state] or state == "done")
    console.print(
        f"Run {summary.run} is {summary.state}: {counts}; {summary.seconds:.1f} s, "
        f"{summary.verified_tiles} tiles read back."
    )
    if summary.stopped:
        console.print(f"Stopped  {summary.stopped}.", highlight=False, soft_wrap=True)
    _problems(console, summary.problems, rest=f"`resmap status {summary.run}` has them all")
    console.print(f"Mosaic   {summary.mosaic}", soft_wrap=True)
    if summary.tiles["done"]:
        console.print(f"Look     resmap preview {shlex.quote(summary.mosaic)}", soft_wrap=True)


def _problems(console: Console, problems: Sequence[Mapping[str, str]], *, rest: str = "--json has them all") -> None:
    """The tiles that were given up, as many as people read."""
    for problem in problems[:10]:
        console.print(f"  {plain(problem['tile'])}: {plain(problem['error'])}", highlight=False, soft_wrap=True)
    if len(problems) > 10:
        console.print(f"  … and {len(problems) - 10} more; {rest}")


if __name__ == "__main__":
    main()
