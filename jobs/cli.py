"""The commands. Results go to stdout, progress and errors to stderr; ``--json`` makes stdout one JSON document."""

from __future__ import annotations

import signal
import sys
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from jobs import (
    drain_cli,
    export_cli,
    models_cli,
    monitor_cli,
    preview_cli,
    query_cli,
    report_cli,
    run_cli,
    serve_cli,
    submit_cli,
)
from jobs.run_cli import JobFile, print_ending, print_workers
from jobs.terminal import AsJson, complain, plain, print_json
from mapper.errors import MapperError

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="resmap",
    help="Say what you are looking for in a sentence; get it as a map of a continent.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done · 1 unexpected · 2 usage · 3 job file invalid · 4 finished with tiles given up · "
    "5 credentials · 6 cancelled, or out of budget · 7 verify failed · 8 more gaps than allowed · 130 interrupted · "
    "143 terminated.",
)

app.add_typer(models_cli.app, name="models")
app.add_typer(monitor_cli.app, name="monitor")
app.add_typer(query_cli.app, name="query")
app.add_typer(export_cli.app, name="export")


def main() -> None:
    """The console command."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, to their callers; not to our users
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")  # rasterio, of its own scratch arrays
    try:
        _hear()
        app()
    except MapperError as error:
        complain(error)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _hear() -> None:
    """Let signals in that whoever started us has held back until somebody could hear them."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


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
    print_workers(console, report.summary)
    if report.seams.differ is not None:
        console.print(
            f"Seams: beside {report.seams.borders} shard borders, {100 * report.seams.differ:.2f} % of the pixels "
            f"differ from one window centred there (mean score gap {report.seams.score_gap:.3f})."
        )
    print_ending(console, report.summary)
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
    fleet: Annotated[
        bool, typer.Option("--fleet", help="What 1, 4, 16 … GPUs of each type would take, in hours and money.")
    ] = False,
    by: Annotated[
        str | None,
        typer.Option(
            help='Which fleet finishes by then: "2026-12-01 06:00", or with a zone: "… Europe/Paris".',
            show_default=False,
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(help="Your table of GPU types and prices; RESMAP_PRICES, or the shipped one.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search, freeze and tile, and say what it will cost. Leaves nothing behind."""
    from jobs.plan_cli import say_plan

    raise typer.Exit(say_plan(job, pilot=pilot, fleet=fleet, by=by, prices=prices, as_json=as_json))


app.command()(run_cli.run)
app.command()(run_cli.retry)
app.command()(report_cli.report)
app.command()(submit_cli.submit)
app.command()(submit_cli.logs)
app.command()(submit_cli.cancel)
app.command()(drain_cli.drain)


@app.command()
def status(
    run_or_mosaic: Annotated[
        str | None, typer.Argument(metavar="[RUN|MOSAIC]", help="All runs where left out.")
    ] = None,
    address: submit_cli.MaybeServer = None,
    token_file: run_cli.TokenFile = None,
    insecure: run_cli.Insecure = False,
    insecure_ray: run_cli.InsecureRay = False,
    as_json: AsJson = False,
) -> None:
    """What runs there are, and how far each is."""
    if address is not None:
        submit_cli.status_there(
            run_or_mosaic,
            address,
            token_file=token_file,
            insecure=insecure,
            insecure_ray=insecure_ray,
            as_json=as_json,
        )
        return
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


app.command()(run_cli.verify)
app.command()(preview_cli.preview)
app.command("serve")(serve_cli.serve_dashboard)


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


if __name__ == "__main__":
    main()
