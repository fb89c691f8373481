"""Pictures of the dashboard for the pages about it, of a real run over the synthetic Earth of the demo.

python -m benchmarks.screenshots

Needs Chromium, and the map's library (``make setup``, with npm). The workers are logical GPUs of this machine.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from catalogs.synthetic import DemoCatalog, write_demo_catalog
from jobs.dashboard.queries import Queries
from mapper.errors import MapperError

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SIZE = {"width": 1280, "height": 860}
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


def main() -> None:
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


def _draw(browser: Any, address: str, name: str, prepare: Callable[[Any], None]) -> None:
    """One page, in light and dark."""
    from PIL import Image

    for scheme in ("light", "dark"):
        with browser.new_context(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce") as context:
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
