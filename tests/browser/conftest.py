"""A real browser, and pages in which nothing may go wrong unseen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from jobs.dashboard.pages import STATIC

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
AXE = STATIC.parent / "front" / "node_modules" / "axe-core" / "axe.min.js"
HAS_MAP = (STATIC / "vendor" / "maplibre-gl.mjs").is_file()

needs_map = pytest.mark.skipif(not HAS_MAP, reason="the map's library is not here: make setup brings it, with npm")
needs_axe = pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not here: make setup brings it, with npm")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, root: str, path: str = "/", **settings: Any) -> Iterator[Any]:
    """A page; what goes wrong in it, asks for a click or leaves this server fails the test.

    That covers breaches of the content security policy, which browsers report as errors.
    """
    with browser.new_context(viewport={"width": 1280, "height": 900}, **settings) as context:
        page = context.new_page()
        page.set_default_timeout(15_000)
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: asked_for_a_click(dialog, wrong))
        page.on("request", lambda asked: None if asked.url.startswith((root, "blob:")) else wrong.append(asked.url))
        page.goto(root + path)
        yield page
        assert wrong == []


def asked_for_a_click(dialog: Any, wrong: list[str]) -> None:
    wrong.append(f"a dialog: {dialog.message}")
    dialog.dismiss()
