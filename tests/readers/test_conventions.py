"""The Zarr conventions multiscales, proj and spatial, as zarr-cm checks them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zarr_cm
from affine import Affine
from pyproj import CRS
from zarr_cm import multiscales, proj, spatial

from tests.readers.golden import Golden


def nodes(mosaic: Path) -> Iterator[tuple[str, Any]]:
    """Path and metadata of each group and layer: all nodes but the coordinates."""
    for file in sorted(mosaic.rglob("zarr.json")):
        metadata = json.loads(file.read_text())
        metadata.pop("consolidated_metadata", None)
        path = file.parent.relative_to(mosaic).as_posix()
        if metadata["node_type"] == "group" or path.rpartition("/")[2] in ("mask", "score", "source"):
            yield path, metadata


@pytest.fixture(params=["golden", "zones"])
def mosaic(request: pytest.FixtureRequest) -> Golden:
    found: Golden = request.getfixturevalue(request.param)
    return found


def test_every_group_and_layer_that_lies_somewhere_is_valid(mosaic: Golden) -> None:
    known = {tree.name for tree in mosaic.mosaic.grids} - {""}
    for path, metadata in nodes(mosaic.path):
        if path == "." and known:
            assert "zarr_conventions" not in metadata["attributes"]  # zones lie in several places: the root in none
            continue
        zarr_cm.validate_all(metadata["attributes"])
        spatial.validate_node_metadata(metadata)
        proj.validate_node_metadata(metadata)
        declared = set(zarr_cm.detect_revisions(metadata["attributes"]))
        pyramid = path in (known if known else {"."})
        assert declared == ({"multiscales", "proj", "spatial"} if pyramid else {"proj", "spatial"})
        if pyramid:
            multiscales.validate_group_metadata(metadata)


def test_every_convention_is_declared_with_the_words_of_its_own_registry(golden: Golden) -> None:
    registered = {convention.UUID: convention.CMO for convention in (multiscales, proj, spatial)}
    for _, metadata in nodes(golden.path):
        for entry in metadata["attributes"]["zarr_conventions"]:
            official = registered[entry["uuid"]]
            assert {key: official[key] for key in entry} == entry


def test_the_layout_of_a_pyramid_says_of_each_level_what_the_level_says_itself(mosaic: Golden) -> None:
    for tree in {grid.name for grid in mosaic.mosaic.grids}:
        attributes = json.loads((mosaic.path / tree / "zarr.json").read_text())["attributes"]
        layout = attributes["multiscales"]["layout"]
        assert [entry["asset"] for entry in layout] == [str(grid.level) for grid in mosaic.levels(tree)]
        for entry, grid in zip(layout, mosaic.levels(tree), strict=True):
            level = json.loads((mosaic.path / grid.path / "zarr.json").read_text())["attributes"]
            assert (
                entry["spatial:transform"] == level["spatial:transform"] == list(grid.lattice.transform(grid.box))[:6]
            )
            assert entry["spatial:shape"] == level["spatial:shape"] == list(grid.shape)
            assert level["spatial:bbox"] == list(grid.lattice.bounds(grid.box))


def test_scale_and_translation_lead_from_a_level_to_the_one_it_was_made_of(golden: Golden) -> None:
    layout = json.loads((golden.path / "zarr.json").read_text())["attributes"]["multiscales"]["layout"]
    shifts = []
    for finer, coarser in itertools.pairwise(layout):
        assert coarser["derived_from"] == finer["asset"]
        (scale_y, scale_x), (down, right) = coarser["transform"]["scale"], coarser["transform"]["translation"]
        step = Affine(scale_x, 0, right, 0, scale_y, down)  # pixel of the coarser level → pixel of the finer
        assert (Affine(*finer["spatial:transform"]) @ step).almost_equals(Affine(*coarser["spatial:transform"]))
        shifts.append((down, right))
    assert (-1.0, -1.0) in shifts  # an odd edge was halved
    assert (0.0, 0.0) in shifts


def test_the_crs_has_its_code_and_its_text(zones: Golden) -> None:
    for tree, epsg in (("utm32n", 32632), ("utm33n", 32633)):
        attributes = json.loads((zones.path / tree / "0" / "mask" / "zarr.json").read_text())["attributes"]
        assert attributes["proj:code"] == f"EPSG:{epsg}"
        assert CRS.from_wkt(attributes["proj:wkt2"]).to_epsg() == epsg
