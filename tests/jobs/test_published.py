"""A mosaic as a STAC catalog: valid, honest about place and time, whole wherever it is put, and without a secret."""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pystac
import pystac_client
import pytest
import stac_pydantic
import xarray as xr
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from shapely.geometry import box, shape

from catalogs.snapshot import thaw
from jobs.ledger import RunFolder, run_names
from jobs.mapped import levels_stand
from jobs.stac.published import FORMATS, Published, publish
from mapper.errors import MosaicError, QuestionError
from mapper.layout import MosaicSpec
from mapper.models.fetch import sha256_of
from mapper.mosaic import Mosaic
from tests.jobs.stac_examples import GRID, POCKET, PROMPTS, documents, item_document, on_earth, read, told_mosaic
from tests.jobs.stac_rules import EXTENSIONS, SCHEMAS, described
from tests.stories.command_line import Resmap
from tests.stories.world import World, mapped

CANARY = "c4n4ry"


@pytest.fixture(scope="module")
def zoned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mapped mosaic of two zones."""
    folder = tmp_path_factory.mktemp("zoned") / "map.zarr"
    mapped(world.job(folder, grid={"crs": "utm"}))
    return folder


@pytest.fixture(scope="module")
def full(zoned: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Its catalog, with exports beside it and a map to look at."""
    out = tmp_path_factory.mktemp("full")
    return publish(str(zoned), out, formats=FORMATS, xyz="https://example.com/{z}/{x}/{y}.png")


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A catalog with the model that ships."""
    folder = tmp_path_factory.mktemp("modelled")
    return publish(told_mosaic(folder / "map.zarr"), folder / "stac")


def test_every_document_is_stac_1_1(full: Published, modelled: Published) -> None:
    kinds = {"Catalog": pystac.STACObjectType.CATALOG, "Collection": pystac.STACObjectType.COLLECTION}
    found = [*documents(full.catalog.parent), *documents(modelled.catalog.parent)]
    for path, document in found:
        kind = kinds.get(document["type"], pystac.STACObjectType.ITEM)
        assert document["stac_version"] == "1.1.0"
        JsonSchemaSTACValidator().validate_core(document, kind, "1.1.0", str(path))
    assert len(found) == 4 + 4


def test_another_reading_of_the_standard_takes_every_document(full: Published, modelled: Published) -> None:
    models: dict[str, Any] = {
        "Catalog": stac_pydantic.Catalog,
        "Collection": stac_pydantic.Collection,
        "Feature": stac_pydantic.Item,
    }
    for _, document in [*documents(full.catalog.parent), *documents(modelled.catalog.parent)]:
        read_back = models[document["type"]].model_validate(document)
        assert read_back.id == document["id"]


@pytest.mark.parametrize("prefix", EXTENSIONS)
def test_what_an_extension_defines_is_declared_and_is_what_it_defines(
    full: Published, modelled: Published, prefix: str
) -> None:
    schema, fields = EXTENSIONS[prefix]
    seen: set[str] = set()
    for path, document in [*documents(full.catalog.parent), *documents(modelled.catalog.parent)]:
        used = [
            (name, value)
            for part in described(document)
            for name, value in part.items()
            if name in fields or (name.startswith(f"{prefix}:") and prefix != "mlm")
        ]
        for name, value in used:
            assert fields[name](value), (path, name, value)
        seen |= {name for name, _ in used}
        summarised = any(name.startswith(f"{prefix}:") for name in document.get("summaries", {}))
        defined = any(
            name.startswith(f"{prefix}:") for part in document.get("item_assets", {}).values() for name in part
        )
        assert bool(used or summarised or defined) == (schema in document.get("stac_extensions", [])), path
    assert seen == set(fields) - {"proj:wkt2"}  # written where a CRS has no code


@pytest.mark.live
def test_every_document_validates_against_the_published_schemas(
    full: Published, modelled: Published, request: pytest.FixtureRequest
) -> None:
    if "live" not in request.config.getoption("markexpr").replace("not live", ""):
        pytest.skip("fetches the schemas from the internet: run it with -m live")
    for done in (full, modelled):
        catalog, _, _ = read(done)
        catalog.validate_all()


def test_a_map_link_is_declared_where_it_is_and_says_how_it_is_painted(full: Published, modelled: Published) -> None:
    schema = f"{SCHEMAS}/web-map-links/v1.3.0/schema.json"
    _, collection, items = read(full)
    (link,) = collection.get_links("xyz")
    assert link.href == "https://example.com/{z}/{x}/{y}.png"
    assert schema in collection.stac_extensions
    for item in items:
        (link,) = item.get_links("pmtiles")
        assert Path(str(link.get_absolute_href())).is_file()
        # The render extension asks for this of an item that has both.
        assert link.extra_fields["render"] in item.properties["renders"]
        assert schema in item.stac_extensions
    _, collection, (item,) = read(modelled)
    assert schema not in (*collection.stac_extensions, *item.stac_extensions)


def test_every_asset_that_is_a_file_has_its_size_and_checksum(full: Published, modelled: Published) -> None:
    checked = 0
    for done in (full, modelled):
        for path, document in documents(done.catalog.parent):
            for asset in document.get("assets", {}).values():
                file = path.parent / asset["href"]
                if file.is_file():
                    content = file.read_bytes()
                    assert asset["file:size"] == len(content)
                    assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
                    checked += 1
    assert checked == 2 * 4 + 2 * 2 + 1  # four exports of two zones, run and imagery of two mosaics, the weights


def test_the_zarr_asset_opens_as_it_is(zoned: Path, full: Published) -> None:
    _, collection, items = read(full)
    mosaic = Mosaic.open(str(zoned), writable=False)
    for item, grid in zip(items, mosaic.grids, strict=True):
        href = item.assets["zarr"].get_absolute_href()
        assert href is not None
        with xr.open_zarr(href, mask_and_scale=False) as opened:
            stored = mosaic.layer(grid, "mask", grid.box, time=0)
            np.testing.assert_array_equal(opened["mask"][0, 0].to_numpy(), stored)
            assert list(opened["mask"].shape[2:]) == item.properties["proj:shape"]
            assert set(item.properties["cube:variables"]) == set(opened.data_vars)
    root = collection.assets["zarr"].get_absolute_href()
    assert root is not None
    with xr.open_datatree(root, engine="zarr") as tree:
        assert {"utm32n", "utm33n"} == set(tree.children)


@pytest.mark.filterwarnings("ignore::pystac_client.warnings.PystacClientWarning")
def test_a_client_walks_the_catalog(full: Published) -> None:
    client = pystac_client.Client.open(str(full.catalog))
    assert [child.id for child in client.get_children()] == [full.collection]
    (collection,) = client.get_children()
    assert len(list(collection.get_items())) == full.items == 2


def test_a_catalog_moves_with_what_lies_in_it(tmp_path: Path) -> None:
    url = told_mosaic(tmp_path / "here" / "data" / "map.zarr")
    publish(url, tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = tmp_path / "there"
    for path, document in documents(moved):
        for link in document["links"]:
            if "://" not in link["href"]:
                assert (path.parent / link["href"]).exists(), (path, link)
        for asset in document.get("assets", {}).values():
            assert (path.parent / asset["href"]).exists(), (path, asset)


def test_the_same_mosaic_gives_the_same_catalog(tmp_path: Path) -> None:
    url = told_mosaic(tmp_path / "map.zarr")
    for name in ("one", "two"):
        publish(url, tmp_path / name)
    publish(url, tmp_path / "two", force=True)
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.*")
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert one == two
    assert len(one) == 7


def test_items_name_the_prompts_the_model_and_the_sentence(modelled: Published) -> None:
    _, collection, (item,) = read(modelled)
    assert item.id == "red-roofs-ababababab_20240601T000000Z"
    assert item.properties["processing:expression"]["expression"] == {
        "roof": "the red roofs",
        "a/b": "“lakes”",
    }
    assert item.properties["resmap:prompts"][0] == {"name": "roof", "expression": "the red roofs", "threshold": 0.5}
    assert item.properties["resmap:model"]["name"] == "pocket"
    assert item.properties["processing:software"]["resmap"] == "0.1.0"
    assert collection.summaries.to_dict()["resmap:prompts"] == item.properties["resmap:prompts"]


def test_everything_is_derived_from_the_model_and_the_imagery(modelled: Published) -> None:
    catalog, collection, (item,) = read(modelled)
    (model,) = catalog.get_items()
    for where in (collection, item):
        hrefs = [link.get_absolute_href() for link in where.get_links("derived_from")]
        assert hrefs[1] == model.get_self_href()
        assert [document["id"] for document in thaw(Path(str(hrefs[0])).read_bytes())] == ["scene-0", "scene-1"]
    weights = model.assets["weights"].get_absolute_href()
    assert weights is not None
    assert sha256_of(Path(weights)) == sha256_of(POCKET)
    header = json.loads((POCKET.parent / "pocket.json").read_text())
    assert model.properties["mlm:total_parameters"] == header["parameters"]


@pytest.mark.parametrize("fingerprint", ["", "colour/1", f"{'0' * 64}/fp32 on cpu"])
def test_where_the_weights_are_not_those_that_ran_no_model_is_named(tmp_path: Path, fingerprint: str) -> None:
    done = publish(told_mosaic(tmp_path / "map.zarr", fingerprint=fingerprint), tmp_path / "stac")
    catalog, collection, _ = read(done)
    assert list(catalog.get_items()) == []
    assert len(collection.get_links("derived_from")) == 1
    assert "no item of the model" in done.notes[0]


def test_no_secret_gets_into_a_catalog(tmp_path: Path) -> None:
    scene = item_document("scene-0", "2024-06-01T10:30:00Z", on_earth())
    scene["assets"]["image"] = {
        "href": f"https://user:{CANARY}@example.com/a.tif?X-Amz-Signature={CANARY}&X-Amz-Security-Token={CANARY}&v=1",
        "alternate": {"s3": {"href": f"https://example.com/a.tif?sv=1&sig={CANARY}"}},
        "table:storage_options": {"account_name": "x", "credential": CANARY},
    }
    scene["properties"]["note"] = f"fetched from https://example.com/a?token={CANARY}, then warped"
    scene["links"] = [{"rel": "self", "href": f"https://example.com/i.json?access_token={CANARY}"}]
    url = told_mosaic(
        tmp_path / "map.zarr",
        documents=[scene],
        job={
            "imagery": {"catalog": f"https://user:{CANARY}@example.com/stac?token={CANARY}", "time_step": "all"},
            "model": {"name": "pocket", "weights": f"https://example.com/w.safetensors?token={CANARY}"},
            "monitor": {
                "schedule": "every 1d",
                "sinks": [{"name": "hook", "webhook": f"https://example.com/{CANARY}"}, {"name": CANARY}],
            },
        },
        workers=[{"host": CANARY, "pid": 1}],
        error=f"403 from https://example.com/?sig={CANARY}",
        summary={"tiles": {"done": 4}, "device": "cpu", "problems": [{"error": CANARY}], "workers": [CANARY]},
    )
    publish(url, tmp_path / "stac")
    seen = 0
    for path in (tmp_path / "stac").rglob("*.*"):
        if path.is_file() and path.suffix != ".safetensors":
            content = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else path.read_text()
            assert CANARY not in content, path
            assert "example.com" in content or path.name not in ("items.parquet", "run-1.json")
            seen += 1
    assert seen == 5


def test_a_mosaic_without_runs_is_published_too(tmp_path: Path) -> None:
    steps = (datetime(2024, 6, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC))
    Mosaic.create(str(tmp_path / "map.zarr"), MosaicSpec(grids=(GRID,), prompts=PROMPTS[:1], times=steps, made_by={}))
    done = publish(str(tmp_path / "map.zarr"), tmp_path / "stac")
    _, collection, items = read(done)
    assert [item.datetime for item in items] == list(steps)
    assert shape(items[0].geometry).equals_exact(on_earth(), 1e-7)
    assert items[0].properties["processing:expression"]["expression"] == "the red roofs"
    assert set(collection.assets) == {"zarr"}


def test_an_item_of_all_time_has_the_dates_of_its_imagery(modelled: Published) -> None:
    _, collection, (item,) = read(modelled)
    assert item.datetime is None
    assert item.properties["start_datetime"] == "2024-06-01T10:30:00Z"
    assert item.properties["end_datetime"] == "2024-06-20T10:30:00Z"
    assert collection.extent.temporal.to_dict()["interval"] == [["2024-06-01T10:30:00Z", "2024-06-20T10:30:00Z"]]


def test_steps_in_which_nothing_was_planned_have_no_item(tmp_path: Path) -> None:
    steps = tuple(datetime(2024, month, 1, tzinfo=UTC) for month in (6, 7, 8))
    url = told_mosaic(
        tmp_path / "map.zarr", steps=steps, tiles=((0, 0, 0), (2, 1, 1)), job={"imagery": {"time_step": "month"}}
    )
    _, _, items = read(publish(url, tmp_path / "stac"))
    assert [item.properties["start_datetime"][:7] for item in items] == ["2024-06", "2024-08"]
    whole, parts = on_earth(), [shape(item.geometry) for item in items]
    assert sum(part.area for part in parts) == pytest.approx(whole.area / 2, rel=0.01)  # two shards of four
    assert parts[0].intersection(parts[1]).area == pytest.approx(0, abs=1e-12)


def test_a_step_that_is_planned_and_not_yet_in_the_mosaic_has_no_item(tmp_path: Path) -> None:
    url = told_mosaic(tmp_path / "map.zarr", tiles=((0, 0, 0), (1, 0, 0)))
    run = RunFolder(url, "run-1")
    run.save_facts(run.facts() | {"steps": [*run.facts()["steps"], "2024-07-01T00:00:00+00:00"], "state": "running"})
    _, _, items = read(publish(url, tmp_path / "stac"))
    assert [item.id[-17:] for item in items] == ["_20240601T000000Z"]


@pytest.mark.parametrize(("state", "ended"), [("planned", False), ("running", False), ("done", True)])
def test_levels_are_trusted_when_every_run_has_ended(tmp_path: Path, state: str, ended: bool) -> None:
    assert levels_stand(told_mosaic(tmp_path / "map.zarr", state=state)) == ended


def test_levels_of_which_a_run_gave_one_up_are_not_trusted(tmp_path: Path) -> None:
    url = told_mosaic(tmp_path / "map.zarr", state="quarantined")
    (run,) = run_names(url)
    folder = RunFolder(url, run)
    folder.save_facts({**folder.facts(), "levels_behind": True})
    assert not levels_stand(url)


def test_zones_have_each_their_part_of_the_area(world: World, full: Published) -> None:
    _, collection, items = read(full)
    one, other = (shape(item.geometry) for item in items)
    assert one.intersection(other).area == 0
    assert one.union(other).symmetric_difference(box(*world.area)).area < 1e-9
    assert collection.extent.spatial.bboxes[0] == pytest.approx(world.area)


def test_exports_that_lie_in_the_folder_become_assets(resmap: Resmap, zoned: Path, tmp_path: Path) -> None:
    assert resmap("export", "cog", zoned, "-o", tmp_path, "--zone", "utm33n").status == 0
    said = resmap("export", "stac", zoned, "-o", tmp_path, "--json")
    assert said.status == 0
    assert said.document["written"] == []
    items = list(pystac.Catalog.from_file(said.document["catalog"]).get_items(recursive=True))
    assets = {item.id[-6:]: set(item.assets) for item in items}
    assert assets == {"utm32n": {"zarr"}, "utm33n": {"zarr", "mask-warm"}}
    (painted,) = (item for item in items if "renders" in item.properties)
    assert painted.properties["renders"]["mask-warm"]["assets"] == ["mask-warm"]
    assert painted.assets["mask-warm"].extra_fields["processing:expression"]["expression"] == "what is red"


def test_a_catalog_that_is_there_stays_unless_it_may_go(tmp_path: Path) -> None:
    url = told_mosaic(tmp_path / "map.zarr")
    done = publish(url, tmp_path / "stac")
    before = {path: path.read_bytes() for path in (tmp_path / "stac").rglob("*") if path.is_file()}
    with pytest.raises(MosaicError, match="a catalog already"):
        publish(url, tmp_path / "stac")
    assert {path: path.read_bytes() for path in (tmp_path / "stac").rglob("*") if path.is_file()} == before
    publish(url, tmp_path / "stac", force=True)
    done.catalog.write_text("{}")
    shutil.rmtree(tmp_path / "stac" / done.collection)
    with pytest.raises(MosaicError, match="of something else"):
        publish(url, tmp_path / "stac", force=True)
    assert done.catalog.read_text() == "{}"


def test_an_address_of_tiles_has_its_places(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="an address of tiles"):
        publish(told_mosaic(tmp_path / "map.zarr"), tmp_path / "stac", xyz="https://example.com/map")
    assert not (tmp_path / "stac").exists()


def test_a_format_that_is_none_is_refused(resmap: Resmap, zoned: Path, tmp_path: Path) -> None:
    said = resmap("export", "stac", zoned, "-o", tmp_path / "stac", "--with", "cog,shp")
    assert said.status == 2
    assert "shp" in said.complaint
    assert not (tmp_path / "stac").exists()
