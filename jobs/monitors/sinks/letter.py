"""What an e-mail about an alert says: as text, and as HTML that asks nobody for anything.

Every word of a stranger is text in it: Jinja escapes them all, and nothing of theirs is a link.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from jobs.monitors.alert import Alert, day, share, surface

if TYPE_CHECKING:
    from jinja2 import Template

_HTML = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light"><title>{{ alert.headline }}</title></head>
<body style="margin:0;padding:0;background:#f2f1ed;color:#212529;
  font:16px/1.5 -apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif">
<table role="presentation" width="100%" cellspacing="0" cellpadding="0"><tr><td align="center"
  style="padding:24px 12px">
<table role="presentation" width="100%" cellspacing="0" cellpadding="0"
  style="max-width:680px;background:#fafaf8;border:1px solid #dedcd4;border-radius:10px">
<tr><td style="padding:28px 28px 8px">
<p style="margin:0 0 6px;font-size:13px;letter-spacing:.04em;color:#6c757d">
{{ alert.monitor }} · {{ alert.rule }}{% if alert.revises %} · corrected
{%- if not alert.over_threshold %}: no longer over the threshold{% endif %}{% endif %}</p>
<h1 style="margin:0;font-size:24px;line-height:1.25;font-weight:600">“{{ alert.expression }}” {{ alert.change }}
in {{ alert.place }}</h1>
<p style="margin:10px 0 0;font-size:18px"><span style="display:inline-block;width:12px;height:12px;border-radius:3px;
background:{{ colour }};margin-right:8px"></span>{{ area }} in {{ number }}</p>
</td></tr>
{% for name, source, said in pictures %}<tr><td style="padding:14px 28px 0">
<img src="{{ source }}" alt="{{ said }}" width="622"
  style="display:block;width:100%;max-width:622px;height:auto;border-radius:6px">
</td></tr>
{% endfor %}<tr><td style="padding:18px 28px 26px">
<table role="presentation" cellspacing="0" cellpadding="0" style="font-size:14px">
{% for what, value in facts %}<tr><td style="padding:3px 18px 3px 0;color:#6c757d;white-space:nowrap;vertical-align:top"
>{{ what }}</td><td style="padding:3px 0;word-break:break-word">{{ value }}</td></tr>
{% endfor %}</table>
<p style="margin:16px 0 0;font-size:13px;color:#6c757d">What was not seen is never counted as a change.</p>
</td></tr></table></td></tr></table></body></html>
"""

COLOURS = {"appeared": "#1a85ff", "vanished": "#e66100"}
"""As in the pictures: told apart by the colour-blind too."""


def text_of(alert: Alert) -> str:
    """The plain part."""
    facts = _facts(alert)
    width = max(len(what) for what, _ in facts) + 2
    lines = [f"{what + ':':<{width}}{_line(value)}" for what, value in facts]
    return "\n".join(
        [f"{_line(alert.headline)}.", "", *lines, "", "What was not seen is never counted as a change.", ""]
    )


def html_of(alert: Alert, pictures: Mapping[str, str]) -> str:
    """The HTML part.

    Args:
        alert: what it is about.
        pictures: ``before`` and ``after``, those there are → where the message has them.
    """
    said = {"before": f"Before: {_step(alert, before=True)}", "after": f"After: {day(alert.time)}"}
    return _template().render(
        alert=alert,
        area=surface(alert.area_m2),
        number="1 place" if alert.count == 1 else f"{alert.count:,} places",
        colour=COLOURS[alert.change],
        pictures=[(name, pictures[name], said[name]) for name in ("before", "after") if name in pictures],
        facts=_facts(alert),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_HTML)


def _facts(alert: Alert) -> list[tuple[str, str]]:
    """What there is to know, in order."""
    west, south, east, north = alert.bbox
    asked = alert.threshold
    asked_for = f"{asked.count:,} places" if asked.count is not None else surface(asked.area_m2 or 0.0)
    facts = [
        ("Between", f"{_step(alert, before=True)} and {day(alert.time)}"),
        ("Asked for", f"more than {asked_for}"),
        ("Seen", f"{share(alert.observed_share)} of the place on {day(alert.time)}"),
        ("Comparable", f"{share(alert.comparable_share)} of the place"),
        ("Within", f"{west:.5f}, {south:.5f}, {east:.5f}, {north:.5f}"),
        ("Mosaic", alert.mosaic),
        ("Run", alert.run or ""),
        ("All polygons", alert.places or ""),
        ("Corrects", alert.revises or ""),
        ("Alert", alert.key),
    ]
    return [(what, value) for what, value in facts if value]


def _step(alert: Alert, *, before: bool) -> str:
    moment = alert.before if before else alert.time
    return "–" if moment is None else day(moment)


def _line(text: str) -> str:
    return " ".join(text.split())
