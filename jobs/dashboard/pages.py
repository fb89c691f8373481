"""The pages' templates, with the words and the pictures they are made of."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from cluster.readings import WAITS
from jobs.dashboard import charts, words
from jobs.dashboard.plain_map import plain_map

TEMPLATES = Path(__file__).parent / "templates"
STATIC = Path(__file__).parent / "static"


@cache
def environment() -> jinja2.Environment:
    """All templates. Everything is escaped, and a name that is not given is an error.

    Each is rendered with ``view`` (a value of ``views``), ``readonly`` (whether changes are refused) and ``base`` (the
    path that the dashboard is mounted under, without a slash at its end; empty at the root). Some are given more:

    - failures, tile, log, map: ``key`` and ``line`` (its RunLine); the view of a log is its text
    - map: ``query`` (the address's parameters), for the map that needs no script
    - compare: ``runs`` (RunLines) and ``asked`` (``a`` and ``b`` → key); ``view`` is None while either is not chosen
    - login: ``problem`` (a sentence, or empty) and ``next`` (where to go on); no view
    - problem: ``status``, ``what``, ``fix``; no view
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        say.__name__: say
        for say in (
            words.figure,
            words.count,
            words.share,
            words.memory,
            words.traffic,
            words.duration,
            words.left,
            words.usd,
            words.moment,
            words.clock,
            words.iso,
            words.zoned,
            words.wall,
            words.minute,
            words.away,
            words.surface,
            words.web_address,
        )
    }
    made.globals |= {"charts": charts, "words": words, "WAITS": WAITS, "maplibre": maplibre, "plain_map": plain_map}
    return made


def maplibre() -> bool:
    """Whether the map's library lies beside our own scripts; the plain map is shown where it does not."""
    return (STATIC / "vendor" / "maplibre-gl.mjs").is_file()
