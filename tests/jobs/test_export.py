"""``resmap export``: which files are written, what they are called, and what is said when they cannot be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from PIL import Image
from pmtiles.tile import deserialize_header
from rasterio.warp import transform_geom
from shapely.geometry import box, shape

from mapper.exports.chosen import file_stem
from mapper.masks import UNMAPPED
from mapper.mosaic import Mosaic
from mapper.names import slug
from tests.stories.command_line import Resmap
from tests.stories.world import World, mapped

WARM, COLD = {"name": "warm", "expression": "what is red"}, {"name": "CON/../é", "expression": "what is blue"}


@pytest.fixture(scope="module")
def monthly(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts, two time steps, one grid."""
    folder = tmp_path_factory.mktemp("monthly") / "map.zarr"
    mapped(world.job(folder, prompts=[WARM, COLD], imagery={"time_step": "year", "collections": ["resmap-demo"]}))
    return folder


@pytest.fixture(scope="module")
def zoned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One prompt, one time step, two zones."""
    folder = tmp_path_factory.mktemp("zoned") / "map.zarr"
    mapped(world.job(folder, grid={"crs": "utm"}))
    return folder


def test_a_folder_takes_every_prompt_and_time_step(resmap: Resmap, monthly: Path, tmp_path: Path) -> None:
    said = resmap("export", "cog", monthly, "--out", tmp_path / "maps", "--json")
    assert said.status == 0
    written = said.document["written"]
    assert [(one["prompt"], one["time"][:4]) for one in written] == [
        ("warm", "2024"),
        ("warm", "2025"),
        (COLD["name"], "2024"),
        (COLD["name"], "2025"),
    ]
    on_disk = {path.name: path.stat().st_size for path in (tmp_path / "maps").glob("*.tif")}
    assert on_disk == {Path(one["path"]).name: one["bytes"] for one in written}
    assert said.document["bytes"] == sum(on_disk.values())
    assert Path(written[0]["path"]).name in said.err


def test_a_file_takes_the_latest_time_step(resmap: Resmap, monthly: Path, tmp_path: Path) -> None:
    assert resmap("export", "cog", monthly, "-o", tmp_path / "x.tif", "-p", "warm").status == 0
    with rasterio.open(tmp_path / "x.tif") as file:
        assert file.tags()["RESMAP_TIME"] == "2025-01-01T00:00:00Z"
        assert file.tags()["RESMAP_RUN"].startswith("small-world-")
    assert resmap("export", "cog", monthly, "-o", tmp_path / "y.tif", "-p", "warm", "-t", "2024").status == 0
    with rasterio.open(tmp_path / "y.tif") as file:
        assert file.tags()["RESMAP_TIME"] == "2024-01-01T00:00:00Z"


def test_a_map_is_cut_to_the_area_that_was_asked_for(resmap: Resmap, world: World, zoned: Path, tmp_path: Path) -> None:
    assert resmap("export", "cog", zoned, "-o", tmp_path, "--layer", "score").status == 0
    grids = {grid.name: grid for grid in Mosaic.open(str(zoned), writable=False).grids}
    files = sorted(tmp_path.glob("*-score.tif"))
    assert [path.stem.split("_")[-1] for path in files] == ["utm32n-score", "utm33n-score"]
    for path, grid in zip(files, grids.values(), strict=True):
        with rasterio.open(path) as file:
            pixels, frame = file.read(1), box(*file.bounds)
            there = shape(transform_geom(grid.lattice.crs, "EPSG:4326", frame.__geo_interface__))
        stored = Mosaic.open(str(zoned), writable=False).layer(grid, "score", grid.box, time=0)
        assert (pixels != UNMAPPED).sum() == (stored != UNMAPPED).sum() > 0
        assert pixels.size < stored.size
        assert there.intersects(box(*world.area))


def test_a_picture_of_all_prompts_or_of_one(resmap: Resmap, monthly: Path, zoned: Path, tmp_path: Path) -> None:
    assert resmap("export", "png", monthly, "-o", tmp_path / "both").status == 0
    names = sorted(path.name for path in (tmp_path / "both").iterdir())
    assert names == ["20240101T000000Z.png", "20250101T000000Z.png"]
    assert resmap("export", "png", monthly, "-o", tmp_path / "one", "-p", "warm", "-t", "2024").status == 0
    assert [path.name for path in (tmp_path / "one").iterdir()] == [f"{slug('warm')}_20240101T000000Z.png"]
    assert resmap("export", "png", zoned, "-o", tmp_path / "z.png", "--px", 300).status == 0
    with Image.open(tmp_path / "z.png") as page:
        assert len(np.unique(np.asarray(page).reshape(-1, 3), axis=0)) > 10


def test_objects_go_to_a_file_of_all_prompts_or_to_one_a_prompt(resmap: Resmap, monthly: Path, tmp_path: Path) -> None:
    assert resmap("export", "vectors", monthly, "-o", tmp_path / "all.fgb", "--kind", "points").status == 0
    assert set(gpd.read_file(tmp_path / "all.fgb")["prompt"]) == {"warm", COLD["name"]}
    said = resmap("export", "vectors", monthly, "-o", tmp_path / "each", "-t", "2024", "--json")
    assert [one["prompt"] for one in said.document["written"]] == ["warm", COLD["name"]]
    for one in said.document["written"]:
        objects = gpd.read_parquet(one["path"])
        assert set(objects["prompt"]) == {one["prompt"]}
        assert len(objects) > 0


def test_a_web_map_is_one_file_a_prompt(resmap: Resmap, monthly: Path, tmp_path: Path) -> None:
    said = resmap("export", "pmtiles", monthly, "-o", tmp_path, "-p", "warm", "--json")
    assert said.status == 0
    for one in said.document["written"]:
        content = Path(one["path"]).read_bytes()
        header = deserialize_header(content[:127])
        assert header["tile_entries_count"] > 0
    assert len(list(tmp_path.glob("*.pmtiles"))) == 2


def test_names_of_files_hold_nothing_of_a_strangers_text_and_tell_twins_apart() -> None:
    step = datetime(2024, 6, 20, 10, 30, tzinfo=UTC)
    names = ["CON", "..", "a/b", "a\\b", "a b", "é", "e\N{COMBINING ACUTE ACCENT}", "x" * 300, "nul.", "\N{SNOWMAN}"]
    stems = [file_stem(prompt=name, time=step, zone="utm32n") for name in names]
    assert len(set(stems)) == len(names)
    for stem in stems:
        assert stem.endswith("_20240620T103000Z_utm32n")
        assert set(stem.split("_")[0]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert len(stem.split("_")[0]) <= 51
        assert stem.split("_")[0].strip("-")


@pytest.mark.parametrize(
    ("words", "status", "says", "remedy"),
    [
        (["-o", "x.tif"], 2, "2 prompts", "warm"),
        (["-o", "x.tif", "-p", "warn"], 2, "no prompt 'warn'", "did you mean warm?"),
        (["-o", "x.tif", "-p", "warm", "-t", "2023"], 2, "2023", "2024"),
        (["-o", "x.tif", "-p", "warm", "--zone", "utm1n"], 2, "no zone", "leave the zone out"),
        (["-o", "x.jpg"], 2, ".jpg", ".tif"),
        (["-o", "s3://bucket/x.tif"], 2, "this machine only", "give a path"),
        (["-o", "/proc/nowhere/maps"], 3, "nothing can be written", "choose another --out"),
        (["-o", "/proc/x.tif", "-p", "warm"], 3, "cannot be written", "choose another --out"),
    ],
)
def test_what_cannot_be_written_is_said_with_what_to_do(
    resmap: Resmap,
    monthly: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    status: int,
    says: str,
    remedy: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = resmap("export", "cog", monthly, *words)
    assert said.status == status
    assert says in said.complaint
    assert remedy in said.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["cog", "png", "vectors", "pmtiles", "stac"])
def test_what_is_no_mosaic_is_told_so(resmap: Resmap, tmp_path: Path, kind: str) -> None:
    said = resmap("export", kind, tmp_path / "nothing.zarr", "--out", tmp_path / "out")
    assert said.status == 3
    assert "no mosaic here" in said.complaint
    assert not (tmp_path / "out").exists()


def test_one_file_in_the_way_and_none_is_written(resmap: Resmap, monthly: Path, tmp_path: Path) -> None:
    last = tmp_path / f"{slug(COLD['name'])}_20250101T000000Z.tif"
    last.write_text("precious")
    said = resmap("export", "cog", monthly, "-o", tmp_path)
    assert said.status == 3
    assert "--force" in said.remedy
    assert list(tmp_path.iterdir()) == [last]
    assert last.read_text() == "precious"
    assert resmap("export", "cog", monthly, "-o", tmp_path, "--force").status == 0
    assert len(list(tmp_path.glob("*.tif"))) == 4


def test_help_tells_what_a_file_and_what_a_folder_takes(resmap: Resmap) -> None:
    said = resmap("export", "--help")
    assert said.status == 0
    for word in ("cog", "png", "vectors", "pmtiles", "stac", "folder"):
        assert word in said.out
