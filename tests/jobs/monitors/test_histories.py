"""Whatever happens in a catalog and whenever it is looked at: in the end just that stands which should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.monitors import look as looking
from jobs.monitors.news import digest
from tests.jobs.monitors.ground import DAY, NOW, Ground, Key, job, scene
from tests.live_api import LiveApi, live_stac_api

HOUR = timedelta(hours=1)
LATE = "300d"
DATES = [NOW - DAY, NOW - 200 * DAY, NOW]
OWN_DATES = {"old": NOW - 400 * DAY, "ahead": NOW + 60 * HOUR}
"""Of items that are too old, and yet to come for a while, whatever else becomes of them: what has stood once and is
now said to be of such a time stays as it was, and then it matters when one looked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that happens, some time after what happened before."""

    hours: int
    what: str
    name: str
    date: datetime
    version: int
    stamp: str
    replaces: str


ACTS = st.lists(
    st.builds(
        Act,
        hours=st.sampled_from([0, 1, 5, 30]),
        what=st.sampled_from(["post", "post", "post", "delete", "withdraw", "break", "look", "look", "look"]),
        name=st.sampled_from(["a", "a", "b", "b", "c", *OWN_DATES]),
        date=st.sampled_from(DATES),
        version=st.integers(1, 2),
        stamp=st.sampled_from(["now", "now", "slow", "past", "ahead", "none"]),
        replaces=st.sampled_from(["", "", "a", "b"]),
    ),
    min_size=1,
    max_size=14,
)


class Catalog(Protocol):
    """A catalog that changes."""

    url: str
    items: dict[Key, Any]

    def post(self, item: Any) -> None: ...
    def delete(self, name: str, *, collection: str) -> None: ...


@dataclass(slots=True, kw_only=True)
class World:
    """A catalog and the monitor that looks at it."""

    catalog: Catalog
    ground: Ground
    now: datetime = NOW
    sound: dict[Key, set[str]] = field(default_factory=dict)
    """Digests of all versions of an item that could be mapped."""

    def act(self, act: Act) -> None:
        self.now += act.hours * HOUR
        key = ("fields", act.name)
        if act.what == "look":
            self.ground.tick(self.now)
        elif act.what == "delete":
            if key in self.catalog.items:
                self.catalog.delete(act.name, collection="fields")
        else:
            self.catalog.post(self.posted(act))

    def posted(self, act: Act) -> Any:
        stamp = {"slow": self.now - HOUR / 2, "past": self.now - 900 * DAY, "ahead": self.now + 900 * DAY}
        updated = None if act.stamp == "none" else stamp.get(act.stamp, self.now)
        date = OWN_DATES.get(act.name, act.date)
        doc = scene(act.name, date=date, updated=updated, properties={"version": str(act.version)})
        if act.replaces:
            doc["links"] = [{"rel": "predecessor-version", "href": f"./{act.replaces}.json"}]
        if act.what == "withdraw":
            doc["properties"]["deprecated"] = True
        if act.what == "break":
            doc["assets"] = {}
        else:
            self.sound.setdefault(("fields", act.name), set()).add(digest(doc, SPEC))
        return doc


SPEC = job("/nowhere", late=LATE).spec


def expected(items: dict[Key, Any], now: datetime) -> set[Key]:
    """The items that stand, by the rules alone: no history, no stamps, every chain of versions tried."""

    def says(doc: Any, word: str) -> Any:
        return doc["properties"].get(word)

    def fits(doc: Any) -> bool:
        date = datetime.fromisoformat(says(doc, "datetime"))
        return now - 300 * DAY <= date <= now + HOUR and bool(doc["assets"])

    good = {key for key, doc in items.items() if fits(doc) and not says(doc, "deprecated")}
    telling = {key for key, doc in items.items() if fits(doc)}
    replaces = {
        (one, ("fields", link["href"][2:-5])) for one in telling for link in items[one]["links"] if one in telling
    }
    replaces = {(one, other) for one, other in replaces if one != other and other in items}
    while True:
        longer = replaces | {(a, d) for a, b in replaces for c, d in replaces if b == c}
        if longer == replaces:
            break
        replaces = longer
    named = {other for _, other in replaces}
    return {key for key in good if not any((head, key) in replaces for head in good - named)}


class AtRest:
    """A catalog that is a file, written anew whenever it changes."""

    def __init__(self, place: Path) -> None:
        self.url = str(place)
        self.items: dict[Key, Any] = {}
        self.place = place
        self._write()

    def post(self, item: Any) -> None:
        self.items[item["collection"], item["id"]] = item
        self._write()

    def delete(self, name: str, *, collection: str) -> None:
        del self.items[collection, name]
        self._write()

    def _write(self) -> None:
        docs = list(self.items.values())
        self.place.write_text(json.dumps({"type": "FeatureCollection", "features": docs, "links": []}))


@pytest.fixture(scope="module")
def live() -> Iterator[LiveApi]:
    with live_stac_api() as served:
        yield served


def check_history(catalog: Catalog, acts: list[Act]) -> None:
    """All that happens, a look a day later, and what stands then."""
    for name, collection in [(name, collection) for collection, name in catalog.items]:
        catalog.delete(name, collection=collection)
    world = World(catalog=catalog, ground=Ground(catalog=catalog.url, late=LATE))
    for act in acts:
        world.act(act)
    world.now += 25 * HOUR
    before = {key: digest(doc, SPEC) for key, doc in world.ground.held.items()}
    world.ground.tick(world.now)
    assert world.ground.look(world.now).news.empty
    after = {key: digest(doc, SPEC) for key, doc in world.ground.held.items()}
    broken = {key for key, doc in catalog.items.items() if not doc["assets"]}
    assert {key for key in after if key not in broken} == expected(catalog.items, world.now)
    assert all(after[key] == digest(catalog.items[key], SPEC) for key in after if key not in broken)
    assert all(after[key] == before[key] and after[key] in world.sound[key] for key in after if key in broken)


@settings(max_examples=40)
@given(acts=ACTS)
def test_after_a_look_at_a_file_that_stands_which_should(tmp_path_factory: Any, acts: list[Act]) -> None:
    check_history(AtRest(tmp_path_factory.getbasetemp() / "history.json"), acts)


@settings(max_examples=10)
@given(acts=ACTS, short=st.booleans())
def test_after_a_sweep_of_a_server_that_stands_which_should(live: LiveApi, acts: list[Act], short: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(looking, "SHORT", 1000 if short else 0)
        check_history(live, acts)
