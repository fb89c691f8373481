"""What has come, changed or gone in a catalog since a mosaic was made: found items held against those that stand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

import shapely

from catalogs.bands import mapping_in
from catalogs.conditions import date_of, properties_of, stamp_of
from catalogs.hrefs import unsigned
from catalogs.items import item_from_stac
from jobs.monitors.versions import superseded
from jobs.spec import JobSpec
from mapper.errors import CatalogError, CredentialsError, MapperError
from mapper.imagery import Band

StacItem: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]
"""Collection and id of an item: what makes it that item."""

Kind: TypeAlias = Literal["future", "late", "broken", "deprecated"]

AHEAD = timedelta(hours=1)
"""How far the clock of a catalog may be before ours until what it calls now is the future."""

_LONGEST_WHY = 200
_LONGEST_ID = 1000
_LARGEST_ITEM = 2 * 2**20
"""Characters of an item with the assets it is read by; one of Sentinel-2 has 8,000. It is kept beside the mosaic for
good, once for every time it changes."""

_VERSIONS = ("version", "processing:version", "processing:datetime", "s2:processing_baseline")
_FILES = ("file:checksum", "checksum:multihash", "file:size", "version", "processing:version", "processing:datetime")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An item that was found and is not mapped."""

    collection: str
    id: str
    kind: Kind
    why: str
    """One printable line, of at most 200 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What a look at the catalog found. An item is in one place at most, but for what stands and is broken now: it
    stands as it was mapped, and is set aside as it is."""

    new: tuple[StacItem, ...] = ()
    """Items that do not stand yet, by (datetime, id)."""

    changed: tuple[StacItem, ...] = ()
    """Items that stand, as they are now: their pixels may be others. By (datetime, id)."""

    gone: tuple[Key, ...] = ()
    """Items that stand, and were deleted, superseded or deprecated."""

    set_aside: tuple[SetAside, ...] = ()
    unchanged: int = 0
    """Items that were found as they stand."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing to map."""
        return not (self.new or self.changed or self.gone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a look at a catalog brought home."""

    items: Iterable[StacItem]
    """Each says when and where it is; there may be several versions of one."""

    refused: tuple[tuple[StacItem, MapperError], ...] = ()
    """What is no such item, and why."""

    listed: bool = False
    """Whether all was listed that was acquired since then: what is missing is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What stands, before a look."""

    dates: Mapping[Key, datetime]
    """When each item was acquired."""

    digests: Mapping[Key, str]
    """Of those that are held against what was found; others are taken to be as they were."""


def news(
    found: Found, standing: Standing, *, spec: JobSpec, now: datetime, since: datetime, made: Callable[[StacItem], Any]
) -> News:
    """What is to be done about what was found.

    Args:
        found: what the catalog gives.
        standing: what has been mapped.
        spec: the job.
        now: aware.
        since: aware. What was acquired before is too late to be mapped, and stands for ever if it stands.
        made: turns an item into what is read, or raises why it cannot be; asked only of what is new or has changed.

    Raises:
        CredentialsError: ``made`` was refused by whoever keeps the files.
    """
    docs = _latest(found.items)
    judged = {key: _judged(key, doc, standing, spec, now, since, made) for key, doc in docs.items()}
    taken = {key for key, verdict in judged.items() if verdict.kind is None}
    speaking = {key: docs[key] for key, verdict in judged.items() if verdict.kind in (None, "deprecated")}
    replaced = superseded(speaking, taken, {*docs, *standing.dates})
    aside = [_refused(doc, error) for doc, error in found.refused]
    new: list[StacItem] = []
    changed: list[StacItem] = []
    gone: list[Key] = []
    unchanged = 0
    for key, doc in docs.items():
        verdict = judged[key]
        if key in replaced and not verdict.late and verdict.kind in (None, "broken"):
            verdict = _Verdict(kind="deprecated", why="another item replaces it")
        if verdict.kind == "deprecated" and key in standing.dates:
            gone.append(key)
        elif verdict.kind is not None:
            aside.append(SetAside(collection=one_line(key[0]), id=one_line(key[1]), kind=verdict.kind, why=verdict.why))
        elif not verdict.differs:
            unchanged += 1
        else:
            (changed if key in standing.dates else new).append(doc)
    seen = {*docs, *(key_of(doc) for doc, _ in found.refused)}
    for key, date in standing.dates.items():
        if key not in seen and date >= since and (found.listed or key in replaced):
            gone.append(key)
    return News(
        new=tuple(sorted(new, key=_order)),
        changed=tuple(sorted(changed, key=_order)),
        gone=tuple(sorted(gone)),
        set_aside=tuple(aside),
        unchanged=unchanged,
    )


def digest(document: StacItem, spec: JobSpec) -> str:
    """A digest of all that the pixels mapped from an item depend on: two versions of it share one where neither its
    files, nor how, where and when they are read have changed, as far as the catalog tells.

    Raises:
        MapperError: it cannot be read as the job asks for it.
    """
    item = item_from_stac(document, bands=spec.imagery.bands)
    properties, assets = properties_of(document), mapping_in(document.get("assets"))
    masks = [item.cloud.band] if item.cloud else []
    files = {band.asset.key: mapping_in(assets.get(band.asset.key)) for band in (*item.bands, *masks)}
    said = [
        item.datetime.isoformat(),
        shapely.to_wkb(item.footprint, hex=True),
        [_band_said(band) for band in (*item.bands, *masks)],
        [sorted(item.cloud.values), item.cloud.bits] if item.cloud else None,
        item.cloud_cover if spec.imagery.composite == "least-cloudy" else None,
        [properties.get(name) for name in _VERSIONS],
        [[key, *(files[key].get(name) for name in _FILES)] for key in sorted(files)],
    ]
    return hashlib.sha256(json.dumps(said, default=str).encode(errors="surrogatepass")).hexdigest()


def one_line(text: str) -> str:
    """The words of strangers as one printable line of at most 200 characters."""
    line = " ".join(text[: 4 * _LONGEST_WHY].split())
    line = "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in line)
    return line if len(line) <= _LONGEST_WHY else f"{line[: _LONGEST_WHY - 1]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What becomes of an item, as far as it tells itself."""

    kind: Kind | None = None
    """Why it is set aside; None: it is to stand."""

    why: str = ""
    differs: bool = False
    """Whether it is not what stands."""

    late: bool = False


def _judged(
    key: Key,
    doc: StacItem,
    standing: Standing,
    spec: JobSpec,
    now: datetime,
    since: datetime,
    made: Callable[[StacItem], Any],
) -> _Verdict:
    date = date_of(doc)
    late = max(date, standing.dates.get(key, date)) < since
    if date > now + AHEAD:
        return _Verdict(kind="future", why=f"it says that it was acquired on {_said(date)}, which is yet to come")
    if late and key not in standing.dates:
        return _Verdict(kind="late", late=True, why=f"acquired on {_said(date)}, before {_said(since)}")
    if late and key not in standing.digests:
        return _Verdict(late=True)
    if properties_of(doc).get("deprecated") is True and not late:
        return _Verdict(kind="deprecated", why="its catalog says that it is not to be used any more")
    try:
        differs = digest(doc, spec) != standing.digests.get(key)
        if differs and late:
            return _Verdict(kind="late", late=True, why=f"changed; acquired on {_said(date)}, before {_said(since)}")
        if differs:
            _check_kept(doc)
            made(doc)
    except CredentialsError:
        raise
    except MapperError as error:
        return _Verdict(kind="broken", why=one_line(str(error)), late=late)
    return _Verdict(differs=differs, late=late)


def _check_kept(doc: StacItem) -> None:
    """Whether an item can be kept beside the mosaic, under the name that it gives itself."""
    name = str(doc["id"])
    if len(name) > _LONGEST_ID or not name.isprintable():
        raise CatalogError("an item's id is no name", fix="its catalog must give it another", item=one_line(name))
    size = len(json.dumps(doc, default=str))
    if size > _LARGEST_ITEM:
        raise CatalogError(f"an item has {size:,} characters, and {_LARGEST_ITEM:,} at most are kept")


def _refused(doc: StacItem, error: MapperError) -> SetAside:
    collection, name = key_of(doc)
    return SetAside(collection=one_line(collection), id=one_line(name), kind="broken", why=one_line(str(error)))


def _latest(docs: Iterable[StacItem]) -> dict[Key, StacItem]:
    """Each item once: the version that was changed last, or else came last."""
    found: dict[Key, StacItem] = {}
    for doc in docs:
        key = key_of(doc)
        before, after = stamp_of(found.get(key, {})), stamp_of(doc)
        if before is None or after is None or after >= before:
            found[key] = doc
    return found


def key_of(doc: StacItem) -> Key:
    """What makes it that item; empty texts where a document says nothing."""
    return str(doc.get("collection") or ""), str(doc.get("id") or "")


def _order(doc: StacItem) -> tuple[datetime, str, str]:
    return date_of(doc), str(doc["id"]), str(doc.get("collection") or "")


def _band_said(band: Band) -> list[Any]:
    at = band.asset.placement
    where = [at.crs, [float(number) for number in at.transform], list(at.shape)] if at else None
    read = [band.index, band.dtype, band.scale, band.offset, band.nodata]
    return [band.asset.key, unsigned(band.asset.href), where, *read]


def _said(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
