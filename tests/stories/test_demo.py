"""``resmap demo``: one command, offline, on the model that ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalogs import synthetic
from mapper.models.pocket import WEIGHTS
from tests.stories.command_line import Resmap

PART = (11.9944, 55.4094, 12.0134, 55.4218)
"""Four tenths of its world, with villages and the lake, on both sides of the border of the zones."""


@pytest.mark.parametrize("area", [PART, pytest.param(synthetic.DEMO_AREA, marks=pytest.mark.slow)], ids=["part", "all"])
@pytest.mark.timeout(240)
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"pocket has no weights yet: {WEIGHTS.name} is missing")
def test_the_demo_maps_its_world_and_scores_what_it_promises(
    resmap: Resmap,
    tmp_path: Path,
    ray_cluster: object,
    monkeypatch: pytest.MonkeyPatch,
    area: tuple[float, float, float, float],
) -> None:
    monkeypatch.setattr(synthetic, "DEMO_AREA", area)
    said = resmap("demo", "--out", tmp_path, "--json")
    assert said.status == 0, said.err
    report = said.document
    assert {"mosaic", "quicklook", "scores", "seconds"} <= set(report)
    assert len(report["scores"]) >= 2
    assert sum(report["scores"].values()) / len(report["scores"]) >= 0.60, report["scores"]
    assert len(report["summary"]["workers"]) == 2
    assert report["seams"]["borders"] > 0
    assert report["seams"]["differ"] < 0.05
    assert Path(report["quicklook"]).read_bytes().startswith(b"\x89PNG")
    verified = resmap("verify", "--full", "--json", report["mosaic"])
    assert verified.status == 0
    assert verified.document["checked"] == report["summary"]["tiles"]["planned"]
    assert verified.document["bad"] == []
    again = resmap("run", "--json", report["job"])
    assert again.status == 0
    assert again.document["worked_tiles"] == 0
