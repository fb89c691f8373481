"""A STAC API in a thread of this process, whose items are posted, replaced and deleted while it is asked."""

from __future__ import annotations

import json
import operator
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeAlias

from shapely import intersects
from shapely.errors import ShapelyError
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from tests.servers import Answer, Request, landing, scripted_api

Doc: TypeAlias = dict[str, Any]
Filtering: TypeAlias = Literal["text", "timestamps", "none"]
"""How it compares what is said of time: as text, as pgstac does where it is told nothing else; as timestamps alone; or
it takes no filter, and does not say that it does."""

_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class LiveApi:
    """A STAC API that changes."""

    url: str
    filtering: Filtering
    page_items: int
    items: dict[tuple[str, str], Doc] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    down: bool = False
    """Whether it answers everything with status 503."""

    before_page: Callable[[int], None] = lambda _: None
    """Called with the number of a page, from 0, before it is made."""

    lock: threading.RLock = field(default_factory=threading.RLock)

    def post(self, item: Mapping[str, Any]) -> None:
        """A new item, or another version of one."""
        with self.lock:
            self.items[str(item.get("collection")), str(item.get("id"))] = json.loads(json.dumps(item))

    put = post

    def delete(self, name: str, *, collection: str) -> None:
        """Without an item that is there."""
        with self.lock:
            del self.items[collection, name]

    @property
    def searches(self) -> list[Any]:
        """What it was asked for, the following pages left out."""
        bodies = [request.body for request in self.requests if request.path == "/search" and request.body is not None]
        return [body for body in bodies if "offset" not in body]

    def searched(self, request: Request) -> Answer:
        """A page of the items that answer, by date and name; the next is told by how many went before."""
        body = request.body or {}
        begin = int(body.get("offset", 0))
        self.before_page(begin // self.page_items)
        expression = body.get("filter")
        with self.lock:
            try:
                found = [doc for doc in self.items.values() if self._answers(doc, body)]
                if expression is not None:
                    found = [doc for doc in found if self._true(expression, doc) is True]
            except TypeError as error:
                return 500, {"code": "InternalServerError", "description": str(error)}
        found.sort(key=lambda doc: (str(doc["properties"].get("datetime")), str(doc.get("id"))))
        page = found[begin : begin + min(self.page_items, int(body.get("limit", 10)))]
        links = []
        if begin + len(page) < len(found):
            following = {**body, "offset": begin + len(page)}
            links.append({"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": following})
        return {"type": "FeatureCollection", "features": page, "links": links}

    def _answers(self, doc: Doc, body: Mapping[str, Any]) -> bool:
        if doc.get("collection") not in body.get("collections", [doc.get("collection")]):
            return False
        if doc.get("id") not in body.get("ids", [doc.get("id")]):
            return False
        area = shape(body["intersects"]) if "intersects" in body else box(*body.get("bbox", (-180, -90, 180, 90)))
        if not _touches(doc, area):
            return False
        return _meets(doc, body.get("datetime", "../.."))

    def _true(self, node: Any, doc: Doc) -> Any:
        """What an expression is of an item: a value, or None where the item does not say."""
        if not isinstance(node, dict):
            return node
        if "property" in node:
            said = doc["properties"].get(node["property"])
            dates = ("datetime",) if self.filtering == "text" else ("datetime", "updated", "created")
            return _instant(said) if said is not None and node["property"] in dates else said
        if "timestamp" in node:
            return _instant(node["timestamp"])
        values = [self._true(part, doc) for part in node["args"]]
        if node["op"] == "or":
            return True if True in values else None if None in values else False
        if node["op"] == "and":
            return False if False in values else None if None in values else True
        if None in values:
            return None
        one, other = values
        if isinstance(one, datetime) and isinstance(other, str) and self.filtering == "text":
            other = _instant(other)
        return _COMPARED[node["op"]](one, other)  # a text and a timestamp: TypeError, as pgstac fails with status 500


def _touches(doc: Doc, area: BaseGeometry) -> bool:
    try:
        return bool(intersects(area, shape(doc["geometry"])))
    except (TypeError, ValueError, AttributeError, ShapelyError):
        return True  # what lies nowhere is in every answer


def _meets(doc: Doc, interval: str) -> bool:
    properties = doc["properties"]
    try:
        first = _instant(properties.get("datetime") or properties["start_datetime"])
        last = _instant(properties.get("datetime") or properties["end_datetime"])
    except (KeyError, ValueError, TypeError):
        return True  # what has no date is in every answer
    begin, _, end = interval.partition("/")
    return (begin in ("", "..") or last >= _instant(begin)) and (end in ("", "..") or first <= _instant(end))


def _instant(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _same(doc: Doc, request: Request) -> Doc:
    return doc


@contextmanager
def live_stac_api(
    items: Sequence[Mapping[str, Any]] = (),
    collections: Sequence[str] = ("fields",),
    *,
    filtering: Filtering = "text",
    page_items: int = 100,
) -> Iterator[LiveApi]:
    """A STAC API that holds these items until others are posted.

    Args:
        items: STAC items.
        collections: their ids.
        filtering: how it filters.
        page_items: most items of a page.
    """
    conforms = [
        "https://api.stacspec.org/v1.0.0/item-search#filter",
        "http://www.opengis.net/spec/cql2/1.0/conf/basic-cql2",
        "http://www.opengis.net/spec/cql2/1.0/conf/cql2-json",
    ]
    held: list[LiveApi] = []

    def answered(make: Callable[[Request], Answer]) -> Callable[[Request], Answer]:
        def answer(request: Request) -> Answer:
            held[0].requests.append(request)
            return (503, {"code": "Down"}) if held[0].down else make(request)

        return answer

    def routes(url: str) -> dict[str, Callable[[Request], Answer]]:
        front = landing(url, conforms=() if filtering == "none" else conforms)
        known = {name: {"type": "Collection", "id": name} for name in collections}
        paths: dict[str, Callable[[Request], Answer]] = {
            "/": answered(lambda _: front),
            "": answered(lambda _: front),
            "/search": answered(lambda request: held[0].searched(request)),
            "/collections": answered(lambda _: {"collections": list(known.values()), "links": []}),
        }
        return paths | {f"/collections/{name}": answered(partial(_same, known[name])) for name in known}

    with scripted_api(routes) as server:
        api = LiveApi(url=server.url, filtering=filtering, page_items=page_items)
        held.append(api)
        for item in items:
            api.post(item)
        yield api
