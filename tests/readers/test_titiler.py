"""titiler-xarray: web tiles from a mosaic, through its own application."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from starlette.testclient import TestClient

from tests.readers.golden import Golden, Place, tile_around

COLOURS = {0: (40, 40, 40, 255), 1: (230, 80, 20, 255), 254: (120, 120, 220, 255)}


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    from titiler.xarray.main import app

    with TestClient(app) as client:
        yield client


def question(golden: Golden, place: Place, level: int = 0) -> dict[str, Any]:
    prompt = golden.mosaic.prompts[place.prompt].name
    date = golden.mosaic.times[place.time].date().isoformat()
    return {
        "url": golden.url, "group": str(level), "variable": "mask",
        "sel": [f"prompt={prompt}", f"time={date}"], "nodata": 255,
    }  # fmt: skip


def picture(server: TestClient, path: str, asked: dict[str, Any]) -> NDArray[np.uint8]:
    """``(band, y, x)`` of the PNG at a path."""
    answer = server.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    with MemoryFile(answer.content) as file, file.open() as image:
        pixels: NDArray[np.uint8] = image.read()
    return pixels


@pytest.mark.parametrize("level", [0, 2])
def test_info_says_where_it_lies(golden: Golden, server: TestClient, level: int) -> None:
    grid = golden.grid(level)
    answer = server.get("/info", params=question(golden, golden.places[0], level)).json()
    assert answer["bounds"] == list(grid.lattice.bounds(grid.box))
    assert answer["crs"].endswith("/EPSG/0/32632")
    assert [answer["height"], answer["width"]] == list(grid.shape)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("level", [0, 2])
def test_a_tile_shows_each_value_in_its_colour_where_it_lies(golden: Golden, server: TestClient, level: int) -> None:
    colours = json.dumps({str(value): colour for value, colour in COLOURS.items()})
    for place in golden.places:
        x, y, z, row, column = tile_around(place)
        asked = question(golden, place, level) | {"colormap": colours, "tilesize": 256}
        tile = picture(server, f"/tiles/WebMercatorQuad/{z}/{x}/{y}.png", asked)
        assert tile.shape == (4, 256, 256)
        if place.mask == 255:
            assert tile[3, row, column] == 0  # nobody mapped it: the ground shows
        else:
            assert tuple(tile[:, row, column].tolist()) == COLOURS[place.mask]


def test_a_point_is_asked_for_by_longitude_and_latitude(golden: Golden, server: TestClient) -> None:
    for place in golden.places[:3]:
        longitude, latitude = place.lonlat
        answer = server.get(f"/point/{longitude},{latitude}", params=question(golden, place))
        assert answer.json()["values"] == [place.mask]


def test_a_map_of_tiles_is_announced(golden: Golden, server: TestClient) -> None:
    answer = server.get("/WebMercatorQuad/tilejson.json", params=question(golden, golden.places[0])).json()
    west, south, east, north = answer["bounds"]
    longitude, latitude = golden.places[0].lonlat
    assert west < longitude < east
    assert south < latitude < north
    assert answer["minzoom"] <= answer["maxzoom"]
