"""What the sections of a job file share: how strict they are, a line of text, a place on Earth."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("is blank, or has characters that cannot be printed")
    return text


Line = Annotated[str, AfterValidator(_one_line)]
"""Text that can stand in a message, a path or an address."""


class Section(BaseModel):
    """A mapping of settings, none of them unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Area(Section):
    """Where to map: exactly one of the three, in longitude and latitude."""

    bbox: tuple[float, float, float, float] | None = Field(None, description="west, south, east, north in degrees")
    geojson: Line | None = Field(None, description="file (relative to the job file) or URL of a GeoJSON document")
    wkt: str | None = Field(None, description="a POLYGON or MULTIPOLYGON")

    @model_validator(mode="after")
    def _one_of_three(self) -> Area:
        if sum(value is not None for value in (self.bbox, self.geojson, self.wkt)) != 1:
            raise ValueError("give exactly one of bbox, geojson, wkt")
        if self.bbox is not None:
            west, south, east, north = self.bbox
            if -180 <= east < west <= 180 and -90 <= south < north <= 90:
                raise ValueError(
                    "bbox is [west, south, east, north] in degrees, west < east and south < north; for one across the "
                    "antimeridian, give a wkt: MULTIPOLYGON with the part on either side"
                )
            if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
                raise ValueError("bbox is [west, south, east, north] in degrees, west < east and south < north")
        return self
