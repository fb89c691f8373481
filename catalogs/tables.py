"""stac-geoparquet tables: searched by the few columns that decide, read as items only when these are asked for.

A quarter of a million documents are gigabytes; as columns they are some hundred megabytes, and what is frozen of them
is written as the columns they are.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from shapely.errors import ShapelyError

from catalogs.aside import Aside, refuse
from catalogs.bands import assets_wanted
from catalogs.columns import DOCUMENT, ROWS_AT_ONCE, table_documents
from catalogs.fetch import links_of
from catalogs.hrefs import is_remote, resolve_href, unsigned
from mapper.errors import CatalogError

StacItem: TypeAlias = dict[str, Any]
Hrefs: TypeAlias = Callable[[list[str | None]], list[str | None]]

PARQUET = b"PAR1"
ROW = "resmap:row"
"""Of the head of an item: its row in the table."""

LINKS = ("self", "predecessor-version")
"""Relations of the links of an item that are kept where few are."""

_DATES = ("datetime", "start_datetime", "end_datetime")
_HEAD = ("id", "collection", "geometry", "bbox", *_DATES)
_PLAIN_HREF = r"^(?:https?|s3|gs|az)://"
"""What is absolute, wherever it was read."""

_BROKEN = (pa.ArrowException, ValueError, TypeError, KeyError, AttributeError, OSError, OverflowError, ShapelyError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Rows of a table, in any order of them."""

    held: tuple[pa.RecordBatch, ...]
    """All of one schema."""

    rows: NDArray[np.int64]
    """Of all that is held, those meant, in their order."""

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        begins = np.cumsum([0, *(batch.num_rows for batch in self.held)])
        for at in range(0, len(self.rows), ROWS_AT_ONCE):
            rows = self.rows[at : at + ROWS_AT_ONCE]
            of = np.searchsorted(begins, rows, side="right") - 1
            parts = [self.held[n].take(pa.array(rows[of == n] - begins[n])) for n in np.unique(of).tolist()]
            together = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
            order = np.argsort(np.argsort(of, kind="stable"), kind="stable")
            yield together if (np.diff(of) >= 0).all() else together.take(pa.array(order))


class Rows(Sequence[StacItem]):
    """Items that a table holds as columns: each becomes a document when it is asked for, and is to be read only."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches.rows)

    def __iter__(self) -> Iterator[StacItem]:
        return self.saying(None)

    def saying(self, fields: Collection[str] | None) -> Iterator[StacItem]:
        """The items, with these fields of theirs and of their assets alone; None for all."""
        for batch in self.batches:
            yield from table_documents(pa.Table.from_batches([batch]), fields=fields)

    @overload
    def __getitem__(self, which: int) -> StacItem: ...
    @overload
    def __getitem__(self, which: slice) -> Rows: ...
    def __getitem__(self, which: int | slice) -> StacItem | Rows:
        rows = self.batches.rows[which if isinstance(which, slice) else [which]]
        some = Rows(Batches(held=self.batches.held, rows=rows))
        return some if isinstance(which, slice) else next(iter(some))


class Table:
    """A stac-geoparquet file.

    Raises:
        CatalogError: it is none; any method may find that out.
    """

    def __init__(self, content: bytes, place: str) -> None:
        self.place = place
        with self._read():
            self._file = pq.ParquetFile(io.BytesIO(content))
            self._names = [name for name in self._file.schema_arrow.names if name != DOCUMENT]
        missing = {"id", "geometry", "assets"} - set(self._names)
        if missing:
            raise CatalogError(
                f"the table is not stac-geoparquet: it has no column {', '.join(sorted(missing))}",
                catalog=unsigned(place),
            )

    @cached_property
    def collections(self) -> frozenset[str]:
        """The collections its items are of."""
        if "collection" not in self._names:
            return frozenset()
        with self._read():
            names = pc.unique(self._file.read(columns=["collection"])["collection"]).to_pylist()
        return frozenset(str(name) for name in names if name)

    def heads(self, *, properties: bool, aside: Aside | None = None) -> Iterator[StacItem]:
        """What decides whether an item is wanted: all that it is but its assets and links, and its row.

        Args:
            properties: all of them; else its dates alone.
            aside: takes the rows that name no item; None: such a row is an error.
        """
        few = [name for name in self._names if name in _HEAD]
        names = [name for name in self._names if name not in ("assets", "links")] if properties else few
        row = 0
        with self._read():
            for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=names):
                for head in table_documents(pa.Table.from_batches([batch]).select(names)):
                    head[ROW] = row
                    row += 1
                    if isinstance(head.get("id"), str):
                        yield head
                    else:
                        refuse(head, CatalogError("a STAC item has no id", catalog=unsigned(self.place)), aside)

    def items(self, rows: Sequence[int] | None = None, *, bands: Sequence[str] = ()) -> Rows:
        """The items of these rows, in this order, hrefs absolute.

        Args:
            rows: None for all.
            bands: references of the bands that will be read. Assets that these cannot mean are left in the file where
                they are assets of every item; none: all assets are taken.
        """
        count = self._file.metadata.num_rows
        order = np.arange(count) if rows is None else np.asarray(rows, np.int64)
        kept = np.unique(order)
        with self._read():
            held = self._held(kept, self._leaves(bands), bands)
            if held is None:  # an item that lacks the asset may have a band of that name in another one
                held = self._held(kept, self._names, bands) or []
        return Rows(Batches(held=tuple(held), rows=np.searchsorted(kept, order)))

    def _leaves(self, bands: Sequence[str]) -> list[str]:
        keys = [field.name for field in self._file.schema_arrow.field("assets").type]
        wanted = assets_wanted(keys, bands, self.collections)
        if wanted is None or len(wanted) == len(keys):
            return self._names
        return [name for name in self._names if name != "assets"] + [f"assets.{key}" for key in keys if key in wanted]

    def _held(self, kept: NDArray[np.int64], columns: list[str], bands: Sequence[str]) -> list[pa.RecordBatch] | None:
        """These rows, with these columns; None where an asset that stands for a band is missing among them."""
        held, begin = [], 0
        for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=columns):
            end = begin + batch.num_rows
            here = kept[np.searchsorted(kept, begin) : np.searchsorted(kept, end)] - begin
            begin = end
            if not len(here):
                continue
            part = batch if len(here) == batch.num_rows else batch.take(pa.array(here))
            assets = part.column("assets")
            if columns is not self._names and any(
                pc.struct_field(assets, [band, "href"]).null_count for band in dict.fromkeys(bands)
            ):
                return None
            held.append(self._absolute(part, own_links_only=bool(bands)))
        return held

    def _absolute(self, batch: pa.RecordBatch, *, own_links_only: bool) -> pa.RecordBatch:
        if batch.column("assets").null_count:
            raise CatalogError("an item has no assets", catalog=unsigned(self.place))
        links = "links" if "links" in batch.schema.names else "id"

        @cache
        def bases() -> list[str]:
            return [self._base(doc) for doc in table_documents(pa.Table.from_batches([batch.select([links])]))]

        def absolute(hrefs: list[str | None]) -> list[str | None]:
            found = zip(hrefs, bases(), strict=True)
            return [None if href is None else resolve_href(href, base=base) for href, base in found]

        assets = with_asset_hrefs(batch.column("assets"), absolute, unless=_PLAIN_HREF)
        changed = with_column(batch, "assets", assets)
        if own_links_only and links == "links":
            changed = with_column(changed, "links", _own(batch.column("links")))
        return changed

    def _base(self, doc: StacItem) -> str:
        """Where an item was read, as it says itself: it lies among others here."""
        own = next((link["href"] for link in links_of(doc) if link["rel"] == "self"), "")
        if own and (is_remote(own) or not is_remote(self.place)):
            return resolve_href(own, base=self.place)
        return self.place

    @contextmanager
    def _read(self) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            raise CatalogError(
                f"the table cannot be read as stac-geoparquet: {str(error)[:200]}", catalog=unsigned(self.place)
            ) from error


def with_hrefs(things: pa.StructArray, changed: Hrefs, *, unless: str) -> pa.StructArray:
    """Assets or links with other hrefs; null where they have none.

    Args:
        things: structs.
        changed: gives the hrefs of all rows as they shall be.
        unless: is not asked where all hrefs look so already: a regular expression.
    """
    children = things.flatten()
    at = things.type.get_field_index("href")
    if not pc.all(pc.match_substring_regex(children[at], unless)).as_py():
        children[at] = pa.array(changed(children[at].to_pylist()), children[at].type)
    return pa.StructArray.from_arrays(children, fields=list(things.type), mask=children[at].is_null())


def with_asset_hrefs(assets: pa.StructArray, changed: Hrefs, *, unless: str) -> pa.StructArray:
    """The same of a struct of assets, without those that no item has a href of."""
    parts = {
        field.name: with_hrefs(asset, changed, unless=unless)
        for field, asset in zip(assets.type, assets.flatten(), strict=True)
        if has_field(field.type, "href")
    }
    return pa.StructArray.from_arrays(list(parts.values()), list(parts)) if parts else assets


def has_field(kind: pa.DataType, name: str) -> bool:
    """Whether it is of structs with such a field."""
    return bool(pa.types.is_struct(kind) and kind.get_field_index(name) >= 0)


def with_column(batch: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    """The batch with another column of that name in its place."""
    return batch.set_column(batch.schema.get_field_index(name), pa.field(name, column.type), column)


def _own(links: pa.Array) -> pa.Array:
    """Of each row the links to itself, and to what it replaces."""
    kind = links.type
    if not pa.types.is_list(kind) or not has_field(kind.value_type, "rel"):
        return links
    flat = links.flatten()
    rel = pc.struct_field(flat, "rel")
    own = pc.is_in(rel, pa.array(LINKS, rel.type))
    before = np.concatenate([[0], np.cumsum(own.to_numpy(zero_copy_only=False))])
    ends = np.cumsum(pc.fill_null(pc.list_value_length(links), 0).to_numpy(zero_copy_only=False))
    offsets = pa.array(before[np.concatenate([[0], ends])], pa.int32())
    return pa.ListArray.from_arrays(offsets, flat.filter(own), type=kind)
