"""Before and after of an alert, as people look at them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from jobs.job import Job
from jobs.monitors.alert import Alert
from jobs.monitors.alerts import alerts_of
from jobs.monitors.page import CHANGED, MAP_PX
from jobs.monitors.pictures import NARROWEST_PX, WIDEST_PX, _frame
from jobs.run import start
from mapper.changes import ChangeRule, StepChanges, find_changes
from mapper.grid import Grid, Lattice, PixelBox
from mapper.layout import MosaicSpec
from mapper.mosaic import Mosaic
from mapper.prompts import Prompt
from tests.jobs.monitors.changed_ground import lonlat
from tests.stories.world import CORNER, item_of, write_catalog, write_tiff

DUE = datetime(2026, 11, 22, 6, tzinfo=UTC)
SIDE = 192
SQUARE = (80, 120)
"""Rows and columns of a red square that appears, from and to."""

DARK, RED = (40, 60, 40), (250, 60, 40)


@dataclass(frozen=True, slots=True)
class Told:
    """A monitor whose second scene has a red square that the first lacks."""

    job: Job
    scenes: tuple[Path, ...]
    changes: tuple[StepChanges, ...]

    def alert(self) -> Alert:
        (alert,) = alerts_of(self.job, "reds", DUE, self.changes)
        return alert


@pytest.fixture(scope="module")
def red(tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("red")
    left, top = round(CORNER[0]), round(CORNER[1])
    items, scenes = [], []
    for number, moment in enumerate(("2024-06-01T10:30:00Z", "2024-06-20T10:30:00Z")):
        pixels = np.empty((3, SIDE, SIDE), np.uint8)
        pixels[:] = np.reshape(DARK, (3, 1, 1))
        if number:
            pixels[:, SQUARE[0] : SQUARE[1], SQUARE[0] : SQUARE[1]] = np.reshape(RED, (3, 1, 1))
        path = write_tiff(
            folder / f"scene-{number}.tif", pixels, crs="EPSG:32632", transform=Affine(1, 0, left, 0, -1, top)
        )
        scenes.append(path)
        items.append(
            item_of(
                path, name=path.stem, moment=moment, collection="plain", href=path.name, bands=("red", "green", "blue")
            )
        )
    job = Job.from_dict(
        {
            "name": "reds",
            "area": {"bbox": list(items[0]["bbox"])},
            "imagery": {"catalog": str(write_catalog(folder, items)), "time_step": "day"},
            "grid": {"crs": "EPSG:32632", "resolution_m": 1.0, "shard_px": 128, "chunk_px": 64},
            "prompts": [{"name": "red", "expression": "what is red"}],
            "model": {"name": "colour"},
            "windows": {"overlap_px": 0},
            "output": {"mosaic": str(folder / "map.zarr")},
            "monitor": {
                "schedule": "every 1d",
                "alerts": [{"name": "new", "prompt": "red", "change": "appeared", "area_m2": 0}],
            },
        }
    )
    start(job, local=True).wait(timeout_s=100)
    changes = find_changes(job.spec.output.mosaic, ChangeRule(hysteresis=0.0))
    return Told(job=job, scenes=tuple(scenes), changes=tuple(changes))


def picture(place: str | None) -> NDArray[np.int64]:
    assert place is not None
    return np.asarray(Image.open(place).convert("RGB"), np.int64)


def share_of(pixels: NDArray[np.int64], colour: tuple[int, int, int]) -> float:
    """How much of a picture has a colour, give or take what resampling does."""
    return float((abs(pixels - colour).max(axis=2) <= 12).mean())


def test_both_show_what_the_models_saw_and_outline_what_changed(red: Told) -> None:
    alert = red.alert()
    before, after = picture(alert.pictures.before), picture(alert.pictures.after)
    assert before.shape == after.shape
    assert before.shape[1] == MAP_PX + 40
    assert share_of(before, DARK) > 0.4
    assert share_of(before, RED) < 0.001
    assert share_of(after, RED) > 0.05
    for page in (before, after):
        assert share_of(page, CHANGED["appeared"]) > 0.002
        assert share_of(page, CHANGED["vanished"]) == 0
    assert (before != after).any()


def test_they_lie_beside_the_changes_under_the_alerts_key(red: Told) -> None:
    alert = red.alert()
    folder = Path(red.job.spec.output.mosaic.replace(".zarr", ".changes")) / "alerts" / alert.key
    assert alert.pictures.before == str(folder / "before.png")
    assert alert.pictures.after == str(folder / "after.png")
    assert sorted(path.name for path in folder.iterdir()) == ["after.png", "before.png", "places.parquet"]


def test_drawn_again_they_are_the_same(red: Told) -> None:
    one, other = red.alert(), red.alert()
    assert one == other
    assert (picture(one.pictures.after) == picture(other.pictures.after)).all()


def test_without_the_imagery_the_masks_are_shown(red: Told) -> None:
    hidden = [path.rename(path.with_suffix(".gone")) for path in red.scenes]
    try:
        alert = red.alert()
    finally:
        for path in hidden:
            path.rename(path.with_suffix(".tif"))
    after = picture(alert.pictures.after)
    assert share_of(after, RED) == 0
    assert share_of(after, DARK) < 0.001  # the letters are nearly as dark
    assert share_of(after, CHANGED["appeared"]) > 0.002


def test_imagery_that_does_not_come_soon_is_not_waited_for(red: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    from threading import Event

    let_go = Event()
    monkeypatch.setattr("jobs.monitors.pictures.PATIENCE_S", 0.2)
    monkeypatch.setattr("jobs.monitors.pictures.RasterReader.read", lambda *args, **kwargs: let_go.wait(20))
    try:
        alert = red.alert()
    finally:
        let_go.set()
    assert share_of(picture(alert.pictures.after), RED) == 0


def test_a_place_for_pictures_that_cannot_be_written_leaves_the_alert(
    red: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mapper.storage import Folder

    real = Folder.write

    def refused(self: Folder, name: str, content: bytes) -> None:
        if name.endswith(".png"):
            raise OSError("no room")
        real(self, name, content)

    monkeypatch.setattr(Folder, "write", refused)
    alert = red.alert()
    assert alert.pictures.before is None
    assert alert.area_m2 > 0


def test_a_sentence_of_strangers_stays_in_its_line(red: Told) -> None:
    alert = red.alert()
    long = alert.model_copy(update={"place": "x\n" * 400, "expression": "“" + "ä" * 500})
    from jobs.monitors.page import drawn

    page = drawn(
        long, name="After", step=long.time, mask=np.zeros((60, 80), np.uint8), view=None, outlines=[], metres_per_px=1.0
    )
    assert page.size == (MAP_PX + 40, 480 + 118)


# What they show -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Mosaic:
    """Of 20,000 by 20,000 pixels of 10 m, none of them written."""
    grid = Grid(
        lattice=Lattice(crs="EPSG:32645", res_x=10, res_y=10),
        box=PixelBox(-317_440, 30_720, -296_960, 51_200),
        shard_px=1024,
        chunk_px=512,
    )
    spec = MosaicSpec(
        grids=(grid,), prompts=(Prompt(name="a", expression="a"),), times=(DUE,), made_by={"model": "none"}
    )
    return Mosaic.create(str(tmp_path_factory.mktemp("wide") / "map.zarr"), spec)


@pytest.mark.parametrize(
    ("shapes", "level"),
    [([(0, 0, 3, 3)], 0), ([(0, 0, 300, 200)], 0), ([(0, 0, 2000, 100)], 1), ([(0, 0, 3000, 2900)], 2),
     ([(0, 0, 100, 2500)], 2), ([(0, 0, 40, 40), (6000, 6000, 6010, 6010)], 0), ([(0, 0, 7000, 7000)], 2)],
)  # fmt: skip
def test_the_frame_holds_what_changed_or_the_largest_of_it(wide: Mosaic, shapes: list[Any], level: int) -> None:
    frame = _frame(wide, None, [lonlat(*shape) for shape in shapes])
    assert frame.grid.level == level
    assert 0.6 <= frame.box.height / frame.box.width <= 1.01
    assert frame.finest.width >= NARROWEST_PX
    assert max(frame.finest.shape) <= WIDEST_PX + 8
    assert frame.box.width <= 2 * MAP_PX
    first = shapely.box(*shapes[0])
    top, left = frame.finest.top + 307_200, frame.finest.left - 43_200
    shown = shapely.box(left, top, left + frame.finest.width, top + frame.finest.height)
    assert shown.covers(first) or first.area > 4000**2
    assert shown.intersects(first)
