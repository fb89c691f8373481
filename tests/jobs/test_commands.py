"""The commands that read: status, doctor, try; and how a run tells people how it gets on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from cluster.pool import Outcome
from jobs.job import Job
from jobs.prepare import prepare
from jobs.progress import Lines
from jobs.quicklook import write_quicklook
from jobs.registry import Registry, RunRow
from mapper.errors import AssetError, MapperError
from mapper.grid import Grid, Lattice, PixelBox
from mapper.map_tile import TileTask
from mapper.models.pocket import WEIGHTS
from tests.stories.command_line import Resmap
from tests.stories.world import World, mapped


@pytest.fixture(scope="module")
def mosaic(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "map.zarr"
    mapped(world.job(path))
    return path


def test_status_tells_how_far_a_run_is(mosaic: Path, resmap: Resmap) -> None:
    (entry,) = resmap("status", "--json", mosaic).document
    assert entry["state"] == "done"
    assert entry["mosaic"] == str(mosaic)
    assert sum(entry["counts"].values()) == entry["planned"] == entry["attempts"] == 33
    assert entry["problems"] == []
    (by_name,) = resmap("status", "--json", entry["run"]).document
    assert by_name == entry
    assert "33 planned" in resmap("status", mosaic).out


def test_status_lists_every_run_with_the_latest_first(mosaic: Path, world: World, resmap: Resmap) -> None:
    mapped(world.job(mosaic.parent / "later.zarr"))
    runs = resmap("status", "--json").document
    assert runs[0]["mosaic"] == str(mosaic.parent / "later.zarr")
    assert {"run", "mosaic", "name", "state", "planned", "finished", "updated"} == set(runs[0])
    assert str(mosaic) in {run["mosaic"] for run in runs}


def test_a_run_that_failed_before_it_began_is_no_run(world: World, resmap: Resmap, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    changes = {"model": {"weights": "gone.safetensors", "sha256": "0" * 64}}
    job.write_text(yaml.safe_dump(world.job(tmp_path / "map.zarr", **changes)))
    assert resmap("run", "--local", job).status == 3
    assert str(tmp_path / "map.zarr") not in {run["mosaic"] for run in resmap("status", "--json").document}


def test_the_doctor_looks_at_everything_a_run_needs(resmap: Resmap) -> None:
    said = resmap("doctor", "--json")
    findings = {finding["what"]: finding for finding in said.document}
    assert {"Python", "torch", "ray", "zarr", "rasterio", "GPU", "GDAL", "pocket", "memory", "disk", "registry"} <= set(
        findings
    )
    assert all(finding["state"] in ("good", "note", "bad") for finding in findings.values())
    assert (findings["pocket"]["state"] == "good") == WEIGHTS.is_file()
    assert said.status == (1 if any(finding["state"] == "bad" for finding in findings.values()) else 0)


def test_a_registry_that_is_away_is_noted_and_stops_no_run(
    world: World, resmap: Resmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESMAP_REGISTRY", f"sqlite:///{tmp_path}/file/registry.db")
    findings = {finding["what"]: finding for finding in resmap("doctor", "--json").document}
    assert findings["registry"]["state"] == "note"
    assert mapped(world.job(tmp_path / "map.zarr", grid={"shard_px": 256})).state == "done"


def test_a_registry_keeps_the_last_word_on_each_run(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/deep/registry.db")
    row = RunRow(run="r-1", mosaic="/m.zarr", name="r", state="running", planned=9, finished=2)
    registry.save(row)
    registry.save(RunRow(run="r-2", mosaic="/m.zarr", name="r", state="done", planned=1, finished=1))
    registry.save(RunRow(run="r-1", mosaic="/other.zarr", name="r", state="done", planned=9, finished=9))
    registry.save(RunRow(run="r-1", mosaic="/m.zarr", name="r", state="done", planned=9, finished=9))
    again = Registry(f"sqlite:///{tmp_path}/deep/registry.db")
    assert [(run.run, run.mosaic, run.state) for run in again.runs()] == [
        ("r-1", "/m.zarr", "done"), ("r-1", "/other.zarr", "done"), ("r-2", "/m.zarr", "done"),
    ]  # fmt: skip
    assert len(again.find("r-1")) == 2
    assert again.find("r-3") == []


@pytest.mark.parametrize("url", ["nonsense", "mysterydb://host/x", "postgresql://nobody:secret@127.0.0.1:9/x"])
def test_a_registry_that_cannot_be_opened_says_where_to_look_and_no_password(url: str) -> None:
    with pytest.raises(MapperError) as refused:
        Registry(url).runs()
    assert "RESMAP_REGISTRY" in refused.value.fix
    assert "secret" not in str(refused.value)


def test_a_quick_look_is_a_picture_of_the_mosaic(world: World, mosaic: Path, tmp_path: Path) -> None:
    prepared = prepare(Job.from_dict(world.job(mosaic)))
    write_quicklook(prepared, tmp_path / "deep" / "look.png", footnote="a small world")
    with Image.open(tmp_path / "deep" / "look.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(2**24) or []) > 100


def test_a_quick_look_of_several_zones_and_steps_is_drawn(world: World, tmp_path: Path) -> None:
    job = world.job(tmp_path / "map.zarr", grid={"crs": "utm"}, imagery={"time_step": "year"})
    mapped(job)
    write_quicklook(prepare(Job.from_dict(job)), tmp_path / "look.png", step=0)
    assert (tmp_path / "look.png").stat().st_size > 10_000


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Grey, with a red square in its middle."""
    pixels = np.full((150, 220, 3), 60, np.uint8)
    pixels[50:100, 80:140] = (250, 60, 60)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_try_maps_a_picture_and_draws_an_overlay(picture: Path, resmap: Resmap) -> None:
    said = resmap("try", "--model", "colour", "--json", picture, "what is red")
    assert said.status == 0, said.err
    assert said.document["share"] == pytest.approx(50 * 60 / (150 * 220), rel=0.2)
    assert said.document["highest"] > 0.9
    assert Path(said.document["overlay"]) == picture.with_name("photo-overlay.png")
    nothing = picture.with_name("nothing.png")
    assert (
        resmap("try", "--model", "colour", "--out", nothing, "--json", picture, "what is blue").document["share"] == 0
    )
    with Image.open(said.document["overlay"]) as drawn, Image.open(nothing) as plain:
        assert drawn.size == plain.size == (220, 150)
        inked = (np.asarray(drawn.convert("RGB")) != np.asarray(plain.convert("RGB"))).any(axis=2)
    assert inked.sum() == round(said.document["share"] * 150 * 220)
    assert inked[60:90, 90:130].all()
    assert not inked[:30].any()


def test_try_says_it_in_words(picture: Path, resmap: Resmap, tmp_path: Path) -> None:
    said = resmap("try", "--model", "colour", "--out", tmp_path / "deep" / "over.png", picture, "what is red")
    assert "“what is red”" in said.out
    assert (tmp_path / "deep" / "over.png").is_file()


@pytest.mark.parametrize(
    ("words", "status", "names"),
    [
        (["photo.png", ""], 3, "expression is empty"),
        (["--model", "color", "photo.png", "red"], 3, "no model named 'color'"),
        (["--out", "over.xyz", "photo.png", "red"], 3, "overlay cannot be written"),
        (["text.png", "red"], 1, "cannot be read"),
        (["deep.png", "red"], 1, "holds uint16"),
    ],
)
def test_try_refuses_in_one_sentence(
    picture: Path, resmap: Resmap, monkeypatch: pytest.MonkeyPatch, words: list[str], status: int, names: str
) -> None:
    monkeypatch.chdir(picture.parent)
    Path("text.png").write_text("no picture")
    Image.fromarray(np.zeros((10, 10), np.uint16)).save("deep.png")
    model = [] if "--model" in words else ["--model", "colour"]
    said = resmap("try", *model, *words)
    assert said.status == status, said.err
    assert names in said.complaint
    assert said.remedy
    assert not list(Path().glob("*overlay*"))


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def outcome(error: MapperError | None = None) -> Outcome:
    lattice = Lattice(crs="EPSG:32632", res_x=1, res_y=1)
    grid = Grid(lattice=lattice, box=PixelBox(0, 0, 64, 64), shard_px=64, chunk_px=64)
    task = TileTask(id=0, grid=grid, tile=grid.tile(0, 0), time=0, items=(), prompts=(0,), clipped=False)
    return Outcome(worker="w", task=task, attempts=1, result=None, error=error)


def test_where_there_is_no_terminal_a_line_comes_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(every_s=10, clock=clock)
    lines.begin(total=100, already=40)
    for _ in range(30):
        clock.now += 1
        lines.tile(outcome(), [])
    lines.end()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "100 tiles, 40 of them done before",
        "50/100 tiles, 1.00 tiles/s, about 50 s left",
        "60/100 tiles, 1.00 tiles/s, about 40 s left",
        "70/100 tiles, 1.00 tiles/s, about 30 s left",
        "70/100 tiles",
    ]


def test_the_pace_is_that_of_tiles_and_not_of_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(every_s=10, clock=clock)
    lines.begin(total=100, already=0)
    clock.now = 300
    for _ in range(11):
        lines.tile(outcome(), [])
        clock.now += 2
    assert "2/100 tiles, 0.50 tiles/s, about 196 s left" in capsys.readouterr().err


def test_a_tile_that_is_given_up_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(every_s=1000, clock=Clock())
    lines.begin(total=1, already=0)
    lines.tile(outcome(AssetError("the file is cut short", tile="0/r0c0/t0")), [])
    assert "given up: the file is cut short (tile 0/r0c0/t0)" in capsys.readouterr().err


def test_on_a_terminal_there_is_a_bar() -> None:
    from rich.console import Console

    from jobs.progress import Bar

    screen = io.StringIO()
    bar = Bar(Console(file=screen, force_terminal=True, width=100))
    bar.begin(total=2, already=0)
    bar.tile(outcome(), [])
    bar.tile(outcome(AssetError("the file is cut short")), [])
    bar.end()
    assert "2/2" in screen.getvalue()
    assert "given up: the file is cut short" in screen.getvalue()


def test_every_command_explains_itself(resmap: Resmap) -> None:
    for command in ("demo", "try", "plan", "run", "status", "verify", "schema", "doctor"):
        said = resmap(command, "--help")
        assert said.status == 0
        assert command == "schema" or "--json" in said.out
    assert "130 interrupted" in " ".join(resmap("--help").out.split())
    assert "torch" in resmap("--version").out


def test_try_of_a_picture_that_is_not_there_is_a_usage_error(resmap: Resmap, tmp_path: Path) -> None:
    said = resmap("try", tmp_path / "gone.png", "red")
    assert said.status == 2
    assert "does not exist" in said.err
