"""``resmap report``: a run as one file that can be shown to anybody, made from what lies beside its mosaic."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.terminal import AsJson, plain, print_json
from mapper.errors import MosaicError, QuestionError, SpecError

if TYPE_CHECKING:
    from jobs.dashboard.views import RunPage


def report(
    run_or_mosaic: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MOSAIC",
            help="As `resmap status` names it; of a mosaic, its latest run is taken.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file; RUN.html here where left out.", show_default=False)
    ] = None,
    run: Annotated[str | None, typer.Option(help="Of a mosaic, this run.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a run as one HTML file: what was asked, the map, time, cost, each GPU, failures, and where it comes from.

    Nothing but the mosaic is needed. With --json its figures go to stdout, and a file is written only for --out.
    """
    from jobs.dashboard.beside import beside
    from jobs.dashboard.report import rendered, values

    mosaic, chosen = _place(run_or_mosaic, run)
    path = None if as_json and out is None else _free(out or Path(f"{chosen}.html"), force=force)
    page = _page(mosaic, chosen)
    known = beside(mosaic, chosen)
    if path is not None:
        _write(path, rendered(page, known))
    if as_json:
        print_json({"report": None if path is None else str(path), **values(page, known)})
    else:
        print(plain(str(path)))


def _place(named: str, run: str | None) -> tuple[str, str]:
    """Mosaic and run that are meant.

    Raises:
        SpecError: there are none, or several.
    """
    from jobs.job import absolute
    from jobs.ledger import run_names
    from jobs.registry import Registry

    mosaic = absolute(named)
    if known := run_names(mosaic):
        if run not in (None, *known):
            raise SpecError(f"this mosaic has no run {run!r}", fix=f"it has {', '.join(known)}", mosaic=mosaic)
        return mosaic, run or known[-1]
    rows = Registry().find(named)
    if not rows:
        raise SpecError(f"no run and no mosaic is called {named!r}", fix="`resmap status` lists the runs")
    if len(rows) > 1:
        places = ", ".join(row.mosaic for row in rows)
        raise SpecError(f"run {named} was written to several mosaics", fix=f"name one of {places}, with --run {named}")
    return rows[0].mosaic, rows[0].run


def _page(mosaic: str, run: str) -> RunPage:
    """All panels of a run, from beside its mosaic alone.

    Raises:
        SpecError: nothing of it is there.
    """
    from jobs.dashboard.run_book import RunBook
    from jobs.dashboard.views import run_key
    from jobs.ledger import RunFolder

    if not RunFolder(mosaic, run).exists():
        raise SpecError("this run is known, and its files are not there", fix="look for its mosaic", mosaic=mosaic)
    return RunBook(run_key(run, mosaic), mosaic, run, None, clock=time.time).page()


def _free(path: Path, *, force: bool) -> Path:
    """Where the file goes.

    Raises:
        QuestionError: something is there, or it is no place for files.
    """
    path = path.expanduser()
    if "://" in str(path):
        raise QuestionError("files are written on this machine only", fix="give a path, and upload it then", out=path)
    if path.is_dir() or (path.exists() and not force):
        fix = "name a file in it" if path.is_dir() else "give another name, or --force"
        raise QuestionError("there is something at this path already", fix=fix, out=path)
    return path


def _write(path: Path, document: str) -> None:
    """Put the file there whole.

    Raises:
        MosaicError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(document, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise MosaicError(f"the report cannot be written: {error.strerror}", fix="check the path", out=path) from error
    finally:
        draft.unlink(missing_ok=True)
