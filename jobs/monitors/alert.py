"""An alert: what changed where, as it is kept in the outbox and as every sink is given it.

As JSON it is ``resmap.alert/1``; ``Alert.model_json_schema()`` is its JSON Schema. Fields may be added to it without
a new number; none is renamed, and none changes what it means::

    {
      "schema": "resmap.alert/1",
      "key": "5f0c…-9a41…",             the same for the same changes: whoever gets it twice has got it once
      "revises": null,                  key of the alert of this place and step that this one takes the place of
      "monitor": "lakes", "rule": "shore", "place": "Long Lake",
      "prompt": "lake", "expression": "the lakes",
      "change": "appeared",             or vanished
      "time": "2020-08-31T00:00:00Z",   beginning of the step in which it changed
      "before": "2016-08-16T00:00:00Z", the step before that; null where that is not known
      "due": "2026-11-22T06:00:00Z",    of the tick that found it
      "area_m2": 41230.0,               changed inside the place, on the ellipsoid
      "count": 3,                       changed polygons that reach into it
      "threshold": {"area_m2": 10000.0},
      "over_threshold": true,           false where this takes back what was told: no more than the threshold is left
      "observed_share": 0.98,           of the place, seen in this step; null where nobody can say
      "comparable_share": 0.95,         of the place, seen in this step and at some time before
      "bbox": [-97.62, 47.0, -97.6, 47.1],
      "polygons": {"type": "FeatureCollection", "features": [… the largest, at most 100 …]},
      "mosaic": "s3://bucket/lakes.zarr", "run": "lakes-20261122T060000Z-0f1e2d3c4b",
      "pictures": {"before": "…/before.png", "after": "…/after.png"},
      "places": "…/places.parquet"      all the polygons, as GeoParquet
    }

What was not seen is never a change: it is neither in ``area_m2`` nor in ``count``, and ``comparable_share`` says how
much of the place could have changed unseen. Names, sentences and addresses in it are text of strangers: whoever shows
them escapes them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

MOST_POLYGONS = 100
"""In an alert itself; all of them are in its file of places."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, populate_by_name=True)


class ChangedPlace(_Value):
    """What is known of one changed polygon."""

    id: str = Field(description="the same in every alert and file that has this polygon")
    area_m2: float = Field(ge=0, description="the part inside the alert's place")
    score: float | None = Field(None, ge=0, le=1, description="mean probability there")
    first_seen: AwareDatetime | None = None
    last_seen: AwareDatetime | None = None


class Feature(_Value):
    """One changed polygon: the part inside the place, in longitude and latitude."""

    type: Literal["Feature"] = "Feature"
    id: str
    geometry: dict[str, Any]
    properties: ChangedPlace


class Polygons(_Value):
    """The largest changed polygons."""

    type: Literal["FeatureCollection"] = "FeatureCollection"
    features: tuple[Feature, ...] = Field(max_length=MOST_POLYGONS)


class Pictures(_Value):
    """Paths or URLs of two PNGs of the same ground; null where none was drawn."""

    before: str | None = None
    after: str | None = None


class Threshold(_Value):
    """More than this was asked for; exactly one of the two."""

    area_m2: float | None = None
    count: int | None = None


class Alert(_Value):
    """One rule, one place, one step: more has changed than its threshold."""

    version: Literal["resmap.alert/1"] = Field("resmap.alert/1", alias="schema")
    key: str = Field(pattern=r"^[0-9a-f]{16}-[0-9a-f]{16}$")
    revises: str | None = None
    monitor: str
    rule: str
    place: str
    prompt: str
    expression: str
    change: Literal["appeared", "vanished"]
    time: AwareDatetime
    before: AwareDatetime | None = None
    due: AwareDatetime
    area_m2: float = Field(ge=0)
    count: int = Field(ge=0)
    threshold: Threshold
    over_threshold: bool = True
    observed_share: float | None = Field(None, ge=0, le=1)
    comparable_share: float | None = Field(None, ge=0, le=1)
    bbox: tuple[float, float, float, float]
    polygons: Polygons
    mosaic: str
    run: str | None = None
    pictures: Pictures = Pictures()
    places: str | None = None

    @property
    def known(self) -> bool:
        """Whether anything of the place can be compared: where nothing can, nobody knows what changed."""
        return self.count > 0 or bool(self.comparable_share)

    @property
    def headline(self) -> str:
        """In a sentence, for people: which words of it are a stranger's is not marked."""
        if not self.known:
            return f"corrected, unknown now: whether “{self.expression}” {self.change} in {self.place}"
        number = "1 place" if self.count == 1 else f"{self.count:,} places"
        said = f"“{self.expression}” {self.change} in {self.place}: {surface(self.area_m2)} in {number}"
        corrected = "corrected: " if self.over_threshold else "corrected, no longer over the threshold: "
        return f"{corrected}{said}" if self.revises else said

    def body(self) -> str:
        """As JSON: the same alert gives the same bytes."""
        return self.model_dump_json(by_alias=True)

    @classmethod
    def of(cls, body: str) -> Alert:
        """The alert of a body.

        Raises:
            ValueError: it is none.
        """
        return cls.model_validate_json(body)


def surface(area_m2: float) -> str:
    """Square metres as people say them."""
    for unit, size in (("km²", 1e6), ("ha", 1e4)):
        if area_m2 >= size:
            return f"{_figures(area_m2 / size)} {unit}"
    return f"{_figures(area_m2)} m²"


def day(moment: datetime) -> str:
    """A step as people write it: without a clock where it begins at midnight."""
    return f"{moment:%Y-%m-%d}" if (moment.hour, moment.minute) == (0, 0) else f"{moment:%Y-%m-%d %H:%M} UTC"


def share(value: float | None) -> str:
    """Of a whole, as people say it; a dash where nobody knows, and never 100 % of what lacks a little."""
    if value is None:
        return "–"
    percent = 100 * value
    if 99.5 <= percent < 100:
        return f"{min(percent, 99.99):.2f} %"
    return f"{percent:.0f} %" if percent >= 10 or percent == 0 else f"{percent:.2g} %"


def _figures(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
