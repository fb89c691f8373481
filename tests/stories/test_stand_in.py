"""The stand-in for a GPU, in a real run over a slow server: the map is the plain loop's, its time is accounted for."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr

from benchmarks.peers import obvious_loop, ours
from benchmarks.peers.ground import CATALOG, CRS, RESOLUTION_M, Ground, write_ground
from benchmarks.peers.measured import PLUGINS
from benchmarks.peers.work import Work
from benchmarks.ranged_server import RangedServer, ranged_server
from benchmarks.stand_in import Device, StandIn, Worked, write_weights
from jobs.run import start

RATE = 2000.0
GROUND = Ground(rows=2, columns=3, shard_px=512, step_px=512, overlap_px=128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """The same work done by the plain loop and by a run, and what each one's device did."""

    loop: zarr.Group
    run: zarr.Group
    loop_device: Worked
    run_device: Worked
    loop_windows: int
    """As the loop counted them."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangedServer]:
    folder = tmp_path_factory.mktemp("served")
    with ranged_server(folder, latency_s=0.01) as running:
        write_ground(folder, GROUND, url=running.url)
        yield running


@pytest.fixture(scope="module")
def mapped(server: RangedServer, tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    folder = tmp_path_factory.mktemp("mapped")
    work = Work(
        catalog=f"{server.url}/{CATALOG}", area=GROUND.area(), crs=CRS, resolution_m=RESOLUTION_M,
        top=GROUND.box.top, left=GROUND.box.left, rows=GROUND.box.height, columns=GROUND.box.width,
        shard_px=GROUND.shard_px, chunk_px=256, overlap_px=128, prompts=("the buildings", "the roads"),
        model="stand-in", weights=None, batch=16, mosaic="", report=str(folder / "report.json"),
    )  # fmt: skip

    def own(name: str) -> Work:
        weights = write_weights(folder / f"{name}.json", windows_per_s=RATE, log=folder / f"{name}.log")
        return replace(work, weights=str(weights), mosaic=str(folder / f"{name}.zarr"))

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PLUGINS))
        obvious_loop.loop(own("loop"))
        start(ours.job_of(own("run")), local=True).wait(timeout_s=150)
    return Mapped(
        loop=zarr.open_group(folder / "loop.zarr", mode="r"),
        run=zarr.open_group(folder / "run.zarr", mode="r"),
        loop_device=Worked.read(folder / "loop.log"),
        run_device=Worked.read(folder / "run.log"),
        loop_windows=json.loads(Path(work.report).read_text())["windows"],
    )


@pytest.mark.parametrize("layer", ["mask", "score", "source"])
def test_a_run_makes_the_map_of_the_plain_loop_to_the_last_bit(mapped: Mapped, layer: str) -> None:
    run, loop = (np.asarray(group[f"0/{layer}"]) for group in (mapped.run, mapped.loop))
    assert len(np.unique(loop)) > 1  # there is something to disagree about
    np.testing.assert_array_equal(run, loop)


def test_the_plain_loop_gives_every_window_to_the_device(mapped: Mapped) -> None:
    assert mapped.loop_device.windows == mapped.loop_device.shown == mapped.loop_windows


def test_a_run_gives_the_device_no_window_that_shows_ground_more_than_once(mapped: Mapped) -> None:
    places = {(top, left) for top in _starts(GROUND.box.top, 2) for left in _starts(GROUND.box.left, 3)}
    assert len(places) <= mapped.run_device.shown <= mapped.loop_windows


@pytest.mark.parametrize("whose", ["loop_device", "run_device"])
def test_a_device_is_busy_for_its_windows_and_for_one_batch_at_a_time(mapped: Mapped, whose: str) -> None:
    device: Worked = getattr(mapped, whose)
    assert device.busy_s == pytest.approx(device.windows / RATE, abs=1e-6)  # sums of readings of a clock
    assert all(one.ended <= next_one.began for one, next_one in zip(device.batches, device.batches[1:], strict=False))
    assert device.busy_s <= device.span_s + 1e-6


def test_a_device_that_is_fed_in_time_loses_none(tmp_path: Path) -> None:
    device = Device(RATE, tmp_path / "log")
    waits = [device.begin(windows, shown=windows, handed_over=100.0) for windows in (3, 1, 4)]
    for wait in waits:
        wait()
    worked = Worked.read(tmp_path / "log")
    assert [batch.began for batch in worked.batches] == pytest.approx([100.0, 100.0 + 3 / RATE, 100.0 + 4 / RATE])
    assert worked.span_s == pytest.approx(worked.busy_s)


def test_a_device_that_waits_for_work_is_idle_meanwhile(tmp_path: Path) -> None:
    device = Device(RATE, tmp_path / "log")
    device.begin(2, shown=2, handed_over=100.0)()
    device.begin(2, shown=1, handed_over=107.0)()
    worked = Worked.read(tmp_path / "log")
    assert (worked.windows, worked.shown) == (4, 3)
    assert worked.busy_s == pytest.approx(4 / RATE)
    assert worked.span_s == pytest.approx(7.0 + 2 / RATE)


def test_what_it_answers_depends_on_nothing_but_window_and_sentence() -> None:
    net = StandIn(Device(1e9))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, net.window_px, net.window_px), np.uint8)
    one, other, both = (net.encode_text(text) for text in (["a road"], ["a lake"], ["a road", "a lake"]))
    together = net.logits(pixels, both)
    assert together.dtype == np.float32
    assert not np.array_equal(together[:, 0], together[:, 1])
    for window in range(3):
        alone = np.concatenate([net.logits(pixels[[window]], text) for text in (one, other)], axis=1)
        np.testing.assert_array_equal(together[[window]], alone)


def test_each_scene_lies_where_its_item_says_and_differs_from_its_neighbour_where_they_overlap(
    server: RangedServer,
) -> None:
    items = json.loads((server.folder / CATALOG).read_text())["features"]
    assert len(items) == len(GROUND.scenes) == 6
    for item, place in zip(items, GROUND.scenes, strict=True):
        with rasterio.open(server.folder / f"{item['id']}.tif") as file:
            assert list(file.transform)[:6] == item["properties"]["proj:transform"]
            assert file.transform.c == place.left * RESOLUTION_M
            assert file.transform.f == -place.top * RESOLUTION_M
            assert file.shape == place.shape
            assert (file.read() > 0).all()
    shared = GROUND.scenes[0].intersection(GROUND.scenes[1])
    assert shared.width == GROUND.overlap_px
    seen = []
    for number in (0, 1):
        with rasterio.open(server.folder / f"scene-{number:03d}.tif") as file:
            seen.append(file.read(1)[shared.within(GROUND.scenes[number])])
    assert (seen[0] != seen[1]).mean() > 0.5


def test_the_server_gives_the_part_that_was_asked_for_and_counts_it(server: RangedServer) -> None:
    whole = (server.folder / CATALOG).read_bytes()
    before = server.served()
    for wanted, part in (("bytes=10-19", whole[10:20]), ("bytes=-7", whole[-7:]), ("bytes=100-", whole[100:])):
        request = urllib.request.Request(f"{server.url}/{CATALOG}", headers={"Range": wanted})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert (answer.status, answer.read()) == (206, part)
            assert answer.headers["Content-Range"].endswith(f"/{len(whole)}")
    given = server.served() - before
    assert (given.requests, given.bytes) == (3, 17 + len(whole) - 100)


def _starts(begin: int, shards: int) -> list[int]:
    """Where the windows of one axis begin that touch the ground."""
    return [start for start in range(-384 * 400, 384 * 400, 384) if begin - 512 < start < begin + shards * 512]
