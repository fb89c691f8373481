"""Alerts as a STAC collection: an item each, with its two pictures and its polygons, whole wherever the folder is put.

    <folder>/collection.json
             <key>/<key>.json           the item: when, where, how much
                   before.png  after.png
                   polygons.geojson     all changed polygons

The files of an item are put first and the collection that leads to them last, by one at a time. What comes twice is
put twice, the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from typing import Any

import pystac
import shapely
from shapely.geometry import mapping

from jobs.monitors.alert import Alert, day
from jobs.monitors.changed_file import every_polygon
from jobs.monitors.sinks.turn import alone_with
from jobs.stac.places import GRAIN_DEG, bbox_of
from mapper.errors import DeliveryError, MosaicError, StoreError
from mapper.exports.chosen import iso
from mapper.models.mlm import SHA256_MULTIHASH
from mapper.names import slug
from mapper.questions.places import polygons_of
from mapper.storage import Folder

FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
_KEY = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_DOOR = "collection.json"


class AlertCatalog:
    """One folder, on this machine or in a bucket. Threads and processes may fill it together."""

    def __init__(self, url: str) -> None:
        """Nothing is looked at or made yet."""
        self._folder = Folder(url)

    def send(self, alert: Alert) -> None:
        """Put the item of one alert, and have the collection lead to it.

        Raises:
            DeliveryError: somebody else is at it, it cannot be written now, or another collection is there.
            CredentialsError: the store refuses us.
        """
        try:
            with alone_with(self._folder, _DOOR) as still_alone:
                collection = self._collection(alert)
                files = _files(alert)
                item = _item(alert, files, collection["id"])
                own = self._folder.child(alert.key)
                still_alone()
                for name, content in files.items():
                    own.write(name, content)
                own.write(f"{alert.key}.json", _json(item))
                still_alone()
                self._folder.write(_DOOR, _json(_leading_to(collection, item, self._items())))
        except (MosaicError, StoreError) as error:
            raise DeliveryError(
                f"the collection of alerts cannot be written: {error.what}", fix="mend it", folder=self._folder.url
            ) from error

    def _collection(self, alert: Alert) -> dict[str, Any]:
        """The collection that is there, or a new one."""
        try:
            there = json.loads(self._folder.read(_DOOR))
            extent = there["extent"]["spatial"]["bbox"][0], there["extent"]["temporal"]["interval"][0]
        except FileNotFoundError:
            return _new_collection(alert)
        except (ValueError, LookupError, TypeError) as error:
            raise self._other() from error
        if there.get("type") != "Collection" or not str(there.get("id")).startswith("alerts-") or not all(extent):
            raise self._other()
        return dict(there)

    def _items(self) -> list[str]:
        """Keys of the alerts that are there."""
        found = (name.split("/") for name in self._folder.names("*/*.json"))
        return sorted(parts[0] for parts in found if parts[1] == f"{parts[0]}.json" and _KEY.fullmatch(parts[0]))

    def _other(self) -> DeliveryError:
        return DeliveryError(
            "something else than a collection of alerts is there, and is left as it is",
            fix="name another folder in monitor.sinks",
            folder=self._folder.url,
        )


def _files(alert: Alert) -> dict[str, bytes]:
    """What lies beside the item, by name; pictures that cannot be had any more are left out."""
    found = {}
    for name, place in (("before.png", alert.pictures.before), ("after.png", alert.pictures.after)):
        if place is not None:
            folder, _, file = place.rpartition("/")
            try:
                found[name] = Folder(folder).read(file)
            except FileNotFoundError:
                continue
    polygons = {"type": "FeatureCollection", "features": [one.model_dump(mode="json") for one in every_polygon(alert)]}
    return {**found, "polygons.geojson": _json(polygons)}


def _item(alert: Alert, files: dict[str, bytes], collection: str) -> dict[str, Any]:
    """The item of an alert; its hrefs are relative."""
    outline = _outline(alert)
    facts = alert.model_dump(
        mode="json",
        include={"monitor", "rule", "place", "prompt", "expression", "change", "count", "area_m2", "revises"}
        | {"over_threshold", "observed_share", "comparable_share", "run"},
        exclude_none=True,
    )
    item = pystac.Item(
        id=alert.key,
        geometry=mapping(outline),
        bbox=list(bbox_of(outline)),
        datetime=alert.time,
        start_datetime=alert.before,
        end_datetime=alert.time if alert.before else None,
        properties={
            "title": alert.headline,
            "description": f"{alert.headline}, "
            + (f"between {day(alert.before)} and {day(alert.time)}." if alert.before else f"on {day(alert.time)}."),
            **{f"resmap:{name}": value for name, value in facts.items()},
            "resmap:due": iso(alert.due),
        },
        collection=collection,
        stac_extensions=[FILE],
        assets={key: _asset(key, name, files[name], alert) for key, name in _ASSETS.items() if name in files},
    )
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    document["links"] = [_link(rel, f"../{_DOOR}", "application/json") for rel in ("root", "parent", "collection")]
    if alert.revises:
        earlier = f"../{alert.revises}/{alert.revises}.json"
        document["links"].append(_link("predecessor-version", earlier, "application/geo+json"))
    return document


_ASSETS = {"before": "before.png", "after": "after.png", "polygons": "polygons.geojson"}


def _asset(key: str, name: str, content: bytes, alert: Alert) -> pystac.Asset:
    title = {
        "before": f"Before: {day(alert.before)}" if alert.before else "Before",
        "after": f"After: {day(alert.time)}",
        "polygons": f"What {alert.change}",
    }[key]
    return pystac.Asset(
        f"./{name}",
        title=title,
        media_type=pystac.MediaType.GEOJSON if key == "polygons" else pystac.MediaType.PNG,
        roles=["data"] if key == "polygons" else ["overview", *(["thumbnail"] if key == "after" else [])],
        extra_fields={
            "file:size": len(content),
            "file:checksum": SHA256_MULTIHASH + hashlib.sha256(content).hexdigest(),
        },
    )


def _outline(alert: Alert) -> Any:
    """Around the polygons that the alert holds: valid, rounded to a centimetre, rings counter-clockwise."""
    shapes = [shapely.geometry.shape(one.geometry) for one in alert.polygons.features]
    whole = polygons_of(shapely.make_valid(shapely.union_all(shapely.set_precision(shapes, GRAIN_DEG))))
    if whole.is_empty:  # each narrower than a centimetre
        whole = shapely.box(*alert.bbox).buffer(GRAIN_DEG)
    return shapely.orient_polygons(whole)


def _new_collection(alert: Alert) -> dict[str, Any]:
    document = pystac.Collection(
        id=f"alerts-{slug(alert.monitor)}",
        title=f"Alerts of {alert.monitor}",
        description="What changed where, an item an alert: with pictures of before and after, and what changed as "
        "polygons. What was not seen is never a change.",
        extent=pystac.Extent(
            pystac.SpatialExtent([list(alert.bbox)]),
            pystac.TemporalExtent([[alert.before or alert.time, alert.time]]),
        ),
        license="other",
    ).to_dict(include_self_link=False, transform_hrefs=False)
    return dict(document)


def _leading_to(collection: dict[str, Any], item: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """The collection with a link to each item, and an extent that holds the new one."""
    times = [item["properties"].get("start_datetime") or item["properties"]["datetime"], item["properties"]["datetime"]]
    spatial, temporal = collection["extent"]["spatial"]["bbox"][0], collection["extent"]["temporal"]["interval"][0]
    begins, ends = (sorted((*temporal, *times), key=datetime.fromisoformat)[end] for end in (0, -1))
    return {
        **collection,
        "extent": {
            "spatial": {"bbox": [_around(spatial, item["bbox"])]},
            "temporal": {"interval": [[begins, ends]]},
        },
        "links": [
            _link("root", f"./{_DOOR}", "application/json"),
            *(_link("item", f"./{key}/{key}.json", "application/geo+json") for key in keys),
        ],
    }


def _around(one: list[float], other: list[float]) -> list[float]:
    """The box around two; all the way round where one of two that differ crosses the antimeridian."""
    if one == other:
        return list(one)
    across = one[0] > one[2] or other[0] > other[2]
    west, east = (-180.0, 180.0) if across else (min(one[0], other[0]), max(one[2], other[2]))
    return [west, min(one[1], other[1]), east, max(one[3], other[3])]


def _link(rel: str, href: str, kind: str) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": kind}


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
