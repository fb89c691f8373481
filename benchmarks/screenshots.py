"""Pictures of the dashboard for the pages about it: a real run over the demo's Earth, and a monitor of real lakes.

python -m benchmarks.screenshots            all
python -m benchmarks.screenshots monitor    or run: one of the two

Needs Chromium, and the map's library (``make setup``, with npm). The workers are logical GPUs of this machine. The
monitor needs the data folder beside the checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalogs.synthetic import DemoCatalog, write_demo_catalog
from jobs.dashboard.queries import Queries
from mapper.errors import MapperError

if TYPE_CHECKING:
    from jobs.dashboard.monitor_views import MonitorPage
    from jobs.monitors.store import Monitors

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH = 1280
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
GPUS = 4
SHOWN_AT = 0.65
"""Share of the tiles that are decided when the run is drawn."""

ENDS_WITHIN_S = 900
SETTLES_MS = 3000
IMAGERY_MS = 20_000
"""Imagery is drawn when it is first asked for, a piece at a time."""

MOST_BYTES = 300_000
"""What a picture may weigh; with fewer colours it weighs less."""

PLACE = "16.00/55.4168/12.0035/mask/0/0"
"""What the map shows: as its address keeps it."""


FLIGHTS = Path(__file__).parents[2] / "shared" / "data" / "naip-nd-series"
WATCHED_SINCE = timedelta(days=8)


def main() -> None:
    """What is asked for, or all."""
    wanted = sys.argv[1:] or ["run", "monitor"]
    if "run" in wanted:
        _the_run()
    if "monitor" in wanted:
        _the_monitor()


def _the_run() -> None:
    """Run the demo's Earth; draw the run in the middle of it, and its map at the end."""
    from playwright.sync_api import sync_playwright

    from jobs.dashboard.app import app
    from jobs.dashboard.keys import Access
    from jobs.executor import Executor
    from jobs.registry import Registry
    from tests.jobs.dashboard.running import running

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # The run is another process, which takes the registry and the home from its environment.
        os.environ["RESMAP_REGISTRY"] = f"sqlite:///{folder}/registry.sqlite"
        os.environ["OMP_NUM_THREADS"] = "1"
        job = _job(write_demo_catalog(folder / "world"), folder / "map.zarr")
        queries = Queries(Registry())
        with Executor(folder=folder / "jobs") as executor, sync_playwright() as playwright:
            key = executor.submit(job, gpus=GPUS).key
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            with running(app(queries, executor, access=Access())) as root:
                _wait_until(queries, key, SHOWN_AT)
                _draw(browser, f"{root}/runs/{key}", "run", lambda page: page.locator("h1").wait_for())
                _wait_until(queries, key, 1.0)
                _draw(browser, f"{root}/runs/{key}/map#{PLACE}", "map", _open_a_tile)
            browser.close()


def _the_monitor() -> None:
    """Watch lakes whose four flights are published day by day, one of them late; draw the monitor's page."""
    from playwright.sync_api import sync_playwright

    from jobs.dashboard.app import app
    from jobs.dashboard.keys import Access
    from jobs.dashboard.queries import Queries
    from jobs.executor import Executor
    from jobs.job import Job
    from jobs.monitors.door import admitted
    from jobs.monitors.store import Monitors
    from jobs.registry import Registry
    from tests.jobs.dashboard.running import running
    from tests.servers import files_over_http
    from tests.stories.lakes import around, lake_items, lake_job

    sys.path.append(str(Path(__file__).parents[1] / "tests" / "plugins"))  # where the model of water is
    begin = datetime.now(UTC) - WATCHED_SINCE
    with tempfile.TemporaryDirectory() as scratch, files_over_http(FLIGHTS) as files, sync_playwright() as playwright:
        folder, items = Path(scratch), lake_items(FLIGHTS, files.url)
        registry = Registry(f"sqlite:///{folder}/registry.sqlite")
        store = Monitors(registry)
        job = lake_job(str(folder / "items.json"), folder / "lakes.zarr", around(items), monitor=_WATCHING)
        entry = admitted(Job.from_dict(job, folder=folder))
        store.add(entry.name, job=entry.job, mosaic=entry.mosaic, now=begin)
        first, second, _, fourth = items  # the third comes late
        odd = fourth | {"id": "unnamed", "properties": {"datetime": "2041-06-01T00:00:00Z"}}
        days = [[], [first], [first, second], [first, second], [first, second, fourth], [*items, odd], items]
        for day, published in enumerate(days):
            (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": published}))
            if day == 3:
                (folder / "items.json").unlink()
            _tick(store, begin + timedelta(days=day + 1))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)

        class Elsewhere(Queries):
            """The same of maps that lie where a reader's may: not in a folder that is gone when this ends."""

            def monitor(self, name: str) -> MonitorPage:
                page = super().monitor(name)
                return replace(page, polygons=page.polygons.replace(str(folder), "/maps"))

        pages = app(Elsewhere(registry), Executor(registry, folder=folder / "jobs"), access=Access())
        with running(pages) as root:
            _draw(browser, f"{root}/monitors/{entry.name}", "monitor", lambda page: page.locator("h1").wait_for(),
                  height=1170)  # fmt: skip
        browser.close()
        registry.close()


_WATCHING = {
    "schedule": "0 6 * * *",
    "timezone": "America/Chicago",
    "late": "9000d",
    "changes": {"hysteresis": 0.05, "min_area_m2": 2000},
    "alerts": [
        {"name": "drying", "prompt": "lake", "change": "vanished", "area_m2": 50_000},
        {"name": "flooding", "prompt": "lake", "change": "appeared", "area_m2": 50_000},
    ],
    "sinks": [{"name": "archive", "file": "alerts.parquet"}],
}


def _tick(store: Monitors, at: datetime) -> None:
    """What is due at this time, on a clock that shows it."""
    from jobs.monitors.delivery import deliver, sinks_of_jobs
    from jobs.monitors.hands import RealClock
    from jobs.monitors.loop import Scheduler
    from jobs.monitors.tick import Where, job_of, run_tick

    begun = time.monotonic()

    class Then(RealClock):
        def now(self) -> datetime:
            return at + timedelta(seconds=time.monotonic() - begun)

    def send(moment: datetime) -> int:
        return deliver(store, sinks_of_jobs({row.name: job_of(row).spec for row in store.all()}), moment)

    where, then = Where(local=True), Then()
    ended = Scheduler(
        store,
        lambda row, due, stopped: run_tick(row, due, stopped, store=store, where=where, clock=then.now),
        clock=then,
        deliver=send,
    ).once()
    for tick in ended:
        print(f"{tick.due:%Y-%m-%d}: {tick.state}: {tick.said}", file=sys.stderr, flush=True)


def _job(catalog: DemoCatalog, mosaic: Path) -> str:
    west, south, east, north = catalog.area
    return f"""\
name: A small Earth
area: {{bbox: [{west}, {south}, {east}, {north}]}}
imagery:
  catalog: {catalog.catalog}
  collections: [{catalog.collection}]
  bands: [red, green, blue]
  composite: least-cloudy
grid: {{crs: utm, resolution_m: 0.6, shard_px: 128, chunk_px: 128}}
prompts:
  - {{name: building, expression: the buildings}}
  - {{name: lake, expression: all the lakes}}
model: {{name: pocket}}
compute: {{usd_per_gpu_hour: 0.71}}
output: {{mosaic: {mosaic}}}
"""


def _wait_until(queries: Queries, key: str, share: float) -> None:
    """Until so much of it is decided."""
    until = time.monotonic() + ENDS_WITHIN_S
    while time.monotonic() < until:
        try:
            progress = queries.page(key).progress
        except MapperError:  # it is not planned yet
            time.sleep(0.5)
            continue
        if progress.planned and progress.planned - progress.waiting >= share * progress.planned:
            return
        time.sleep(0.2)
    raise SystemExit("the run does not get on")


def _open_a_tile(page: Any) -> None:
    """The map, with what was seen below the answer, and the tile in its middle."""
    page.locator("#frame[data-ready]").wait_for()
    page.get_by_label("imagery below it").check()
    page.locator("#map canvas").press("Enter")
    page.locator("#panel h1").wait_for()
    page.wait_for_timeout(IMAGERY_MS)


def _draw(browser: Any, address: str, name: str, prepare: Callable[[Any], None], *, height: int = 860) -> None:
    """One page, in light and dark; what fits a window of it."""
    from PIL import Image

    for scheme in ("light", "dark"):
        with browser.new_context(
            viewport={"width": WIDTH, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        ) as context:
            page = context.new_page()
            page.goto(address)
            prepare(page)
            page.wait_for_timeout(SETTLES_MS)
            path = PICTURES / f"dashboard-{name}{'-dark' if scheme == 'dark' else ''}.png"
            page.screenshot(path=path)
        if path.stat().st_size > MOST_BYTES:
            with Image.open(path) as taken:
                taken.convert("RGB").quantize(144, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
