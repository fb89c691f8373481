"""The map in the browser: what it answers, what it refuses, and that it shows what it should."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from typer.testing import CliRunner

from jobs.cli import app as commands
from jobs.preview.app import app
from mapper.errors import MosaicError, QuestionError
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from mapper.web.tile_picture import png
from mapper.web.webtiles import WebTiles
from tests.jobs.four_quarters import HOSTILE, ITEM, made, served


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Mosaic:
    return made(tmp_path_factory.mktemp("preview") / "map.zarr")


@pytest.fixture(scope="module")
def root(mosaic: Mosaic) -> Iterator[str]:
    with served(app({"map": mosaic.url})) as address:
        yield address


@pytest.fixture
def client(root: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=root) as client:
        yield client


def middle_of(mosaic: Mosaic, row: int, column: int) -> tuple[float, float]:
    """Longitude and latitude of the middle of a quarter."""
    west, south, east, north = WebTiles(mosaic).bounds
    return west + (east - west) * (0.25 + 0.5 * column), north - (north - south) * (0.25 + 0.5 * row)


# Answers -------------------------------------------------------------------------------------------------------------


def test_the_first_page_leads_to_the_one_map(client: httpx.Client) -> None:
    page = client.get("/", follow_redirects=True)
    assert page.url.path == "/map/"
    assert "Four quarters" in page.text
    assert "the buildings" in page.text


def test_several_maps_are_listed(mosaic: Mosaic) -> None:
    with served(app({"one": mosaic.url, "two": mosaic.url})) as address:
        assert all(f'href="{name}/"' in httpx.get(f"{address}/").text for name in ("one", "two"))
        assert httpx.get(f"{address}/two/mosaic.json").json()["mosaic"] == mosaic.url


def test_the_page_is_also_json(client: httpx.Client, mosaic: Mosaic) -> None:
    told = client.get("/map/mosaic.json").json()
    assert [prompt["expression"] for prompt in told["prompts"]] == ["the buildings", HOSTILE]
    assert [time["begins"] for time in told["times"]] == ["2023-05-01T00:00:00Z", "2024-05-01T00:00:00Z"]
    assert told["bounds"] == list(WebTiles(mosaic).bounds)
    assert (told["growing"], told["made_by"], told["grids"][0]["crs"]) == (False, {"model": "pocket"}, "EPSG:32633")
    assert {line["name"] for line in told["prompts"][0]["legend"]} > {"present", "absent", "unobserved", "unmapped"}


@pytest.mark.parametrize("layer", ["mask", "score"])
def test_a_tile_is_the_mosaics(client: httpx.Client, mosaic: Mosaic, layer: Any) -> None:
    place = (11, 1092, 643)
    answer = client.get(f"/map/tiles/{layer}/0/1/{place[0]}/{place[1]}/{place[2]}.png")
    values = WebTiles(mosaic).tile(*place, prompt=0, time=1, layer=layer)
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == png(values, prompt=0, layer=layer)
    assert (values != UNMAPPED).any()


def test_a_tile_the_browser_has_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/map/tiles/mask/0/1/11/1092/643.png")
    again = client.get(first.url.path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("quarter", "answer", "probability"),
    [((0, 0), "present", 0.8), ((0, 1), "absent", 0.0), ((1, 0), "unobserved", None), ((1, 1), "unmapped", None)],
)
def test_a_place_has_its_answer_its_probability_and_its_scene(
    client: httpx.Client, mosaic: Mosaic, quarter: tuple[int, int], answer: str, probability: float | None
) -> None:
    lon, lat = middle_of(mosaic, *quarter)
    told = client.get("/map/value", params={"lon": lon, "lat": lat, "time": 1}).json()
    assert [(each["answer"], each["probability"]) for each in told["prompts"]] == [(answer, probability)] * 2
    seen = {"row": 0, "item": ITEM["id"], "datetime": "2024-05-03T10:00:00Z", "collection": "tests"}
    assert told["source"] == (seen if answer in ("present", "absent") else None)
    assert told["time"] == "2024-05-01T00:00:00Z"


def test_tilejson_leads_to_the_tiles(client: httpx.Client, mosaic: Mosaic) -> None:
    told = client.get("/map/tiles.json", params={"prompt": 0, "time": 1}).json()
    assert (told["tilejson"], told["name"], told["maxzoom"]) == ("3.0.0", "the buildings", WebTiles(mosaic).max_zoom)
    address = told["tiles"][0].format(z=11, x=1092, y=643)
    assert httpx.get(address).content == client.get("/map/tiles/mask/0/1/11/1092/643.png").content


def test_tilejson_shows_the_latest_step_unless_told(client: httpx.Client) -> None:
    assert "/tiles/mask/0/1/" in client.get("/map/tiles.json").json()["tiles"][0]


def test_it_works_below_another_application(mosaic: Mosaic) -> None:
    with served(Starlette(routes=[Mount("/maps", app({"map": mosaic.url}))])) as address:
        page = httpx.get(f"{address}/maps/", follow_redirects=True)
        assert page.url.path == "/maps/map/"
        assert httpx.get(page.url.join("../static/preview.js")).status_code == 200
        (tiles,) = httpx.get(page.url.join("tiles.json")).json()["tiles"]
        assert httpx.get(tiles.format(z=11, x=1092, y=643)).status_code == 200


def test_a_sentence_added_while_people_look_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.preview.shown.NEW_AFTER_S", 0.0)
    mosaic = made(tmp_path / "map.zarr", state="running")
    with served(app({"map": mosaic.url})) as address:
        assert httpx.get(f"{address}/map/mosaic.json").json()["growing"] is True
        mosaic.add_prompts([Prompt(name="tree", expression="every tree", threshold=0.5)])
        assert len(httpx.get(f"{address}/map/mosaic.json").json()["prompts"]) == 3
        assert httpx.get(f"{address}/map/tiles/mask/2/1/11/1092/643.png").status_code == 200


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/map/", "/map/mosaic.json", "/map/tiles/mask/0/1/3/4/2.png", "/nothing", "/static/x"]
)
def test_every_answer_tells_the_browser_to_be_careful(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_a_page_of_another_site_cannot_reach_it_by_a_name_of_its_own(client: httpx.Client) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"):
        assert client.get("/map/mosaic.json", headers={"Host": host}).status_code == 400
    assert client.get("/map/mosaic.json", headers={"Host": "localhost:1"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/map/", "/map/mosaic.json", "/map/tiles/mask/0/1/3/4/2.png", "/static/preview.js"])
def test_nothing_can_be_changed(client: httpx.Client, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 405
    assert client.head(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/other/",
        "/map/tiles/mask/0/1/3/8/0.png",
        "/map/tiles/mask/0/1/99/0/0.png",
        "/map/tiles/mask/2/1/3/4/2.png",
        "/map/tiles/mask/0/2/3/4/2.png",
        "/map/tiles/source/0/1/3/4/2.png",
        "/map/tiles/mask/0/1/3/-4/2.png",
        "/map/tiles/mask/0/1/3/4/²2.png",
        "/map/tiles/mask/0/1/3/4/" + "9" * 5000 + ".png",
        "/map/value",
        "/map/value?lon=nan&lat=1",
        "/map/value?lon=1e999&lat=1",
        "/map/value?lon=1&lat=91",
        "/map/value?lon=1&lat=1&time=7",
        "/map/tiles.json?prompt=9",
        "/map/tiles.json?layer=../../mask",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2fapp.py",
        "/map/tiles/..%2f..%2f0/0/1/3/4/2.png",
        "/%2e%2e/%2e%2e/etc/passwd",
    ],
)
def test_what_is_not_there_is_not_found_and_says_why(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]


def test_words_of_strangers_stay_words(client: httpx.Client) -> None:
    page = client.get("/map/").text
    assert "<img" not in page
    assert page.count("<script") == 1
    assert "&lt;/script&gt;" in page


def test_a_damaged_shard_is_an_error_and_no_map(tmp_path: Path) -> None:
    mosaic = made(tmp_path / "map.zarr")
    damaged = Path(mosaic.url) / "0" / "mask" / "c" / "0" / "1" / "0" / "0"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    lon, lat = middle_of(mosaic, 0, 0)
    with served(app({"map": mosaic.url})) as address:
        answer = httpx.get(f"{address}/map/value", params={"lon": lon, "lat": lat, "time": 1})
    assert answer.status_code == 503
    assert "is damaged" in answer.json()["error"]
    assert str(tmp_path) not in answer.text


# The command ---------------------------------------------------------------------------------------------------------


@contextmanager
def started(url: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command, running; killed at the end if it is running still."""
    command = [sys.executable, "-m", "jobs.cli", "preview", url, *(options or ["--no-open"])]
    narrow = os.environ | {"COLUMNS": "40"}
    with subprocess.Popen(command, text=True, env=narrow, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def lines(running: subprocess.Popen[str], last: str) -> list[str]:
    """What it prints, until a line that begins so; all of it where it ends before."""
    assert running.stdout is not None
    said: list[str] = []
    for line in running.stdout:
        said.append(line)
        if line.startswith(last):
            return said
    assert running.stderr is not None
    raise AssertionError(running.stderr.read())


def test_the_command_says_where_the_map_is_and_ends_well_with_ctrl_c(mosaic: Mosaic) -> None:
    with started(mosaic.url, "--no-open", "--json") as running:
        told = json.loads("".join(lines(running, "}")))
        with httpx.Client() as client:  # a connection that is open still, as a browser's is
            assert client.get(told["url"]).status_code == 200
            assert client.get(told["tilejson"]).json()["tiles"] == [told["tiles"]]
            assert client.get(told["tiles"].format(z=11, x=1092, y=643)).headers["content-type"] == "image/png"
            running.send_signal(signal.SIGINT)
            _, complaints = running.communicate(timeout=60)
    assert (running.returncode, complaints) == (0, "")


def test_people_are_told_the_address_for_qgis(mosaic: Mosaic) -> None:
    with started(mosaic.url) as running:
        first, second, _ = lines(running, "Ctrl-C")
    assert first.split()[0] == "Map"
    assert second.split()[:2] == ["QGIS", first.split()[1] + "tiles/mask/0/1/{z}/{x}/{y}.png"]


def test_the_browser_is_opened_at_the_map(mosaic: Mosaic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.draft\nmv {opened}.draft {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    with started(mosaic.url, "--open") as running:
        first, *_ = lines(running, "Ctrl-C")
        while not opened.exists() and running.poll() is None:
            time.sleep(0.05)
    assert opened.read_text().strip() == first.split()[1]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.com"])
def test_it_is_for_this_machine_alone(mosaic: Mosaic, host: str) -> None:
    asked = CliRunner().invoke(commands, ["preview", mosaic.url, "--host", host, "--no-open"])
    assert isinstance(asked.exception, QuestionError)
    assert "this machine alone" in asked.exception.what
    assert "ssh -L" in asked.exception.fix


def test_a_port_that_is_taken_is_said_so(mosaic: Mosaic) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        asked = CliRunner().invoke(commands, ["preview", mosaic.url, "--port", port, "--no-open"])
    assert isinstance(asked.exception, QuestionError)
    assert "Address already in use" in asked.exception.what


def test_what_is_no_mosaic_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    asked = CliRunner().invoke(commands, ["preview", str(tmp_path / "none.zarr"), "--no-open"])
    assert isinstance(asked.exception, MosaicError)
