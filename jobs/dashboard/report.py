"""A run as one file: an HTML page that asks nobody for anything, needs no script, and is the same in ten years.

Its style stands in it, under a policy that allows exactly this style; its pictures are in it too. Names of strangers
are text in it, and addresses are text, so that nothing in it leads anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Protocol

from markupsafe import Markup

from jobs.dashboard import over_time
from jobs.dashboard.beside import Beside, beside
from jobs.dashboard.pages import TEMPLATES, environment
from jobs.dashboard.views import FailureGroup, RunPage
from jobs.dashboard.words import iso
from jobs.stac.provenance import clean
from mapper.errors import MapperError, told

LARGEST_BYTES = 2_000_000
"""No report has more."""

ROWS = (96, 32, 8)
"""GPUs that have a row of their own: as many as there is room for."""

STRIPS = 16
"""GPUs whose time is drawn interval by interval, the slowest."""

GROUPS = 24
"""Causes of failures."""

TEXT_CHARS = 600
"""Of a stranger's sentence."""

STYLE = (TEMPLATES / "report.css").read_text()

POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)
"""What the page may do: nothing but look as it does. Whoever serves it says the same in its header."""


class Source(Protocol):
    """What gives a run's panels; ``Queries`` does."""

    def page(self, key: str) -> RunPage:
        """All panels of one run."""


def html(source: Source, key: str) -> str:
    """The report of a run that the dashboard shows, and of what lies beside its mosaic as far as it can be read.

    Raises:
        QuestionError: there is no such run.
        MosaicError: a file of it is damaged.
    """
    page = source.page(key)
    if page.line.state == "queued":
        return rendered(page, Beside(unread="The run waits for its turn: it is not planned yet."))
    try:
        known = beside(page.line.mosaic, page.line.run)
    except MapperError as error:
        known = Beside(unread=f"What lies beside the mosaic cannot be read now: {error.what}")
    return rendered(page, known)


def rendered(page: RunPage, known: Beside) -> str:
    """The report as HTML, of ``LARGEST_BYTES`` at most."""
    shown = _shortened(page)
    for rows in ROWS:
        document = _rendered(shown, known, rows=rows)
        if len(document.encode()) <= LARGEST_BYTES:
            return document
    return _rendered(shown, replace(known, picture=b"", no_picture="The picture has no room here."), rows=ROWS[-1])


def values(page: RunPage, known: Beside) -> dict[str, Any]:
    """What the report tells as plain values; the picture is left out."""
    facts = {name: value for name, value in asdict(known).items() if name not in ("picture", "no_picture", "unread")}
    document: dict[str, Any] = _plain({"page": asdict(page), **facts})
    return document


def _rendered(page: RunPage, known: Beside, *, rows: int) -> str:
    strips = known.over_time.workers if known.over_time else {}
    order = [gpu.worker for gpu in page.gpus if gpu.worker in strips] or list(strips)
    return (
        environment()
        .get_template("report.html")
        .render(
            view=page,
            known=known,
            rows=rows,
            style=Markup(STYLE),
            policy=POLICY,
            picture=_data_uri(known.picture),
            strips=[(worker, over_time.strip(strips[worker], who=worker, size=(720, 30))) for worker in order[:STRIPS]],
            fleet=over_time.strip(known.over_time.fleet, who="all workers") if known.over_time else None,
            took_s=_took_s(page, known),
            mosaic=clean(page.line.mosaic),
            opened=_quoted(clean(page.line.mosaic)),
            first_prompt=_quoted(page.prompts[0][0] if page.prompts else ""),
        )
    )


def _shortened(page: RunPage) -> RunPage:
    """With sentences of strangers as long as people read them, and no more causes than they look through."""
    return replace(
        page,
        failures=tuple(_short_group(group) for group in page.failures[:GROUPS]),
        events=tuple(replace(event, text=told(event.text, TEXT_CHARS)) for event in page.events),
        prompts=tuple((told(name, TEXT_CHARS), told(expression, TEXT_CHARS)) for name, expression in page.prompts),
    )


def _short_group(group: FailureGroup) -> FailureGroup:
    return replace(group, first_error=told(group.first_error, TEXT_CHARS), fix=told(group.fix, TEXT_CHARS))


def _took_s(page: RunPage, known: Beside) -> float | None:
    """From the first to the last of what is known of it, pauses among it."""
    begun = page.line.began or known.created
    last = page.as_of if page.line.live else known.ended or page.line.updated
    return max(0.0, (last - begun).total_seconds()) if begun and last else None


def _quoted(text: str) -> str:
    """As Python has it, on one line."""
    return json.dumps(text)


def _data_uri(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}" if picture else ""


def _plain(value: Any) -> Any:
    """The same in what JSON has: moments in ISO 8601, no secrets."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(held) for key, held in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(held) for held in value]
    return clean(value) if isinstance(value, str) else value
