"""``resmap models``: what can be loaded, what it is, and how its weights are had."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jobs.terminal import AsJson, plain, print_json
from mapper.errors import ModelError

if TYPE_CHECKING:
    from mapper.models.fetch import Kept

app = typer.Typer(
    help="What models can be loaded, and how to get their weights.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[str, typer.Argument(help="A model, as `resmap models list` names it.", show_default=False)]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """What can be loaded, here and now."""
    kept = _kept_by_model()
    rows = [_row(name, kept.get(name, [])) for name in _names()]
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "weights", "window", "licence"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it is")
    for row in rows:
        problem = f"[red]{plain(row['problem'])}[/]" if row["problem"] else ""
        window = f"{row['window_px']} px" if row["window_px"] else ""
        table.add_row(plain(row["name"]), row["weights"], window, plain(row["licence"]), problem or plain(row["title"]))
    console = Console()
    console.print(table)
    console.print("\n`resmap models show MODEL` says how to get its weights.", style="dim")


@app.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """What a model is, its licence, and how to get its weights."""
    from mapper import models

    card, kept = models.card(name), _kept_by_model().get(name, [])
    document = {
        **asdict(card),
        "name": name,
        "url": card.url,
        "window_px": models.window_px(name),
        "package": models.brought_by(name),
        "convert": card.convert_command,
        "cached": [asdict(entry) for entry in kept],
    }
    if as_json:
        print_json(document)
        return
    table = Table(title=plain(card.title), title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("name", name),
        ("package", document["package"]),
        ("window", f"{document['window_px']} × {document['window_px']} px"),
        ("licence", card.licence),
        ("terms", card.terms),
        ("paper", card.paper),
        ("published", ", ".join(part for part in (card.url or card.source, card.file) if part)),
        ("prompts", card.prompts),
        ("cached", "\n".join(f"{entry.path} ({entry.size_bytes / 1e6:,.0f} MB)" for entry in kept)),
    ]
    for label, value in rows:
        if value:
            table.add_row(label, plain(str(value)))
    console = Console()
    console.print(table)
    console.print()
    _print_steps(console, name, ships=card.ships, convert=card.convert_command, kept=kept)


@app.command()
def convert(
    name: Name,
    source: Annotated[
        str,
        typer.Argument(
            help="A published .pth, .pt, .bin or .safetensors, a folder that has one, or hf://owner/name@revision/file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The weights file to write, or a folder for it.", show_default=False)],
    tokenizer: Annotated[
        str | None, typer.Option(help="Its tokenizer.json, or owner/name\\[@revision] on the model hub.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Of what the source was downloaded from, for the record.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Sizes of the network: a JSON file or text; the published sizes where left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a weights file of a published checkpoint. Nothing in the checkpoint is executed."""
    from mapper.models.convert import convert as convert_checkpoint
    from mapper.models.convert import read_config

    done = convert_checkpoint(
        name,
        source,
        out.expanduser(),
        tokenizer=tokenizer,
        revision=revision,
        config=None if config is None else read_config(config),
        force=force,
    )
    if as_json:
        print_json(asdict(done))
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"{plain(name)}: {done.tensors:,} tensors, {done.parameters:,} parameters, every one in its place "
        f"({done.size_bytes / 1e6:,.0f} MB)."
    )
    for file, digest in done.source_sha256.items():
        console.print(f"Source   sha256 {digest}  {plain(file)}")
    console.print(f"Weights  {plain(str(done.weights))}")
    console.print(f"Item     {plain(str(done.item))}")
    console.print("In the job file:")
    console.print(
        f"model: {{name: {plain(name)}, weights: {plain(str(done.weights.resolve()))}, sha256: {done.sha256}}}"
    )


def _print_steps(console: Console, name: str, *, ships: bool, convert: str, kept: list[Kept]) -> None:
    """What to do to use it."""
    lines = []
    if kept:
        lines = ["In the job file:", f"  model: {{name: {name}, weights: {kept[0].path}, sha256: {kept[0].sha256}}}"]
    elif convert:
        lines = ["To get its weights, and the line for the job file:", f"  {convert}"]
    elif ships:
        lines = ["It comes with its weights. In the job file:", f"  model: {{name: {name}}}"]
    for line in lines:
        console.print(plain(line), soft_wrap=True, highlight=False)


def _names() -> tuple[str, ...]:
    from mapper import models

    return models.names()


def _row(name: str, kept: list[Kept]) -> dict[str, Any]:
    """A model as the list has it; one that cannot be loaded says why."""
    from mapper import models

    row: dict[str, Any] = {"name": name, "title": "", "licence": "", "window_px": None, "ships": False}
    row |= {"weights": "", "cached": [str(entry.path) for entry in kept], "package": "", "problem": ""}
    try:
        row["package"] = models.brought_by(name)
        card = models.card(name)
        row |= {"title": card.title, "licence": card.licence, "ships": card.ships}
        row["window_px"] = models.window_px(name)
    except ModelError as error:
        row["problem"] = str(error)
        return row
    row["weights"] = (
        "ships" if card.ships else "cached" if kept else "to get" if card.convert_command else "none needed"
    )
    return row


def _kept_by_model() -> dict[str, list[Kept]]:
    from mapper.models.fetch import kept_weights

    kept: dict[str, list[Kept]] = {}
    for entry in kept_weights():
        kept.setdefault(entry.model, []).append(entry)
    return kept
