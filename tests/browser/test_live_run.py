"""A run on Ray with a logical GPU, watched in a real browser from its beginning to its end, and taken up again."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.dashboard.app import app
from jobs.dashboard.keys import Access
from jobs.dashboard.map_colours import STATE_COLOURS
from jobs.dashboard.queries import Queries
from jobs.executor import Executor
from jobs.ledger import RunFolder
from jobs.registry import Registry
from tests.browser.conftest import HAS_MAP, opened
from tests.jobs.dashboard.running import running
from tests.stories.world import write_world

pytestmark = (
    pytest.mark.slow
)  # two minutes of a run and a browser; test_pages.py looks at the same pages, standing still

ENDS_WITHIN_S = 150
COUNTED = ("done", "nodata", "failed", "quarantined")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    root: str
    key: str
    mosaic: Path
    broken: Path
    whole: bytes
    """What the file held before it was broken."""

    seen: tuple[int, ...]
    """Tiles decided, as the page said each time while it ran."""

    said: dict[str, int]
    """What the page said at the end, by state; it was never loaded again."""

    filled: tuple[int, ...]
    """Pixels of its map that told of a tile done, in the middle of it and at the end."""


@pytest.fixture(scope="module")
def watched(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "world").mkdir()
    world = write_world(folder / "world")
    broken = folder / "world" / "middle.tif"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    job = world.job(folder / "map.zarr", grid={"shard_px": 64, "chunk_px": 64})
    registry = Registry(f"sqlite:///{folder}/registry.sqlite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLOUR_SLEEP_S", "0.1")
        patch.setenv("RESMAP_REGISTRY", f"sqlite:///{folder}/registry.sqlite")
        with Executor(registry, folder=folder / "jobs") as executor:
            key = executor.submit(json.dumps(job), gpus=1).key
            with running(app(Queries(registry), executor, access=Access())) as root:
                seen, said, filled = watch(browser, root, key)
                yield Watched(root=root, key=key, mosaic=folder / "map.zarr", broken=broken, whole=whole,
                              seen=seen, said=said, filled=filled)  # fmt: skip


def watch(browser: Any, root: str, key: str) -> tuple[tuple[int, ...], dict[str, int], tuple[int, ...]]:
    """What the page shows until the run is over. It is opened once, and moves by itself."""
    seen: list[int] = []
    filled: list[int] = []
    with opened(browser, root, f"/runs/{key}") as shown:
        until = time.monotonic() + ENDS_WITHIN_S
        while not is_over(shown):
            assert time.monotonic() < until, shown.locator("main").inner_text()
            decided = figure_of(shown, "#finished")
            seen = seen if seen and seen[-1] == decided else [*seen, decided]
            if len(seen) == 2 and not filled:
                filled.append(pixels_done(shown, root, key))
            shown.wait_for_timeout(200)
        said = {name: figure_of(shown, f"#tiles-{name}") for name in COUNTED}
        filled.append(pixels_done(shown, root, key))
    return tuple(seen), said, tuple(filled)


def is_over(shown: Any) -> bool:
    return bool(shown.locator("h1 .state-quarantined, h1 .state-done").count())


def figure_of(shown: Any, place: str) -> int:
    return int(shown.locator(place).inner_text().replace(",", ""))


def pixels_done(shown: Any, root: str, key: str) -> int:
    """On the map of tiles by state, as those without scripts see it."""
    colour = tuple(bytes.fromhex(STATE_COLOURS["done"][1:]))
    page = shown.request.get(f"{root}/runs/{key}/map", headers={"Accept": "text/html"}).text()
    pictures = re.findall(r'<img src="([^"]+/map/[^"]+\.png)"', page)
    assert pictures
    count = 0
    for address in pictures:
        picture = Image.open(io.BytesIO(shown.request.get(root + address).body())).convert("RGB")
        count += int((np.asarray(picture) == colour).all(axis=2).sum())
    return count


def test_figures_move_while_it_runs_and_only_grow(watched: Watched) -> None:
    assert len(watched.seen) >= 4
    assert list(watched.seen) == sorted(watched.seen)


def test_figures_at_the_end_are_those_of_the_ledger(watched: Watched) -> None:
    counts = RunFolder(str(watched.mosaic), watched.key.rsplit("-", 1)[0]).counts()
    assert watched.said == {name: counts[name] for name in COUNTED}
    assert watched.said["done"] > 0
    assert watched.said["quarantined"] + watched.said["failed"] > 0


def test_the_map_fills(watched: Watched) -> None:
    in_the_middle, at_the_end = watched.filled
    assert in_the_middle < at_the_end


def test_a_failed_tile_is_found_read_and_taken_again_by_mouse(browser: Any, watched: Watched) -> None:
    """Last: it mends what was broken, and the run ends well."""
    with opened(browser, watched.root, f"/runs/{watched.key}") as shown:
        shown.get_by_role("link", name="All failures, by cause").click()
        shown.locator(".tiles a").first.click()
        assert "middle.tif" in shown.locator("#error").inner_text()
        if HAS_MAP:
            shown.get_by_role("link", name="On the map").click()
            shown.get_by_role("complementary", name="The tile").get_by_text("middle.tif").first.wait_for()
        watched.broken.write_bytes(watched.whole)
        shown.get_by_role("button", name="Retry all tiles given up").click()
        shown.locator("h1 .state-queued, h1 .state-running").wait_for()
        shown.locator("h1 .state-done").wait_for(timeout=1000 * ENDS_WITHIN_S)
        assert figure_of(shown, "#tiles-failed") + figure_of(shown, "#tiles-quarantined") == 0
    counts = RunFolder(str(watched.mosaic), watched.key.rsplit("-", 1)[0]).counts()
    assert counts["failed"] + counts["quarantined"] == 0
