"""Catalogs at rest: STAC JSON that links to more of it, and stac-geoparquet tables."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from shapely.errors import ShapelyError

from catalogs.fetch import Fetch, links_of, parse_json
from catalogs.hrefs import check_href, is_remote, resolve_href, unsigned
from catalogs.items import assets_wanted
from mapper.errors import AssetError, CatalogError, ReadError, SpecError

MOST_DOCUMENTS = 500_000
MOST_LEVELS = 30
_READERS = 8
PARQUET = b"PAR1"
ROWS_AT_ONCE = 8192

_TOP_LEVEL = frozenset(
    ("type", "stac_version", "stac_extensions", "id", "bbox", "geometry", "collection", "links", "assets")
)
"""Columns of a table that are no properties of the item."""

_SCALARS = frozenset((str, int, float, bool))


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a catalog at rest holds."""

    items: list[dict[str, Any]] = field(default_factory=list)
    collections: set[str] = field(default_factory=set)
    """The names of its collections, also of those that were not looked into."""


def walk(doc: dict[str, Any], place: str, *, wanted: Iterable[str], fetch: Fetch) -> Holding:
    """The items under a catalog, collection, item collection or item, hrefs absolute.

    Collections that are not wanted are not looked into (none wanted: all are).

    Raises:
        CatalogError: a link leads nowhere, or to what is not STAC.
    """
    only = frozenset(wanted)
    holding = Holding()
    seen = {place}
    level = [(doc, place, "")]
    with ThreadPoolExecutor(_READERS) as pool:
        for _ in range(MOST_LEVELS):
            links: list[tuple[str, str]] = []
            for found, at, parent in level:
                for target, collection in _looked_at(found, at, parent, only, holding, fetch):
                    if target not in seen:
                        seen.add(target)
                        links.append((target, collection))
            if len(seen) > MOST_DOCUMENTS:
                raise CatalogError(
                    f"the catalog has more than {MOST_DOCUMENTS} documents",
                    fix="name one of its collections by its own address, or use its API",
                    catalog=unsigned(place),
                )
            if not links:
                return holding
            docs = pool.map(lambda link: _read(link[0], place, fetch), links)
            level = [(found, target, parent) for found, (target, parent) in zip(docs, links, strict=True)]
    raise CatalogError(f"the catalog is more than {MOST_LEVELS} levels deep", catalog=unsigned(place))


def table_items(content: bytes, place: str, *, wanted: Iterable[str] = (), bands: Sequence[str] = ()) -> Holding:
    """The items of a stac-geoparquet table, hrefs absolute.

    Args:
        content: the file.
        place: where it was read.
        wanted: collections; none: all.
        bands: references of the bands that will be read. Other assets are left in the file where these are assets of
            every item; none: all assets are taken.

    Raises:
        CatalogError: it is no such table.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(content))
        missing = {"id", "geometry", "assets"} - set(file.schema_arrow.names)
        if missing:
            raise CatalogError(
                f"the table is not stac-geoparquet: it has no column {', '.join(sorted(missing))}",
                catalog=unsigned(place),
            )
        names: set[Any] = set()
        if "collection" in file.schema_arrow.names:
            names = set(pc.unique(file.read(columns=["collection"])["collection"]).to_pylist())
        table = _read_table(file, {str(name) for name in names if name}, bands)
        only = [name for name in wanted if name in names]
        if only:
            table = table.filter(pc.is_in(table["collection"], pa.array(only)))
        items = [
            absolute(doc, place, from_self=True) for doc in table_documents(table, links="self" if bands else None)
        ]
    except (pa.ArrowException, ValueError, TypeError, KeyError, AttributeError, OSError, ShapelyError) as error:
        raise CatalogError(
            f"the table cannot be read as stac-geoparquet: {str(error)[:200]}", catalog=unsigned(place)
        ) from error
    return Holding(items=items, collections={str(name) for name in names if name})


def _read_table(file: pq.ParquetFile, collections: Iterable[str], bands: Sequence[str]) -> pa.Table:
    """The rows of a table, with the assets that these bands may mean."""
    schema = file.schema_arrow
    keys = [field.name for field in schema.field("assets").type]
    kept = assets_wanted(keys, bands, collections)
    if kept is None or len(kept) == len(keys):
        return file.read()
    columns = [name for name in schema.names if name != "assets"]
    table = file.read(columns=[*columns, *(f"assets.{key}" for key in keys if key in kept)])
    hrefs = [pc.struct_field(table["assets"], [band, "href"]) for band in dict.fromkeys(bands)]
    # An item that lacks the asset may have a band of that name in another one.
    return file.read() if any(href.null_count for href in hrefs) else table


def table_documents(table: pa.Table, *, links: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a stac-geoparquet table as STAC items, without the nulls of columns that a row has nothing in.

    Args:
        table: of items.
        links: the only relation whose links are wanted; None: all.
    """
    names = table.schema.names
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        columns = [_json_values(name, column, links) for name, column in zip(names, batch.columns, strict=True)]
        for row in zip(*columns, strict=True):
            doc: dict[str, Any] = {"properties": {}}
            for name, value in zip(names, row, strict=True):
                if value is not None:
                    (doc if name in _TOP_LEVEL else doc["properties"])[name] = value
            yield doc


def _json_values(name: str, column: pa.Array, links: str | None) -> list[Any]:
    """A column as JSON, None where a row has nothing."""
    if name.rpartition(":")[2] == "geometry":
        written = shapely.to_geojson(shapely.from_wkb(column.to_numpy(zero_copy_only=False)))
        return [None if text is None else json.loads(text) for text in written.tolist()]
    if pa.types.is_timestamp(column.type):
        in_utc = column.cast(pa.timestamp(column.type.unit, tz="UTC"))
        return pc.strftime(in_utc, format="%Y-%m-%dT%H:%M:%SZ").to_pylist()  # type: ignore[no-any-return]
    values = column.to_pylist()
    if name == "bbox":
        return [None if box is None else list(box.values()) if isinstance(box, dict) else box for box in values]
    if name == "links" and links is not None:
        values = [[link for link in row or () if link.get("rel") == links] for row in values]
    return values if not pa.types.is_nested(column.type) else [_plain(value) for value in values]


def _plain(node: Any) -> Any:
    """What Arrow gave, as JSON without nulls."""
    if isinstance(node, dict):
        held = ((key, value) for key, value in node.items() if value is not None)
        return {key: value if type(value) in _SCALARS else _plain(value) for key, value in held}
    if isinstance(node, list):
        return node if all(type(value) in _SCALARS for value in node) else [_plain(value) for value in node]
    if isinstance(node, bytes):
        return json.loads(shapely.to_geojson(shapely.from_wkb(node)))
    return node.isoformat().replace("+00:00", "Z") if isinstance(node, date) else node


def parse_lines(content: bytes, place: str) -> list[dict[str, Any]] | None:
    """The documents of a file with one to a line, None where it is no such file."""
    lines = content.splitlines()
    if len(lines) < 2 or not lines[0].rstrip().endswith(b"}"):
        return None
    try:
        json.loads(lines[0])
    except ValueError:
        return None
    return [parse_json(line, place) for line in lines if line.strip()]


def absolute(doc: dict[str, Any], place: str, *, from_self: bool = False) -> dict[str, Any]:
    """The item with absolute asset hrefs.

    Args:
        doc: an item.
        place: where it was read.
        from_self: its assets are written as seen from its self link, where it has one: it was read from
            among others.
    """
    base = place
    if from_self:
        own = next((link["href"] for link in links_of(doc) if link["rel"] == "self"), "")
        if own and (is_remote(own) or not is_remote(place)):
            base = resolve_href(own, base=place)
    assets = doc.get("assets")
    if not isinstance(assets, dict):
        raise CatalogError("an item has no assets", item=doc.get("id"), catalog=unsigned(place))
    kept = {
        key: {**asset, "href": resolve_href(asset["href"], base=base)}
        for key, asset in assets.items()
        if isinstance(asset, dict) and isinstance(asset.get("href"), str)
    }
    return {**doc, "assets": kept}


def without_nulls(node: Any) -> Any:
    """JSON without the nulls that a table puts where a row has no such field.

    An item's own null ``datetime`` goes with them: it says no more than its absence.
    """
    if isinstance(node, dict):
        return {key: without_nulls(value) for key, value in node.items() if value is not None}
    if isinstance(node, list | tuple):
        return [without_nulls(value) for value in node]
    return node


def _looked_at(
    doc: dict[str, Any], place: str, parent: str, only: frozenset[str], holding: Holding, fetch: Fetch
) -> Iterable[tuple[str, str]]:
    """Takes the items a document holds; gives the links to follow, each with the collection it is under."""
    kind = doc.get("type")
    if kind == "Feature":
        _take(doc, place, parent, holding, from_self=False)
        return
    if kind == "FeatureCollection":
        from catalogs.api import pages  # not above: pystac-client takes 90 ms to import, and few catalogs need it

        for found in pages(fetch, place, doc):
            _take(found, place, parent, holding, from_self=True)
        return
    if kind not in ("Catalog", "Collection"):
        raise CatalogError(
            f"a document of type {str(kind)[:40]!r} is not STAC",
            fix="STAC has Catalog, Collection, Feature and FeatureCollection",
            catalog=unsigned(place),
        )
    name = str(doc.get("id")) if kind == "Collection" else parent
    if kind == "Collection":
        holding.collections.add(name)
    followed = ("child", "item") if not only or name in only or kind == "Catalog" else ("child",)
    for link in links_of(doc):
        if link["rel"] in followed:
            yield resolve_href(link["href"], base=place), name


def _take(doc: dict[str, Any], place: str, parent: str, holding: Holding, *, from_self: bool) -> None:
    if not isinstance(doc.get("id"), str):
        raise CatalogError("a STAC item has no id", catalog=unsigned(place))
    if not doc.get("collection") and parent:
        doc = {**doc, "collection": parent}
    if doc.get("collection"):
        holding.collections.add(str(doc["collection"]))
    holding.items.append(absolute(doc, place, from_self=from_self))


def _read(target: str, root: str, fetch: Fetch) -> dict[str, Any]:
    try:
        check_href(target, catalog=root)
    except (AssetError, ReadError) as error:
        raise CatalogError(f"a link of the catalog: {error.what}", catalog=unsigned(root), link=target) from error
    try:
        return fetch.json(target)
    except SpecError as error:
        raise CatalogError("a link of the catalog leads nowhere", catalog=unsigned(root), link=target) from error
