"""``resmap monitor``: from a job file to what changed; every wrong input is a sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import shapely
import yaml

from jobs.areas import geometry_of
from jobs.job import Job
from jobs.monitors.door import admitted
from jobs.monitors.rows import AlertRow
from jobs.monitors.store import Monitors
from jobs.registry import Registry
from tests.stories.command_line import Resmap
from tests.stories.world import World

DAY = timedelta(days=1)
MONITOR = {"schedule": "0 6 * * *", "timezone": "Europe/Paris", "late": "9999d"}

Ask: TypeAlias = Callable[..., Path]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Monitors:
    """A registry of its own."""
    url = f"sqlite:///{tmp_path}/registry.db"
    monkeypatch.setenv("RESMAP_REGISTRY", url)
    return Monitors(Registry(url))


@pytest.fixture
def job(world: World, tmp_path: Path) -> Ask:
    """Writes a job file over two tiles of the small world; its catalog has the named items."""

    def write(*items: str, name: str = "Small world", file: str = "job.yaml", **changes: Any) -> Path:
        found = [item for item in world.items if item["id"] in items]
        (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": found}))
        settings: dict[str, Any] = {
            "name": name, "area": world.rectangle(150, 190, 350, 260),
            "imagery": {"catalog": "items.json", "time_step": "day"}, "monitor": MONITOR,
        }  # fmt: skip
        document = world.job(tmp_path / "map.zarr", **(settings | changes))
        path = tmp_path / file
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def due(store: Monitors, path: Path, *, name: str = "small-world") -> None:
    """A monitor that was added two days ago, so that a tick is due."""
    entry = admitted(Job.from_file(path))
    store.add(name, job=entry.job, mosaic=entry.mosaic, now=datetime.now(UTC) - 2 * DAY)


# A monitor's life ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_a_monitor_is_added_listed_paused_resumed_and_removed(job: Ask, resmap: Resmap) -> None:
    assert "no monitor yet" in resmap("monitor", "list").out
    added = resmap("monitor", "add", job(), "--json").document
    assert (added["name"], added["schedule"]) == ("small-world", "every day at 06:00, Europe/Paris")
    assert datetime.fromisoformat(added["next_at"]) > datetime.now(UTC)
    (line,) = resmap("monitor", "list", "--json").document
    assert (line["name"], line["state"], line["last"], line["new_items"]) == ("small-world", "active", None, None)
    assert "is paused" in resmap("monitor", "pause", "small-world").out
    assert resmap("monitor", "show", "small-world", "--json").document["line"]["next_at"] is None
    assert "is active; next in" in resmap("monitor", "resume", "small-world").out
    assert "every day at 06:00, Europe/Paris" in resmap("monitor", "show", "small-world").out
    assert "has not looked" in resmap("monitor", "history", "small-world").out
    assert "its mosaic stays" in resmap("monitor", "remove", "small-world").out
    assert resmap("monitor", "list", "--json").document == []


def test_a_monitor_maps_what_is_due_once_and_then_what_is_new(store: Monitors, job: Ask, resmap: Resmap) -> None:
    due(store, job("west"))
    (tick,) = resmap("monitor", "run", "--once", "--local", "--json").document
    assert (tick["state"], tick["stands_for"], tick["tiles"]) == ("done", 2, 2)
    assert "nothing is due" in resmap("monitor", "run", "--once", "--local").out
    job("west", "middle")
    said = resmap("monitor", "run", "small-world", "--once", "--now", "--local")
    assert said.status == 0
    assert "done; 2 tiles mapped" in said.out
    last, first = resmap("monitor", "history", "small-world", "--json").document
    assert (first["run"], last["run"]) == (tick["run"], last["run"])
    assert (last["new_items"], last["changed_items"], last["gone_items"], last["tiles"]) == (1, 0, 0, 2)
    assert "2 tiles mapped" in resmap("monitor", "history", "small-world").out
    by_name = resmap("monitor", "changes", "small-world", "--json").document
    assert by_name == resmap("monitor", "changes", by_name["mosaic"], "--json").document
    assert [change["time"][:10] for change in by_name["changes"]] == ["2024-06-20"]  # none from a step before the first
    assert resmap("monitor", "changes", "small-world", "--since", "2024-06-20", "--json").document == by_name
    assert "nothing has been compared since" in resmap("monitor", "changes", "small-world", "--since", "2024-07").out
    assert "2024-06-20" in resmap("monitor", "changes", "small-world").out
    kept = resmap("monitor", "export", "small-world").document
    assert [entry["run"] for entry in kept["ticks"]] == [first["run"], last["run"]]
    assert kept["job"]["monitor"]["schedule"] == "0 6 * * *"


def test_a_catalog_that_is_away_is_said_plainly_and_nothing_is_lost(
    store: Monitors, job: Ask, resmap: Resmap, tmp_path: Path
) -> None:
    due(store, job("west"))
    (tmp_path / "items.json").rename(tmp_path / "away.json")
    assert resmap("monitor", "run", "--once", "--local").status == 1
    (line,) = resmap("monitor", "list", "--json").document
    assert line["last"]["state"] == "failed"
    assert "Nothing is lost" in line["trouble"]
    assert "items.json" in resmap("monitor", "show", "small-world").out
    (tmp_path / "away.json").rename(tmp_path / "items.json")
    assert resmap("monitor", "run", "--once", "--now", "--local").status == 0
    (line,) = resmap("monitor", "list", "--json").document
    assert (line["last"]["state"], line["trouble"]) == ("done", "")


def test_a_tick_that_gave_tiles_up_says_so_and_ends_with_4(
    store: Monitors, job: Ask, resmap: Resmap, world: World, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes(world.files("west")["image"].read_bytes()[:4000])
    path = job("west")
    catalog = json.loads((tmp_path / "items.json").read_text())
    catalog["features"][0]["assets"]["image"]["href"] = str(broken)
    (tmp_path / "items.json").write_text(json.dumps(catalog))
    due(store, path)
    said = resmap("monitor", "run", "--once", "--local")
    assert (said.status, "given up" in said.out) == (4, True)


def test_serve_runs_what_is_due_until_it_is_told_to_end(store: Monitors, job: Ask, tmp_path: Path) -> None:
    path = job(monitor={"schedule": "every 1s"})
    entry = admitted(Job.from_file(path))
    store.add("often", job=entry.job, mosaic=entry.mosaic)
    command = [sys.executable, "-m", "jobs.cli", "monitor", "serve", "--local"]
    with (tmp_path / "said").open("wb") as said:
        serving = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=os.environ.copy())
        try:
            until = time.monotonic() + 60
            while not [tick for tick in store.history("often") if tick.state == "nothing"]:
                assert time.monotonic() < until, (tmp_path / "said").read_text()
                time.sleep(0.1)
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(30) == 0
        finally:
            serving.kill()
            serving.wait(30)
    lines = (tmp_path / "said").read_text().splitlines()
    assert any(line.endswith("Z serving") for line in lines)
    assert any("monitor often, due " in line and "there is no imagery yet" in line for line in lines)


# At the door ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"monitor": None}, "no monitor section"),
        ({"imagery": {"catalog": "items.json", "time_step": "all"}}, "time_step: all"),
        ({"imagery": {"catalog": "items.json", "time_step": "day", "filter": "cloud <"}}, "filter is not CQL2"),
        ({"imagery": {"catalog": "items.json", "time_step": "day", "datetime": "June"}}, "datetime"),
        ({"monitor": MONITOR | {"schedule": "every now and then"}}, "is no interval"),
        ({"monitor": MONITOR | {"schedule": "61 * * * *"}}, "is no cron"),
        ({"monitor": MONITOR | {"timezone": "Europe/Atlantis"}}, "no zone 'Europe/Atlantis'"),
        ({"monitor": MONITOR | {"sinks": [{"name": "hook", "webhook": "http://example.com/x"}]}}, "https"),
        ({"monitor": MONITOR | {"alerts": [{"name": "a", "prompt": "cold", "change": "appeared", "count": 0}]}},
         "of a prompt 'cold'"),
        ({"monitor": MONITOR | {"alerts": [{"name": "a", "prompt": "warm", "change": "appeared", "count": 0,
                                            "within": {"geojson": "gone.geojson"}}]}}, "gone.geojson"),
        ({"area": {"geojson": "gone.geojson"}}, "gone.geojson"),
        ({"model": {"name": "oracle"}}, "oracle"),
        ({"name": "日本"}, "no name for a monitor"),
    ],
)  # fmt: skip
def test_what_would_fail_at_the_first_tick_is_refused(
    store: Monitors, job: Ask, resmap: Resmap, changes: dict[str, Any], complaint: str
) -> None:
    said = resmap("monitor", "add", job(**changes))
    assert said.status == 3
    assert complaint in said.err
    assert said.remedy
    assert store.all() == []


def test_no_two_monitors_share_a_name_or_a_mosaic(store: Monitors, job: Ask, resmap: Resmap) -> None:
    assert resmap("monitor", "add", job()).status == 0
    again = resmap("monitor", "add", job())
    assert (again.status, again.complaint) == (3, "there is a monitor 'small-world' already")
    other = resmap("monitor", "add", job(name="another"), "--name", "Another one")
    assert other.status == 3
    assert "'small-world' already keeps this mosaic current" in other.complaint
    assert len(store.all()) == 1


@pytest.mark.usefixtures("store")
def test_a_mosaic_of_another_job_is_refused(job: Ask, resmap: Resmap, world: World, tmp_path: Path) -> None:
    assert resmap("run", "--local", job("west")).status == 0
    said = resmap("monitor", "add", job("west", area=world.rectangle(150, 190, 300, 260)))
    assert said.status == 3
    assert "made by another job" in said.complaint


def test_a_monitor_needs_neither_the_job_file_nor_the_outline_it_names(
    store: Monitors, world: World, resmap: Resmap, tmp_path: Path, job: Ask
) -> None:
    folder = tmp_path / "lost"
    folder.mkdir()
    outline = shapely.from_wkt(world.rectangle(150, 190, 350, 260)["wkt"]).buffer(0.0001)
    (folder / "area.geojson").write_text(shapely.to_geojson(outline))
    (folder / "ward.geojson").write_text(shapely.to_geojson(outline))
    rule = {"name": "a", "prompt": "warm", "change": "appeared", "count": 0, "within": {"geojson": "ward.geojson"}}
    section = MONITOR | {"alerts": [rule], "sinks": [{"name": "kept", "file": "alerts.parquet"}]}
    path = job(area={"geojson": "area.geojson"}, monitor=section, file="lost/job.yaml")
    meant = geometry_of(Job.from_file(path).spec.area, folder=folder)
    assert resmap("monitor", "add", path).status == 0
    shutil.rmtree(folder)
    kept = Job.from_dict(json.loads(store.get("small-world").job), folder="/").spec
    assert shapely.to_wkb(geometry_of(kept.area, folder=Path("/"))) == shapely.to_wkb(meant)
    assert kept.monitor is not None
    assert kept.monitor.sinks[0].file == str(folder / "alerts.parquet")
    assert kept.monitor.alerts[0].within is not None
    assert kept.monitor.alerts[0].within.geojson == str(folder / "ward.geojson")


def test_what_lacks_here_is_noted_and_no_secret_address_is_shown(
    store: Monitors, job: Ask, resmap: Resmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    sinks = [{"name": "hook", "webhook": "https://hooks.example.com/T0KEN", "secret": "THE_SECRET"}]
    rule = {"name": "a", "prompt": "warm", "change": "vanished", "area_m2": 20_000}
    path = job(monitor=MONITOR | {"alerts": [rule], "sinks": sinks}, imagery={
        "catalog": "items.json", "time_step": "day", "datetime": "2020-01-01/2021-01-01"})  # fmt: skip
    said = resmap("monitor", "add", path)
    assert "THE_SECRET is not set here" in said.err
    assert "imagery.datetime ends on 2021-01-01" in said.err
    store.remove("small-world")
    monkeypatch.setenv("THE_SECRET", "whsec_c2VjcmV0")
    assert "THE_SECRET" not in resmap("monitor", "add", path).err
    for shown in (resmap("monitor", "show", "small-world"), resmap("monitor", "show", "small-world", "--json")):
        assert "T0KEN" not in shown.out
        assert "hook (webhook)" in shown.out
        assert "warm vanished, more than 2 ha" in shown.out.replace("\u00a0", " ").replace("\\u00a0", " ")


# Wrong input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "history", "run", "pause", "resume", "remove", "export"])
def test_an_unknown_name_is_told_what_is_there(store: Monitors, job: Ask, resmap: Resmap, command: str) -> None:
    due(store, job())
    said = resmap("monitor", command, "smal-world")
    assert (said.status, said.complaint) == (2, "no monitor is named 'smal-world'")
    assert said.remedy == "did you mean small-world?"


def test_changes_of_nothing_and_since_no_date_are_sentences(store: Monitors, job: Ask, resmap: Resmap) -> None:
    due(store, job())
    said = resmap("monitor", "changes", "smal-world")
    assert (said.status, said.remedy) == (2, "did you mean small-world?")
    said = resmap("monitor", "changes", "small-world", "--since", "yesterday")
    assert (said.status, said.complaint) == (2, "--since 'yesterday' is no date")
    assert "nothing has been compared" in resmap("monitor", "changes", "small-world").out


def test_to_look_now_is_of_one_active_monitor(store: Monitors, job: Ask, resmap: Resmap) -> None:
    assert "there are 0" in resmap("monitor", "run", "--now").complaint
    due(store, job())
    store.pause("small-world")
    said = resmap("monitor", "run", "--now", "--local")
    assert (said.status, said.complaint) == (2, "monitor small-world is paused")
    assert store.get("small-world").asked is None


def test_what_strangers_wrote_steers_no_terminal(store: Monitors, job: Ask, resmap: Resmap) -> None:
    resmap("monitor", "add", job())
    now = datetime.now(UTC)
    bad = AlertRow(key="k", monitor="small-world", due=now, sink="hook", body="{}", created=now, attempts=1,
                   next_try=now, error="\x1b[2J[bold]gone")  # fmt: skip
    store.enqueue([bad])
    shown = resmap("monitor", "list").out
    assert "\x1b" not in shown
    assert "[bold]gone" in shown
