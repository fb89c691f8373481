"""What a job asks of an item, as tests on STAC JSON: area, dates, CQL2."""

from __future__ import annotations

import calendar
import contextlib
import difflib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import cql2

from mapper.errors import CatalogError, MapperError, SpecError

_INSTANT = re.compile(
    r"^(\d{4})(?:-(\d\d)(?:-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?\s*([Zz]|[+-]\d\d:?\d\d)?)?)?)?$"
)
_PLAIN_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3}|\.\d{6})?Z")
"""What the standard library reads as we do, and ten times sooner."""

_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_QUOTED = 80
"""Characters of a date that are said again where it is none."""

_LONGEST_FILTER = 10_000
_TERM = (
    r"""(?:"[\w:. -]+"|[a-z_][\w:.]*)\s*"""
    r"""(?:(?:=|<>|<=|>=|<|>)\s*(?:[+-]?\d+(?:\.\d+)?|'[\w:. -]*'|true|false)|\s+is\s+(?:not\s+)?null)"""
)
_PLAIN = re.compile(rf"\s*{_TERM}(?:\s+(?:and|or)\s+{_TERM}){{0,4}}\s*", re.IGNORECASE)
"""A filter that is parsed here: a few properties, each held against a value. What is not plain is looked at in another
process, within limits: of ``-a + 1 * 4 % 5 AND a = true`` cql2 0.5 makes gigabytes until the process ends, the time
that it takes doubles with each open bracket, and its complaint over fifty terms fills a gigabyte."""

_CHECKED_S = 10.0
_CHECKER = """
import json, sys, cql2
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
except (ImportError, OSError, ValueError):
    pass
expression = cql2.parse_text(sys.stdin.read())
expression.validate()
print(json.dumps(expression.to_json()))
"""

_OUTSIDE = frozenset(("id", "collection", "geometry", "bbox", "type"))
"""What CQL2 may name beside an item's properties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """From the first instant to the last, both in it."""

    first: datetime = _FIRST
    last: datetime = _LAST

    def meets(self, first: datetime, last: datetime) -> bool:
        """Whether it shares an instant with another."""
        return first <= self.last and last >= self.first

    @property
    def text(self) -> str:
        """As a STAC API is asked for it."""
        first = ".." if self.first == _FIRST else _rfc3339(self.first)
        last = ".." if self.last == _LAST else _rfc3339(self.last)
        return f"{first}/{last}"


def interval_of(text: str) -> Interval:
    """What a job's ``datetime`` means: ``2020``, ``2020-06/2020-08-15``, ``../2021`` and the like.

    A year, month or day means all of it; an instant with no zone is UTC.

    Raises:
        SpecError: it means none.
    """
    begin, slash, end = (part.strip() for part in text.strip().partition("/"))
    if not slash:
        first, last = _span(begin, text)
        return Interval(first=first, last=last)
    first = _FIRST if begin in ("", "..") else _span(begin, text)[0]
    last = _LAST if end in ("", "..") else _span(end, text)[1]
    if first > last:
        raise SpecError(f"datetime {text[:_QUOTED]!r} ends before it begins", fix="write the earlier date first")
    return Interval(first=first, last=last)


def properties_of(doc: Mapping[str, Any]) -> Mapping[str, Any]:
    """An item's properties, empty where it has none."""
    properties = doc.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def dates_of(doc: Mapping[str, Any]) -> tuple[datetime, datetime] | None:
    """First and last instant of an item, equal where it has one; None where it has no date.

    Raises:
        CatalogError: a date cannot be read.
    """
    properties = properties_of(doc)
    written = properties.get("datetime")
    begin, end = (written, written) if written else (properties.get("start_datetime"), properties.get("end_datetime"))
    begin, end = begin or end, end or begin
    if not begin or not end:
        return None
    first = _instant(begin, doc)
    if end is begin:
        return first, first
    last = _instant(end, doc)
    return min(first, last), max(first, last)


def date_of(doc: Mapping[str, Any]) -> datetime:
    """The instant of an item: its datetime, or the middle of its range.

    Raises:
        CatalogError: it has neither, or they cannot be read.
    """
    dates = dates_of(doc)
    if dates is None:
        raise CatalogError("an item has no datetime and no range of them", item=doc.get("id"))
    first, last = dates
    return first + (last - first) / 2


def stamp_of(doc: Mapping[str, Any]) -> datetime | None:
    """When an item was last changed in its catalog, else made there: ``updated``, ``created``; None where it does not
    say, or says what is no date."""
    properties = properties_of(doc)
    for written in (properties.get("updated"), properties.get("created")):
        if written:
            with contextlib.suppress(CatalogError):
                return _instant(written, doc)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A CQL2 expression."""

    text: str
    expression: cql2.Expr

    @classmethod
    def parse(cls, text: str) -> Filter:
        """The filter in a CQL2 text; SpecError where there is none, or one too long to be a person's."""
        if len(text) > _LONGEST_FILTER:
            raise SpecError(f"filter has {len(text)} characters", fix=f"say it in {_LONGEST_FILTER}", filter=text[:80])
        try:
            expression = _parsed(text)
        except subprocess.TimeoutExpired as error:
            raise SpecError(
                f"filter is too deep: it cannot be checked within {_CHECKED_S:g} s",
                fix="write it with fewer brackets, and compare no comparisons",
                filter=text[:300],
            ) from error
        except Exception as error:  # cql2 raises ParseError, ValidationError and bare Exception
            said = next((line for line in reversed(str(error).splitlines()) if "=" in line), str(error))
            raise SpecError(
                f"filter is not CQL2: {said.strip(' =')[:200]}",
                fix='write it as in "eo:cloud_cover < 20"',
                filter=text[:300],
            ) from error
        return cls(text=text, expression=expression)

    @property
    def properties(self) -> frozenset[str]:
        """The names it asks items for."""
        return frozenset(_named(self.expression.to_json()))

    def keep(
        self, docs: Sequence[dict[str, Any]], *, aside: Callable[[dict[str, Any], MapperError], None] | None = None
    ) -> list[dict[str, Any]]:
        """The items it is true of. What an item does not say is unknown, and what hangs on it is not true.

        Args:
            docs: items.
            aside: takes those of which it cannot be decided. None: these are an error, and that no item has a
                property it names is one too.

        Raises:
            SpecError: no item has a property it names, or it cannot be decided.
        """
        if aside is None:
            self._check_names(docs)
        kept = []
        for doc in docs:
            try:
                if self.holds(doc):
                    kept.append(doc)
            except SpecError as error:
                if aside is None:
                    raise
                aside(doc, error)
        return kept

    def holds(self, doc: dict[str, Any]) -> bool:
        """Whether it is true of an item."""
        try:
            return bool(self.expression.matches(_for_cql2(doc)))
        except Exception as error:  # cql2 raises bare Exception for all it cannot decide
            if any(_lookup(doc, name) is None for name in self.properties):
                return False
            raise SpecError(
                "filter cannot be decided for an item",
                fix="compare numbers with numbers and text with text",
                filter=self.text,
                item=doc.get("id"),
            ) from error

    def denies(self, doc: dict[str, Any]) -> bool:
        """Whether it is plainly false of an item: not where it cannot be decided."""
        try:
            return not self.expression.matches(_for_cql2(doc))
        except Exception:  # cql2 raises bare Exception for all it cannot decide
            return False

    def _check_names(self, docs: Sequence[dict[str, Any]]) -> None:
        for name in sorted(_named(self.expression.to_json(), under_null_tests=False)):
            if docs and all(_lookup(doc, name) is None for doc in docs):
                known = sorted({key for doc in docs for key in properties_of(doc)})
                raise SpecError(
                    f"no item found has the property {name!r} that filter names",
                    fix=did_you_mean(name, known) or f"they have {', '.join(known[:20])}",
                    filter=self.text,
                )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy that names the nearest known words; empty where none is near."""
    choices = {choice.lower(): choice for choice in reversed(list(known))}
    near = difflib.get_close_matches(word.lower(), list(choices), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(repr(choices[choice]) for choice in near)}?" if near else ""


def _parsed(text: str) -> cql2.Expr:
    """The expression in a text; raises what cql2 does, or that it took too long."""
    if _PLAIN.fullmatch(text):
        expression = cql2.parse_text(text)
        expression.validate()
        return expression
    command = [sys.executable, "-I", "-c", _CHECKER]
    done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=_CHECKED_S)
    if done.returncode:
        crashed = done.returncode < 0 or not done.stderr
        raise ValueError("it takes too much" if crashed else done.stderr.decode(errors="replace")[-2000:])
    return cql2.parse_json(done.stdout.decode())


def _named(node: object, *, under_null_tests: bool = True) -> Iterable[str]:
    """The properties an expression names; those it only asks the absence of where wanted."""
    if isinstance(node, dict):
        if isinstance(node.get("property"), str):
            yield node["property"]
        if node.get("op") != "isNull" or under_null_tests:
            for child in node.values():
                yield from _named(child, under_null_tests=under_null_tests)
    elif isinstance(node, list):
        for child in node:
            yield from _named(child, under_null_tests=under_null_tests)


def _lookup(doc: Mapping[str, Any], name: str) -> object:
    if name in _OUTSIDE:
        return doc.get(name)
    return properties_of(doc).get(name.removeprefix("properties."))


def _for_cql2(doc: Mapping[str, Any]) -> dict[str, Any]:
    """What of an item a filter may look at: assets and links would only be copied."""
    return {key: doc[key] for key in ("type", "id", "collection", "geometry", "bbox", "properties") if key in doc}


def _instant(text: object, doc: Mapping[str, Any]) -> datetime:
    if isinstance(text, datetime):
        return text if text.tzinfo else text.replace(tzinfo=UTC)
    if isinstance(text, str) and _PLAIN_INSTANT.fullmatch(text):
        with contextlib.suppress(ValueError):  # a leap second
            return datetime.fromisoformat(text)
    match = _INSTANT.match(str(text).strip())
    if match is None:
        raise CatalogError(f"an item's datetime {str(text)[:40]!r} is none", item=doc.get("id"))
    try:
        return _begin_of(match)
    except (ValueError, OverflowError) as error:
        raise CatalogError(f"an item's datetime {str(text)[:40]!r} is none", item=doc.get("id")) from error


def _span(text: str, whole: str) -> tuple[datetime, datetime]:
    match = _INSTANT.match(text)
    try:
        if match is None:
            raise ValueError(text)
        first = _begin_of(match)
        if match[4]:
            return first, first
        days = 1 if match[3] else calendar.monthrange(first.year, first.month)[1] if match[2] else _days(first.year)
        return first, first + (timedelta(days=days) - timedelta(microseconds=1))
    except (ValueError, OverflowError) as error:
        raise SpecError(
            f"datetime {whole[:_QUOTED]!r} is no date or range of dates",
            fix='write it as in "2020-01-01/2020-12-31", "2020-06" or "2020-06-01/.."',
        ) from error


def _days(year: int) -> int:
    return 366 if calendar.isleap(year) else 365


def _begin_of(match: re.Match[str]) -> datetime:
    year, month, day, hour, minute, second = (int(match[n]) if match[n] else None for n in range(1, 7))
    fraction, zone = match[7] or "", match[8] or "Z"
    leap_second = second == 60
    moment = datetime(
        year or 0, month or 1, day or 1, hour or 0, minute or 0, 59 if leap_second else second or 0,
        int(fraction[:6].ljust(6, "0")) if fraction else 0, tzinfo=UTC,
    )  # fmt: skip
    if leap_second:
        moment += timedelta(seconds=1)
    if zone not in "Zz":
        sign = -1 if zone[0] == "-" else 1
        moment -= sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    return moment


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
