"""How all commands speak: one JSON document, or words that are safe for a terminal."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mapper.errors import MapperError, told

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def print_json(value: Any) -> None:
    """The one document on stdout."""
    print(json.dumps(value, indent=2, default=str))


def complain(error: MapperError) -> None:
    """What happened, where, and what to do about it, on stderr."""
    console = Console(stderr=True, soft_wrap=True)
    console.print(f"[bold red]error:[/] {plain(told(error.what, 2000))}", highlight=False)
    if error.place:
        console.print(f"  where: {plain(error.place)}", highlight=False)
    if error.fix:
        console.print(f"  do:    {plain(error.fix)}", highlight=False)


def plain(text: str) -> str:
    """Text of strangers, made safe for a terminal: no markup, no control characters."""
    return escape("".join(mark if mark.isprintable() else "�" for mark in text))
