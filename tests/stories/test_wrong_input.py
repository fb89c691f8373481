"""Whatever is wrong with what we are given is said in one sentence, with what to do; and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import yaml
from affine import Affine

from mapper.masks import PRESENT, UNMAPPED
from tests.servers import Fault, files_over_http
from tests.stories.command_line import Resmap, Said
from tests.stories.world import World, item_of, layers, mapped, write_catalog, write_tiff

INVALID = 3


def write(folder: Path, job: Mapping[str, Any]) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(dict(job), allow_unicode=True))
    return path


def assert_refused(said: Said, folder: Path, *, status: int = INVALID, names: str, remedy: str) -> None:
    """One sentence and a remedy on stderr, nothing on stdout, no mosaic, and no trace of how the code got there."""
    assert said.status == status, said.err
    assert names in said.complaint
    assert remedy in said.remedy
    assert said.out == ""
    assert "Traceback" not in said.err
    assert not (folder / "map.zarr").exists()


# What can be told from the job file alone.

Changes: TypeAlias = dict[str, Any]


def asking(expression: str) -> Changes:
    return {"prompts": [{"name": "p", "expression": expression}]}


FAULTS: dict[str, tuple[Changes, str, str]] = {
    # fault → what is changed in a good job, what is named, the remedy
    "a misspelt key": (
        {"grid": {"shard_pixels": 128}},
        "grid.shard_pixels is not a key (did you mean shard_px?)",
        "resmap schema",
    ),
    "a misspelt section": ({"promts": []}, "promts is not a key (did you mean prompts?)", "resmap schema"),
    "a missing section": ({"imagery": None}, "imagery is missing", "resmap schema"),
    "shards that are not whole chunks": (
        {"grid": {"shard_px": 160}},
        "shard_px 160 is not a multiple of chunk_px 64",
        "resmap schema",
    ),
    "a CRS that is none": ({"grid": {"crs": "EPSG:123456789"}}, "'EPSG:123456789' is no CRS", "EPSG:32645"),
    "a CRS in degrees": ({"grid": {"crs": "EPSG:4326"}}, "counts in degrees", "projected CRS"),
    "a model that is not there": (
        {"model": {"name": "color"}},
        "there is no model named 'color'",
        "did you mean colour?",
    ),
    "windows that overlap too much": (
        {"windows": {"overlap_px": 90}},
        "cannot overlap by 90 px",
        "windows.overlap_px",
    ),
    "a prompt of control characters": (
        asking("red\x1b[31m roofs"),
        "prompts.0: a prompt's expression has control characters",
        "",
    ),
    "a prompt that is a document": (asking("roof " * 200), "at most 500", ""),
    "a prompt of blanks": (asking("  "), "prompts.0: a prompt's expression is empty", ""),
    "two prompts of one name": (
        {"prompts": [{"name": "p", "expression": "red"}, {"name": "p", "expression": "blue"}]},
        "two prompts are named p",
        "resmap schema",
    ),
    "an area that is turned around": ({"area": {"bbox": [12.01, 54.99, 11.99, 55.01]}}, "west < east", "resmap schema"),
    "an area without a surface": ({"area": {"wkt": "LINESTRING(12 55, 12.1 55)"}}, "no surface", "polygon"),
    "weights of another digest": (
        {"model": {"weights": "job.yaml", "sha256": "0" * 64}},
        "the job asks for 000000000000",
        "model.sha256",
    ),
    "weights that are not there": (
        {"model": {"weights": "gone.safetensors", "sha256": "0" * 64}},
        "weights cannot be read",
        "model.weights",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_job_file_is_named(world: World, resmap: Resmap, tmp_path: Path, fault: str) -> None:
    changes, names, remedy = FAULTS[fault]
    job = write(tmp_path, world.job(tmp_path / "map.zarr", **changes))
    assert_refused(resmap("run", "--local", job), tmp_path, names=names, remedy=remedy)


def test_every_fault_of_a_job_file_is_named_at_once(world: World, resmap: Resmap, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"grid": {"shard_px": -1}, "imagery": {"bands": []}, "outptu": {}}
    said = resmap("run", write(tmp_path, world.job(tmp_path / "map.zarr", **changes)))
    assert all(place in said.complaint for place in ("grid.shard_px", "imagery.bands", "outptu"))


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"name: [unclosed\narea: x", "not YAML at line"),
        (b"name: caf\xe9", "not UTF-8"),
        (b"- a\n- list", "not a mapping"),
        (b"", "not a mapping"),
    ],
)
def test_a_file_that_is_no_job_is_refused(resmap: Resmap, tmp_path: Path, content: bytes, names: str) -> None:
    (tmp_path / "job.yaml").write_bytes(content)
    assert_refused(resmap("run", tmp_path / "job.yaml"), tmp_path, names=names, remedy="")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_job_file_that_is_missing_is_named(resmap: Resmap, tmp_path: Path, command: str) -> None:
    said = resmap(command, tmp_path / "gone.yaml")
    assert_refused(said, tmp_path, names="cannot be read", remedy="path")
    assert "gone.yaml" in said.err


def test_usage_that_is_wrong_exits_2(resmap: Resmap) -> None:
    assert resmap("run", "--gpus", "none", "job.yaml").status == 2
    assert resmap("walk").status == 2


# What the catalog tells.


def test_a_band_that_no_item_has_is_named_beside_those_it_has(world: World, resmap: Resmap, tmp_path: Path) -> None:
    job = write(tmp_path, world.job(tmp_path / "map.zarr", imagery={"bands": ["red", "green", "blu"]}))
    assert_refused(
        resmap("run", "--local", job), tmp_path, names="no band 'blu'; it has image, scl, red", remedy="blue"
    )


def test_a_collection_that_is_not_there_is_named(world: World, resmap: Resmap, tmp_path: Path) -> None:
    job = write(tmp_path, world.job(tmp_path / "map.zarr", imagery={"collections": ["resmap-dem"]}))
    assert_refused(resmap("run", "--local", job), tmp_path, names="no collection 'resmap-dem'", remedy="resmap-demo")


@pytest.mark.parametrize(
    ("imagery", "names", "remedy"),
    [
        ({"datetime": "1990-01-01/1990-12-31"}, "lies in the dates", "imagery.datetime"),
        ({"filter": "eo:cloud_cover < 0"}, "filter is true of none", "imagery.filter"),
        ({"filter": "cloud_cover <"}, "not CQL2", "eo:cloud_cover < 20"),
        ({"filter": "eo:cloud_cove < 10"}, "eo:cloud_cove", "eo:cloud_cover"),
        ({"datetime": "yesterday"}, "yesterday", "2020"),
    ],
)
def test_a_search_without_an_answer_says_which_condition_left_nothing(
    world: World, resmap: Resmap, tmp_path: Path, imagery: dict[str, Any], names: str, remedy: str
) -> None:
    job = write(tmp_path, world.job(tmp_path / "map.zarr", imagery=imagery))
    assert_refused(resmap("run", "--local", job), tmp_path, names=names, remedy=remedy)


@pytest.mark.parametrize("bbox", [[30.0, 10.0, 30.1, 10.1], [12.0150, 54.998, 12.0152, 54.9982]], ids=["far", "near"])
def test_an_area_without_imagery_is_refused(world: World, resmap: Resmap, tmp_path: Path, bbox: list[float]) -> None:
    job = write(tmp_path, world.job(tmp_path / "map.zarr", area={"bbox": bbox}))
    said = resmap("run", "--local", job)
    assert_refused(said, tmp_path, names="in the area", remedy="area")


def test_a_catalog_that_is_not_reachable_is_named(world: World, resmap: Resmap, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/stac"
    job = write(tmp_path, world.job(tmp_path / "map.zarr", imagery={"catalog": url}))
    said = resmap("run", "--local", job)
    assert_refused(said, tmp_path, status=1, names="", remedy="")
    assert url in said.err


def test_a_catalog_that_refuses_us_exits_5(world: World, resmap: Resmap, tmp_path: Path) -> None:
    with files_over_http(world.folder) as served:
        served.fail("/catalog.json", Fault(status=401))
        job = write(tmp_path, world.job(tmp_path / "map.zarr", imagery={"catalog": f"{served.url}/catalog.json"}))
        assert_refused(resmap("run", "--local", job), tmp_path, status=5, names="", remedy="")


def test_a_catalog_that_is_a_file_and_missing_is_named(world: World, resmap: Resmap, tmp_path: Path) -> None:
    job = write(tmp_path, world.job(tmp_path / "map.zarr", imagery={"catalog": "gone.json"}))
    said = resmap("run", "--local", job)
    assert_refused(said, tmp_path, status=said.status, names="", remedy="")
    assert said.status in (1, INVALID)
    assert "gone.json" in said.err


def test_items_on_several_pixel_grids_have_no_native_one(world: World, resmap: Resmap, tmp_path: Path) -> None:
    changes = {"grid": {"crs": "native", "resolution_m": None}}
    job = write(tmp_path, world.job(tmp_path / "map.zarr", **changes))
    assert_refused(resmap("run", "--local", job), tmp_path, names="several pixel grids", remedy="resolution_m: 1")


# What the pixels tell.


def test_pixels_of_16_bits_need_a_scale(resmap: Resmap, tmp_path: Path) -> None:
    job = world_of_16_bits(tmp_path)
    said = resmap("run", "--local", write(tmp_path, job))
    assert_refused(said, tmp_path, names="holds uint16", remedy="imagery.scale: {from: [0, 3000]}")


def test_a_job_that_stopped_at_its_first_tile_may_be_put_right_and_run(resmap: Resmap, tmp_path: Path) -> None:
    job = world_of_16_bits(tmp_path)
    assert resmap("run", "--local", write(tmp_path, job)).status == INVALID
    job["imagery"]["scale"] = {"from": [0, 1000]}
    assert resmap("run", "--local", write(tmp_path, job)).status == 0


def world_of_16_bits(folder: Path) -> dict[str, Any]:
    """A job over one item of uint16, whose catalog does not say so."""
    pixels = np.full((3, 128, 128), 900, np.uint16)
    transform = Affine(10, 0, 600000, 0, -10, 6100000)
    file = write_tiff(folder / "deep.tif", pixels, crs="EPSG:32632", transform=transform)
    bands = ("red", "green", "blue")
    item = item_of(file, name="scene", moment="2024-06-01T00:00:00Z", collection="deep", href="deep.tif", bands=bands)
    for band in item["assets"]["image"]["bands"]:
        del band["data_type"]
    catalog = write_catalog(folder, [item])
    return {
        "name": "deep", "area": {"bbox": item["bbox"]}, "imagery": {"catalog": str(catalog)},
        "grid": {"crs": "native", "shard_px": 128, "chunk_px": 64},
        "prompts": [{"name": "warm", "expression": "what is red"}],
        "model": {"name": "colour"}, "windows": {"overlap_px": 32}, "output": {"mosaic": str(folder / "map.zarr")},
    }  # fmt: skip


def test_a_file_that_cannot_be_read_costs_the_tiles_it_serves_and_no_others(
    world: World, resmap: Resmap, tmp_path: Path
) -> None:
    for file in world.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = bytearray((tmp_path / "east.tif").read_bytes())
    broken[2000:] = b"\xff" * (len(broken) - 2000)
    (tmp_path / "east.tif").write_bytes(broken)
    part, imagery = World.rectangle(200, 100, 560, 300), {"catalog": str(tmp_path / "catalog.json")}
    job = write(tmp_path, world.job(tmp_path / "map.zarr", imagery=imagery, area=part))
    said = resmap("run", "--local", "--json", job)
    assert said.status == 4, said.err
    summary = said.document
    assert summary["state"] == "quarantined"
    assert summary["tiles"]["quarantined"] == len(summary["problems"]) > 0
    assert all("/r" in problem["tile"] and "east.tif" in problem["error"] for problem in summary["problems"])
    mapped(world.job(tmp_path / "good.zarr", area=part))
    one, good = layers(tmp_path / "map.zarr"), layers(tmp_path / "good.zarr")
    mask = one["mask"].to_numpy()
    done = mask != UNMAPPED
    assert (mask[done] == good["mask"].to_numpy()[done]).all()
    assert (mask == PRESENT).any()
    again = resmap("run", "--local", "--json", job)
    assert again.status == 4
    assert again.document["worked_tiles"] == 0


def test_tiles_given_up_are_taken_again_when_asked(world: World, resmap: Resmap, tmp_path: Path) -> None:
    for file in world.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    good = (tmp_path / "middle.tif").read_bytes()
    (tmp_path / "middle.tif").write_bytes(good[:500])
    part, imagery = World.rectangle(100, 100, 400, 300), {"catalog": str(tmp_path / "catalog.json")}
    job = write(tmp_path, world.job(tmp_path / "map.zarr", imagery=imagery, area=part))
    assert resmap("run", "--local", job).status == 4
    (tmp_path / "middle.tif").write_bytes(good)
    again = resmap("run", "--local", "--retry", "--json", job)
    assert again.status == 0, again.err
    assert again.document["state"] == "done"
    mapped(world.job(tmp_path / "good.zarr", area=part))
    assert layers(tmp_path / "map.zarr").equals(layers(tmp_path / "good.zarr"))


# Where the mosaic goes, and what it costs.


def test_an_output_below_a_file_cannot_be_made(world: World, resmap: Resmap, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    job = write(tmp_path, world.job(tmp_path / "file" / "map.zarr"))
    said = resmap("run", "--local", job)
    assert_refused(said, tmp_path, names="", remedy="output.mosaic")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_an_output_on_a_filesystem_that_is_read_only_cannot_be_made(
    world: World, resmap: Resmap, tmp_path: Path
) -> None:
    job = write(tmp_path, world.job("/proc/resmap/map.zarr"))  # not even root may write there
    assert_refused(resmap("run", "--local", job), tmp_path, names="", remedy="output.mosaic")


def test_an_output_that_holds_something_else_is_left_alone(world: World, resmap: Resmap, tmp_path: Path) -> None:
    import zarr

    theirs = tmp_path / "theirs.zarr"
    zarr.create_group(str(theirs), zarr_format=3, attributes={"mine": True})
    before = sorted(path.name for path in theirs.rglob("*"))
    job = write(tmp_path, world.job(theirs))
    assert_refused(resmap("run", "--local", job), tmp_path, names="", remedy="output.mosaic")
    assert sorted(path.name for path in theirs.rglob("*")) == before


def test_a_folder_of_other_files_is_not_written_to(world: World, resmap: Resmap, tmp_path: Path) -> None:
    theirs = tmp_path / "holiday"
    theirs.mkdir()
    (theirs / "photo.jpg").write_bytes(b"a beach")
    said = resmap("run", "--local", write(tmp_path, world.job(theirs)))
    assert_refused(said, tmp_path, names="", remedy="output.mosaic")
    assert [path.name for path in theirs.rglob("*")] == ["photo.jpg"]


def test_a_plan_over_the_budget_is_not_run(
    world: World, resmap: Resmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLOUR_SLEEP_S", "0.01")
    compute = {"budget_usd": 0.001, "usd_per_gpu_hour": 1000.0}
    job = write(tmp_path, world.job(tmp_path / "map.zarr", compute=compute))
    assert_refused(resmap("run", "--local", job), tmp_path, names="the budget is $0.00", remedy="compute.budget_usd")


def test_more_gpus_than_the_cluster_has_are_refused(
    world: World, resmap: Resmap, tmp_path: Path, three_gpus: int
) -> None:
    job = write(tmp_path, world.job(tmp_path / "map.zarr"))
    said = resmap("run", "--gpus", three_gpus + 1, job)
    assert_refused(said, tmp_path, status=1, names="cluster with 3 GPUs", remedy="--gpus 3")


def test_an_address_where_no_cluster_answers_is_named(world: World, tmp_path: Path) -> None:
    import subprocess
    import sys

    job = write(tmp_path, world.job(tmp_path / "map.zarr"))
    over = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "run", "--address", "not an address", str(job)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    said = Said(status=over.returncode, out=over.stdout, err=over.stderr)
    assert_refused(said, tmp_path, status=1, names="no Ray cluster answers", remedy="--address")


# Other commands.


def test_a_mosaic_that_is_not_there_cannot_be_verified(resmap: Resmap, tmp_path: Path) -> None:
    assert_refused(resmap("verify", tmp_path / "map.zarr"), tmp_path, names="there is no mosaic here", remedy="path")


def test_a_run_nobody_knows_has_no_status(resmap: Resmap, tmp_path: Path) -> None:
    assert_refused(resmap("status", "nobody-0000"), tmp_path, names="'nobody-0000'", remedy="resmap status")


def test_what_is_said_of_a_strangers_text_cannot_steer_the_terminal(
    world: World, resmap: Resmap, tmp_path: Path
) -> None:
    changes = {"imagery": {"bands": ["red", "\x1b[2J[bold]green"]}}
    said = resmap("run", "--local", write(tmp_path, world.job(tmp_path / "map.zarr", **changes)))
    assert "\x1b" not in said.err
    assert said.status == INVALID


def test_the_right_weights_are_taken(world: World, resmap: Resmap, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    changes = {"model": {"weights": "w.safetensors", "sha256": digest}}
    said = resmap("run", "--local", "--json", write(tmp_path, world.job(tmp_path / "map.zarr", **changes)))
    assert said.status == 0, said.err
    assert json.loads(said.out)["state"] == "done"
