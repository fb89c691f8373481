"""pmtiles: the tiles of a web map, out of one file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pmtiles.reader import MmapSource, Reader

from jobs.tile_archive import write_pmtiles
from tests.readers.golden import Golden, Place, tile_around


@pytest.fixture(scope="module")
def archive(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path: Path = tmp_path_factory.mktemp("pmtiles") / "building.pmtiles"
    write_pmtiles(golden.url, path, prompt="building", time="2024-06")
    with path.open("rb") as file:
        yield Reader(MmapSource(file))  # type: ignore[no-untyped-call]  # pmtiles ships no types


def colour_at(archive: Any, place: Place, zoom: int) -> tuple[int, ...]:
    x, y, z, row, column = tile_around(place, zoom)
    picture = archive.get(z, x, y)
    if picture is None:
        return (0, 0, 0, 0)  # of a tile with nothing in it there is none
    with Image.open(io.BytesIO(picture)) as tile:
        colours = tile.convert("RGBA")
        scale = colours.width // 256
        pixel = colours.getpixel((scale * column, scale * row))
    assert isinstance(pixel, tuple)
    return pixel


@pytest.mark.parametrize("zooms_out", [0, 1])
def test_a_place_has_the_colour_that_the_legend_gives_its_value(golden: Golden, archive: Any, zooms_out: int) -> None:
    legend = {entry["value"]: entry for entry in archive.metadata()["legend"]}
    for place in golden.places:
        colour = colour_at(archive, place, archive.header()["max_zoom"] - zooms_out)
        meant = bytes.fromhex(legend[place.mask]["colour"].removeprefix("#"))
        if legend[place.mask]["pattern"] == "plain":
            assert colour == tuple(meant)
        elif place.mask == 254:
            assert colour[3] > 0  # hatched: one of two inks
        else:
            assert colour[3] == 0


def test_the_archive_says_where_it_lies_and_what_it_shows(golden: Golden, archive: Any) -> None:
    header, metadata = archive.header(), archive.metadata()
    longitude, latitude = golden.places[0].lonlat
    assert header["min_lon_e7"] / 1e7 < longitude < header["max_lon_e7"] / 1e7
    assert header["min_lat_e7"] / 1e7 < latitude < header["max_lat_e7"] / 1e7
    assert metadata["prompt"]["name"] == "building"
    assert [entry["name"] for entry in metadata["legend"]] == ["present", "absent", "unobserved", "unmapped"]
