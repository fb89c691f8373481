"""Input that no one thought of: good documents, changed at random, for each parser that reads what strangers write.

    python -m tests.hostile.fuzz_documents --what item --runs 100000 --seed 1

A run is a seed: what breaks on run 7213 breaks again with ``--seed 7213 --runs 1``. Every run ends in a value or in one
of our errors; anything else is a fault, and so is a run of more than a few seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from shapely.geometry import box

from catalogs.api import features_of
from catalogs.conditions import Filter, interval_of
from catalogs.documents import absolute
from catalogs.fetch import links_of, parse_json
from catalogs.hrefs import check_href, resolve_href
from catalogs.items import items_from_stac, lean
from catalogs.search import Query, search
from catalogs.select import coverage, items_order, time_steps
from catalogs.snapshot import freeze, thaw
from jobs.areas import geometry_of
from jobs.spec import Area, read_spec, run_id
from mapper.errors import MapperError
from mapper.prompts import Prompt
from tests.hostile.catalogs import INSIDE, NO_ADDRESS, PUBLIC, STRANGE_IDS, WRONG, good_item, page, places, replaced
from tests.hostile.jobs import NO_WKT, PROMPTS, SQUARE, good_job, polygon
from tests.hostile.outcome import assert_a_sentence

SLOW_S = 5.0
Parser: TypeAlias = Callable[[random.Random, Path], Any]
"""Makes an input, by a seeded chance, and reads it; a folder to write in."""

_TEXTS = [
    *STRANGE_IDS,
    *INSIDE,
    *NO_ADDRESS[:40],
    "EPSG:32633",
    "2024-06-01",
    "nan",
    "1e999",
    "red",
    "fields",
    "9" * 30,
]
_VALUES = [*WRONG.values(), *_TEXTS, 0, 1, 180.0, -180.0, 90.0, 91.0, 1e-300, 1e300, 2**63, [], [[]], [0, 0, 1, 1]]
_FILTERS = [
    "eo:cloud_cover < 20", "a = 'x' AND NOT (b > 1 OR c IS NULL)", "datetime > TIMESTAMP('2020-01-01T00:00:00Z')",
    "S_INTERSECTS(geometry, POLYGON((0 0, 1 0, 1 1, 0 0)))", "a IN (1, 2, 3)", "a BETWEEN 1 AND 2", "a LIKE 'x%'",
    "CASEI(a) = 'b'", "-a + 1 * 2 ^ 3 < 4 % 5", '"proj:code" = \'EPSG:1\'', "A_CONTAINS(a, ('x'))", "a = true",
]  # fmt: skip
_HREFS = [f"https://93.184.216.34/{name}" for name in ("a.tif", "a%20b.tif?x=1#f", "a/../b")]
_HREFS += ["s3://bucket/key.tif", "gs://b/k", "az://c/k", "/data/a.tif", "a.tif", *NO_ADDRESS, *INSIDE]


def changed(chance: random.Random, doc: Any) -> Any:
    """A document with a few of its values replaced, dropped or swapped."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        where = list(places(doc))
        if not where:
            return chance.choice(_VALUES)
        place = chance.choice(where)
        value = chance.choice(_VALUES)
        if chance.random() < 0.2:
            other = chance.choice(where)
            value = _at(doc, other)
        doc = replaced(doc, place, value)
    return doc


def garbled(chance: random.Random, text: bytes) -> bytes:
    """Bytes with some of them changed, doubled, cut or moved."""
    content = bytearray(text)
    for _ in range(chance.choice((0, 0, 0, 0, 1, 2, 8))):
        at, length = chance.randrange(len(content) + 1), chance.choice((1, 1, 2, 8, 64))
        part = content[at : at + length]
        content[at : at + length] = chance.choice(
            (b"", part * 2, chance.randbytes(length), part[::-1], chance.choice(_TEXTS).encode("utf-8", "replace"))
        )
    return bytes(content)


def read_item(chance: random.Random, folder: Path) -> object:
    """An item, by the way that a plan takes."""
    doc = changed(chance, good_item())
    text = json.dumps(doc).encode()
    (folder / "item.json").write_bytes(garbled(chance, text) if chance.random() < 0.3 else text)
    query = Query(catalog=str(folder / "item.json"), collections=(), area=box(-180, -90, 180, 90), bands=("red",))
    docs = search(query)
    if chance.random() < 0.1:
        docs = thaw(freeze(docs))
    items = items_from_stac(docs, bands=("red",), judge=partial(check_href, catalog=PUBLIC, resolve=False))
    time_steps(items, "season")
    items_order(items, "least-cloudy")
    return coverage(box(0, 0, 20, 60), items)


def read_page(chance: random.Random, folder: Path) -> object:
    """A page of an API."""
    text = json.dumps(changed(chance, page(good_item(), good_item(), following=PUBLIC, numberMatched=2))).encode()
    doc = parse_json(garbled(chance, text), PUBLIC)
    links_of(doc)
    return [lean(absolute(found, PUBLIC, from_self=True), ("red",)) for found in features_of(doc, PUBLIC)]


def read_area(chance: random.Random, folder: Path) -> object:
    """An area, as text or as a file."""
    if chance.random() < 0.3:
        text = chance.choice([*NO_WKT[:12], box(12, 55, 13, 56).wkt, "MULTIPOLYGON(((0 0, 1 0, 1 1, 0 0)), EMPTY)"])
        return geometry_of(Area(wkt=garbled(chance, text[:300].encode()).decode("utf-8", "replace")), folder=folder)
    feature = {"type": "Feature", "properties": {}, "geometry": polygon(SQUARE)}
    good = chance.choice((feature, feature["geometry"], {"type": "FeatureCollection", "features": [feature] * 2}))
    (folder / "area.geojson").write_bytes(garbled(chance, json.dumps(changed(chance, good)).encode()))
    return geometry_of(Area(geojson="area.geojson"), folder=folder)


def read_job(chance: random.Random, folder: Path) -> object:
    """A job file."""
    text = yaml.safe_dump(changed(chance, good_job()), allow_unicode=True).encode("utf-8", "replace")
    (folder / "job.yaml").write_bytes(garbled(chance, text))
    spec = read_spec(folder / "job.yaml")
    interval_of(spec.imagery.datetime or "2020")
    return run_id(spec, area_wkb=b"")


def read_prompt(chance: random.Random, folder: Path) -> object:
    """A sentence."""
    text = chance.choice([*STRANGE_IDS, *(said for said, _ in PROMPTS.values())])
    text = "".join(chance.sample(text, len(text))) if chance.random() < 0.5 else text
    text += "".join(chr(chance.randrange(0x11_0000)) for _ in range(chance.choice((0, 0, 1, 3))))
    return Prompt(name=text[:64], expression=text, threshold=chance.choice((0.5, 1.0, 0.0, float("nan"))))


def read_cql2(chance: random.Random, folder: Path) -> object:
    """A filter, and what it says of an item."""
    text = garbled(chance, " AND ".join(chance.sample(_FILTERS, chance.choice((1, 1, 2)))).encode())
    made = Filter.parse(text.decode("utf-8", "replace") * chance.choice((1, 1, 1, 50)))
    return made.keep([changed(chance, good_item())])


def read_href(chance: random.Random, folder: Path) -> object:
    """An address, seen from a public catalog: what passes leads outside."""
    href = garbled(chance, chance.choice(_HREFS).encode()).decode("utf-8", "replace")
    once = check_href(resolve_href(href, base=f"{PUBLIC}/x/item.json"), catalog=PUBLIC, resolve=False)
    assert once.startswith(("http://", "https://", "s3://", "gs://", "az://")), once
    assert check_href(once, catalog=PUBLIC, resolve=False) == once, once
    return once


PARSERS: dict[str, Parser] = {
    "item": read_item,
    "page": read_page,
    "area": read_area,
    "job": read_job,
    "prompt": read_prompt,
    "cql2": read_cql2,
    "href": read_href,
}


def run(what: str, seed: int, folder: Path) -> str:
    """What comes of one run: ``taken``, or the name of our error.

    Raises:
        Exception: a fault, as it came.
        AssertionError: what came breaks a promise, or came late.
    """
    begun = time.process_time()
    try:
        PARSERS[what](random.Random(seed), folder)
        came = "taken"
    except MapperError as error:
        assert_a_sentence(error)
        came = type(error).__name__
    spent = time.process_time() - begun
    assert spent < SLOW_S, f"took {spent:.1f} s"
    return came


def fuzz(what: str, runs: int, seed: int) -> tuple[Counter[str], dict[str, int]]:
    """How often each thing came of some runs; and the faults, each with the first seed that shows it."""
    count: Counter[str] = Counter()
    faults: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(seed, seed + runs):
            try:
                count[run(what, number, Path(folder))] += 1
            except Exception as error:  # whatever it is, it is what this looks for
                count["FAULT"] += 1
                faults.setdefault(f"{type(error).__name__}: {str(error)[:160]}{_place(error)}", number)
    return count, faults


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=[*PARSERS, "all"], default="all")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    broken = False
    for what in PARSERS if asked.what == "all" else [asked.what]:
        begun = time.process_time()
        count, faults = fuzz(what, asked.runs, asked.seed)
        said = ", ".join(f"{name} {number:,}" for name, number in count.most_common())
        print(f"{what}: {said} ({time.process_time() - begun:.0f} s of CPU)", flush=True)
        for fault, seed in faults.items():
            print(f"  --what {what} --runs 1 --seed {seed}: {fault}")
        broken = broken or bool(faults)
    return int(broken)


def _at(doc: Any, place: Sequence[Any]) -> Any:
    for key in place:
        doc = doc[key]
    return doc


def _place(error: BaseException) -> str:
    """The last line of ours on the way to an error."""
    root, found, step = str(Path(__file__).parents[2]), "", error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if name.startswith(root) and "site-packages" not in name and "/tests/" not in name:
            found = f" at {name.removeprefix(root + '/')}:{step.tb_lineno}"
        step = step.tb_next
    return found


if __name__ == "__main__":
    sys.exit(main())
