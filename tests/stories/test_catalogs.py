"""The same imagery gives the same map, however it is offered; and time becomes an axis as the job asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.servers import FileServer, files_over_http, stac_api
from tests.stories.world import COLLECTION, NEXT_ZONE, World, collection_of, layers, mapped, write_table


def job_of(world: World, mosaic: Path, **changes: Any) -> dict[str, Any]:
    """A job over the part of the ground where all items meet."""
    return world.job(mosaic, area=World.rectangle(100, 0, 460, 240), **changes)


@pytest.fixture(scope="module")
def served(world: World) -> Iterator[FileServer]:
    with files_over_http(world.folder) as server:
        yield server


@pytest.fixture(scope="module")
def plain(world: World, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """Of the static catalog, as a file of this machine."""
    mosaic = tmp_path_factory.mktemp("plain") / "map.zarr"
    mapped(job_of(world, mosaic))
    return layers(mosaic)


def over_http(world: World, served: FileServer) -> list[dict[str, Any]]:
    """The items, their files on the server."""
    text = json.dumps(world.items).replace(str(world.folder), served.url)
    items: list[dict[str, Any]] = json.loads(text)
    return items


def test_a_static_catalog_over_http_gives_the_map_of_the_file(
    world: World, served: FileServer, plain: xr.Dataset, tmp_path: Path
) -> None:
    mapped(job_of(world, tmp_path / "map.zarr", imagery={"catalog": f"{served.url}/catalog.json"}))
    assert layers(tmp_path / "map.zarr").equals(plain)
    assert any("range" in map(str.lower, request.headers) for request in served.asked("/west.tif"))


def test_a_stac_api_gives_the_map_of_the_file(
    world: World, served: FileServer, plain: xr.Dataset, tmp_path: Path
) -> None:
    collections = [collection_of(COLLECTION), collection_of(NEXT_ZONE)]
    with stac_api(over_http(world, served), collections) as url:
        job = job_of(world, tmp_path / "map.zarr", imagery={"catalog": url, "collections": [COLLECTION, NEXT_ZONE]})
        mapped(job)
    # The API is gone. What was found is frozen beside the mosaic, so a further sentence needs it no more.
    assert layers(tmp_path / "map.zarr").equals(plain)
    job["prompts"].append({"name": "cold", "expression": "what is blue"})
    assert mapped(job).state == "done"


def test_a_table_of_items_gives_the_map_of_the_file(world: World, plain: xr.Dataset, tmp_path: Path) -> None:
    table = write_table(tmp_path / "items.parquet", world.items)
    mapped(job_of(world, tmp_path / "map.zarr", imagery={"catalog": str(table)}))
    assert layers(tmp_path / "map.zarr").equals(plain)


def test_a_collection_over_http_gives_the_map_of_that_collection(
    world: World, served: FileServer, tmp_path: Path
) -> None:
    mapped(job_of(world, tmp_path / "one.zarr", imagery={"catalog": f"{served.url}/{COLLECTION}.json"}))
    mapped(job_of(world, tmp_path / "other.zarr", imagery={"collections": [COLLECTION]}))
    assert layers(tmp_path / "one.zarr").equals(layers(tmp_path / "other.zarr"))


def test_a_filter_takes_the_items_it_is_true_of(world: World, tmp_path: Path) -> None:
    mapped(job_of(world, tmp_path / "one.zarr", imagery={"filter": "eo:cloud_cover < 5"}))
    mapped(job_of(world, tmp_path / "other.zarr", imagery={"datetime": "2024-06-10/.."}))  # the cloudy one is of 1 June
    assert layers(tmp_path / "one.zarr").equals(layers(tmp_path / "other.zarr"))


@pytest.mark.parametrize(
    ("time_step", "begins"),
    [
        ("all", ["2024-06-01T10:30"]),
        ("scene", ["2024-06-01T10:30", "2024-06-20T10:30", "2025-01-15T10:30"]),
        ("day", ["2024-06-01", "2024-06-20", "2025-01-15"]),
        ("week", ["2024-05-27", "2024-06-17", "2025-01-13"]),
        ("month", ["2024-06-01", "2025-01-01"]),
        ("season", ["2024-06-01", "2024-12-01"]),
        ("year", ["2024-01-01", "2025-01-01"]),
    ],
)
def test_a_time_step_makes_the_time_axis(world: World, tmp_path: Path, time_step: str, begins: list[str]) -> None:
    everywhen = world.rectangle(300, 30, 310, 200)  # under an item of every date
    mapped(world.job(tmp_path / "map.zarr", imagery={"time_step": time_step}, area=everywhen))
    time = layers(tmp_path / "map.zarr")["time"].to_numpy()
    assert list(time) == list(np.array(begins, "datetime64[ns]"))


def test_a_month_holds_what_its_days_hold(world: World, tmp_path: Path) -> None:
    mapped(job_of(world, tmp_path / "month.zarr", imagery={"time_step": "month"}))
    mapped(job_of(world, tmp_path / "january.zarr", imagery={"datetime": "2025-01-01/2025-01-31", "time_step": "day"}))
    month, january = layers(tmp_path / "month.zarr"), layers(tmp_path / "january.zarr")
    assert (month["mask"][:, 1].to_numpy() == january["mask"][:, 0].to_numpy()).all()


def source_names(dataset: xr.Dataset, world: World) -> np.ndarray[Any, Any]:
    """Id of the item seen at each pixel; rows of the item table are in the order of (date, id)."""
    order = sorted(world.items, key=lambda item: (item["properties"]["datetime"], item["id"]))
    names = np.array([*[item["id"] for item in order], ""])
    return np.asarray(names[np.minimum(dataset["source"].to_numpy()[0], len(order))])


def test_a_composite_decides_who_is_seen_where_items_overlap(world: World, plain: xr.Dataset, tmp_path: Path) -> None:
    seen = {"first": source_names(plain, world)}
    for composite in ("latest", "least-cloudy"):
        mapped(job_of(world, tmp_path / f"{composite}.zarr", imagery={"composite": composite}))
        seen[composite] = source_names(layers(tmp_path / f"{composite}.zarr"), world)
    both = (seen["first"] == "west") & (seen["latest"] == "north")  # where only these two lie over one another
    assert both.sum() > 10_000
    assert (seen["least-cloudy"][both] == "north").all()  # the other one is the cloudy one
    assert {"west", "middle", "north", "east"} == set(np.unique(seen["latest"])) - {""}


def test_the_median_composite_of_two_is_the_darker_at_each_pixel_and_band(world: World, tmp_path: Path) -> None:
    score = {}
    for composite in ("median", "first", "latest"):
        mapped(job_of(world, tmp_path / f"{composite}.zarr", imagery={"composite": composite}))
        score[composite] = layers(tmp_path / f"{composite}.zarr")["score"].to_numpy()[0, 0]
    names = source_names(layers(tmp_path / "latest.zarr"), world)
    two = names == "north"
    darker = np.minimum(score["first"], score["latest"])  # of two, the lower: it is a value that was seen
    assert two.sum() > 10_000
    assert (score["median"][two] == darker[two]).all()
