"""The preview's page in a real browser: what it draws, how it is steered, and that strangers' words do nothing."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.preview.app import app
from mapper.web.tile_picture import colour_of
from tests.jobs.four_quarters import HOSTILE, made, served

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    mosaic = made(tmp_path_factory.mktemp("page") / "map.zarr")
    with served(app({"map": mosaic.url})) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, root: str) -> Iterator[Any]:
    """The map, drawn; whatever goes wrong in it, or leaves this machine, fails the test."""
    with browser.new_context(viewport={"width": 1100, "height": 700}) as context:
        page = context.new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: None if request.url.startswith((root, "blob:")) else wrong.append(request.url)
        )
        page.goto(f"{root}/map/")
        page.wait_for_load_state("networkidle")
        yield page
        assert wrong == []


def colours(page: Any) -> dict[tuple[int, int, int], int]:
    """Colour → pixels of what the page shows."""
    picture = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).reshape(-1, 3)
    kinds, counts = np.unique(picture, axis=0, return_counts=True)
    return {(int(r), int(g), int(b)): int(count) for (r, g, b), count in zip(kinds, counts, strict=True)}


def near(colour: tuple[int, int, int], seen: dict[tuple[int, int, int], int]) -> int:
    """Pixels within 25 of a colour in each band: it is drawn at 92 % over what lies below."""
    return sum(
        count for kind, count in seen.items() if all(abs(a - b) <= 25 for a, b in zip(kind, colour, strict=True))
    )


def test_the_browser_shows_what_is_present(page: Any) -> None:
    page.get_by_label("the buildings").set_checked(True)
    page.locator("input[name=prompt][value='1']").set_checked(False)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)
    assert near(colour_of(0), colours(page)) > 10_000
    page.get_by_label("the buildings").set_checked(False)
    page.wait_for_timeout(300)
    assert near(colour_of(0), colours(page)) < 2_000


def test_words_of_strangers_do_nothing_in_the_browser(page: Any) -> None:
    page.locator("#map").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#values table")
    assert HOSTILE in page.locator("#values").inner_text()
    assert page.locator("img").count() == 0
    assert page.title().startswith("Four quarters")


def test_the_keyboard_moves_zooms_and_reads(page: Any) -> None:
    page.locator("#map").focus()
    for key in ("Home", "+", "ArrowLeft", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#values table")
    page.wait_for_timeout(400)
    where = page.evaluate("location.hash")
    zoom = float(where[1:].split("/")[0])
    page.keyboard.press("-")
    page.wait_for_timeout(400)
    assert float(page.evaluate("location.hash")[1:].split("/")[0]) == pytest.approx(zoom - 0.5, abs=0.011)


def test_an_address_that_was_kept_comes_back_to_its_place(page: Any, root: str) -> None:
    page.goto("about:blank")
    page.goto(f"{root}/map/#13.50/55.431000/11.985000/1/0/score")
    page.wait_for_load_state("networkidle")
    assert not page.get_by_label("the buildings").is_checked()
    assert page.locator("input[name=prompt][value='1']").is_checked()
    assert page.get_by_label("probability").is_checked()
    assert page.locator("#time").input_value() == "0"
    assert page.locator("#when").inner_text() == "2023-05-01"
