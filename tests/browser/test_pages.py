"""The dashboard's pages in a real browser: what they say, how they are steered; strangers' words do nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from jobs.dashboard.app import app
from jobs.dashboard.keys import Access
from jobs.dashboard.views import Event
from tests.browser.conftest import AXE, HAS_MAP, needs_axe, needs_map, opened
from tests.jobs.dashboard.fakes import BEGAN, HELD, LIVE, FakeControl, FakeQueries, failures, gpu, line, page
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.running import running

RUN = f"/runs/{LIVE.id}"
PAGES = ["/", RUN, f"{RUN}/map", f"{RUN}/failures", f"{RUN}/tiles/99", f"{RUN}/log", "/monitors", "/monitors/nepal",
         "/monitors/lakes", f"/compare?a={LIVE.id}&b={HELD.id}"]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    root: str
    queries: FakeQueries
    control: FakeControl


@contextmanager
def serving() -> Iterator[Served]:
    queries = FakeQueries()
    control = FakeControl(queries)
    with running(app(queries, control, access=Access())) as root:
        yield Served(root=root, queries=queries, control=control)


@pytest.fixture
def there() -> Iterator[Served]:
    """Pages of which something is asked, or whose runs go on."""
    with serving() as served:
        yield served


@pytest.fixture(scope="module")
def still() -> Iterator[Served]:
    """Pages that are only looked at."""
    with serving() as served:
        yield served


def as_browsers_read(text: str) -> str:
    """HTML knows one kind of line end, and no NUL."""
    return text.replace("\r\n", "\n").replace("\x00", "").strip()


def full(words: tuple[str, ...]) -> FakeQueries:
    """Runs in which everything that can have a name has one of these words."""
    lines = [line(f"run-{n}", name=word, mosaic=f"/maps/{n}", live=False) for n, word in enumerate(words)]
    first = page(lines[0])
    events = tuple(Event(number=n + 1, at=BEGAN, kind="warning", text=word) for n, word in enumerate(words))
    groups = tuple(replace(failures()[0], cause=word, first_error=word, first_name=word, fix=word) for word in words)
    rows = tuple(replace(gpu(0, pace=1.0), worker=word, host=word, device=word) for word in words)
    said: dict[str, Any] = {"prompts": tuple((word, word) for word in words), "model": words[0]}
    filled = replace(first, events=events, failures=groups, gpus=rows, **said)
    return FakeQueries(pages={of.id: page(of) for of in lines} | {lines[0].id: filled})


def settled(shown: Any, path: str) -> None:
    """All of it is there, the map too."""
    shown.wait_for_load_state("load")
    if path.endswith("/map") and HAS_MAP:
        shown.locator("#frame[data-ready]").wait_for()


def elements(shown: Any) -> Counter[str]:
    return Counter(shown.evaluate("[...document.querySelectorAll('*')].map((element) => element.tagName)"))


@pytest.mark.parametrize("path", ["/", "", "/failures", "/map"])
def test_words_of_strangers_are_text_and_make_no_element(browser: Any, path: str) -> None:
    found = []
    for words in (tuple(f"word {n}" for n in range(len(HOSTILE))), HOSTILE):
        queries = full(words)
        key = next(iter(queries.pages))
        with (
            running(app(queries, FakeControl(queries), access=Access())) as root,
            opened(browser, root, path if path == "/" else f"/runs/{key}{path}") as shown,
        ):
            settled(shown, path)
            text = as_browsers_read(shown.evaluate("document.documentElement.textContent"))
            assert [word for word in words if as_browsers_read(word) not in text] == []
            assert shown.title() != "caught"
            found.append(elements(shown))
    assert len(HOSTILE) == 200
    assert found[0] == found[1]


@needs_axe
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_in_light_and_dark(browser: Any, still: Served, path: str) -> None:
    with opened(browser, still.root, path, reduced_motion="reduce") as shown:
        settled(shown, path)
        shown.evaluate(AXE.read_text())
        for scheme, rules in (("light", "{}"), ("dark", "{runOnly: ['color-contrast']}")):  # all that it changes
            shown.emulate_media(color_scheme=scheme)
            found = shown.evaluate(f"axe.run(document, {{resultTypes: ['violations'], ...{rules}}})")["violations"]
            told = [(rule["id"], scheme, [node["html"][:200] for node in rule["nodes"][:3]]) for rule in found]
            assert told == []


@needs_axe
@pytest.mark.parametrize(
    ("path", "access"), [("/runs/nowhere", Access()), ("/login", Access(token="t", loopback=False))]
)
def test_axe_finds_nothing_on_the_pages_of_those_who_are_lost(browser: Any, path: str, access: Access) -> None:
    queries = FakeQueries()
    with (
        running(app(queries, FakeControl(queries), access=access)) as root,
        browser.new_context(reduced_motion="reduce") as context,
    ):
        shown = context.new_page()
        shown.goto(root + path)
        shown.evaluate(AXE.read_text())
        for scheme in ("light", "dark"):
            shown.emulate_media(color_scheme=scheme)
            found = shown.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            assert [(rule["id"], scheme, [node["html"][:200] for node in rule["nodes"]]) for rule in found] == []


@pytest.mark.parametrize("path", PAGES)
def test_pages_say_what_they_have_to_say_without_scripts(browser: Any, still: Served, path: str) -> None:
    told = {
        "/": "Kathmandu, buildings",
        RUN: "22 to 35 minutes left",
        f"{RUN}/map": "zoom in",
        f"{RUN}/failures": "given up",
        f"{RUN}/tiles/99": "AssetError",
        f"{RUN}/log": "tile r0000c0001 is done",
        "/monitors": "nepal",
        "/monitors/nepal": "the catalog is down",
        "/monitors/lakes": "It has not looked yet",
    }
    with opened(browser, still.root, path, java_script_enabled=False) as shown:
        assert told.get(path, "1.39 ×") in shown.locator("main").inner_text()


def test_a_run_is_cancelled_and_tiles_are_retried_without_scripts(browser: Any, there: Served) -> None:
    with opened(browser, there.root, RUN, java_script_enabled=False) as shown:
        shown.get_by_role("button", name="Cancel").click()
        shown.get_by_role("heading", name="Kathmandu").wait_for()
        shown.goto(f"{there.root}/runs/{HELD.id}/failures")
        shown.get_by_role("button", name="Retry all 96 tiles").click()
        shown.wait_for_load_state("load")
    assert [(what, key) for what, key, _ in there.control.asked] == [("cancel", LIVE.id), ("retry", HELD.id)]


def test_the_map_without_scripts_has_pictures_and_links_that_zoom(browser: Any, still: Served) -> None:
    with opened(browser, still.root, f"{RUN}/map", java_script_enabled=False) as shown:
        before = shown.locator(".pieces img").first.get_attribute("src")
        shown.get_by_role("link", name="zoom in", exact=True).click()
        after = shown.locator(".pieces img").first.get_attribute("src")
        assert before is not None
        assert after is not None
        assert int(after.split("/")[-3]) == int(before.split("/")[-3]) + 1
        assert shown.locator(".pieces img").count() == 15


def test_a_change_touches_only_what_changed_and_keeps_the_focus(browser: Any, there: Served) -> None:
    rows = tuple(replace(gpu(0, pace=1.0), worker=f"gpu-{n}", host=f"node-{n}") for n in range(256))
    there.queries.pages[LIVE.id] = before = replace(page(), gpus=rows)
    with opened(browser, there.root, RUN) as shown:
        head = shown.get_by_role("button", name="Busy")
        head.focus()
        shown.wait_for_timeout(1500)  # the stream's first page, which is as the one shown
        shown.evaluate("""() => {
            window.touched = new Set();
            new MutationObserver((seen) => {
                for (const { target } of seen) {
                    const row = (target.nodeType === 1 ? target : target.parentElement).closest("[data-key]");
                    if (row) window.touched.add(row.dataset.key);
                }
            }).observe(document.querySelector(".gpus"),
                       { subtree: true, childList: true, characterData: true, attributes: true });
        }""")
        moved = replace(rows[100], tiles=4711)
        there.queries.pages[LIVE.id] = replace(before, gpus=(*rows[:100], moved, *rows[101:]))
        shown.locator(".gpu-tiles", has_text="4,711").wait_for()
        assert shown.evaluate("[...window.touched]") == ["gpu-gpu-100"]
        assert shown.evaluate("document.activeElement.textContent") == "Busy"


def test_rows_are_sorted_by_a_button_and_stay_so_while_figures_move(browser: Any, there: Served) -> None:
    with opened(browser, there.root, RUN) as shown:
        names = "[...document.querySelectorAll('.gpus tbody th')].map((cell) => cell.firstChild.textContent)"
        slowest_first = shown.evaluate(names)
        shown.locator(".gpus").get_by_role("button", name="Tiles", exact=True).press("Enter")
        assert shown.evaluate(names) == slowest_first[::-1]
        old = there.queries.pages[LIVE.id]
        there.queries.pages[LIVE.id] = replace(old, progress=replace(old.progress, done=old.progress.done + 2))
        shown.locator("#tiles-done", has_text="1,352").wait_for()
        assert shown.evaluate(names) == slowest_first[::-1]
        assert shown.locator(".gpus [aria-sort=descending]").inner_text().startswith("Tiles")


def test_the_keyboard_reaches_the_content_the_help_and_the_other_pages(browser: Any, still: Served) -> None:
    with opened(browser, still.root, RUN) as shown:
        shown.keyboard.press("Tab")
        assert shown.evaluate("document.activeElement.textContent") == "Skip to the content"
        shown.keyboard.press("Enter")
        assert shown.evaluate("document.activeElement.id") == "main"
        shown.keyboard.press("?")
        assert shown.locator("dialog").get_by_text("overview of this run").is_visible()
        shown.keyboard.press("Escape")
        shown.keyboard.press("g")
        shown.keyboard.press("f")
        shown.wait_for_url("**/failures")


def test_light_and_dark_are_chosen_and_remembered(browser: Any, still: Served) -> None:
    with opened(browser, still.root, "/", color_scheme="light") as shown:
        light = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        shown.get_by_role("button", name="Dark").click()
        shown.goto(still.root + RUN)
        assert shown.evaluate("getComputedStyle(document.body).backgroundColor") != light


@needs_map
def test_a_failed_tile_is_opened_on_the_map_by_the_keyboard_and_closed_again(browser: Any, still: Served) -> None:
    with opened(browser, still.root, f"{RUN}/map#14/27.8925/85.3775/state/0/0", reduced_motion="reduce") as shown:
        shown.locator("#frame[data-ready]").wait_for()
        shown.locator("#map canvas").press("Enter")
        panel = shown.get_by_role("complementary", name="The tile")
        panel.get_by_role("heading", name="AssetError").wait_for()
        assert HOSTILE[0] in panel.inner_text()
        assert shown.evaluate("document.activeElement.id") == "panel"
        shown.keyboard.press("Escape")
        assert panel.is_hidden()
        assert shown.evaluate("document.activeElement.tagName") == "CANVAS"


def test_a_failed_tile_is_found_read_and_taken_again_by_keyboard(browser: Any, there: Served) -> None:
    with opened(browser, there.root, f"/runs/{HELD.id}") as shown:
        for leads_to in ("All failures, by cause", "r0001c0035", "Retry all tiles given up"):
            tab_to(shown, leads_to)
            shown.keyboard.press("Enter")
            shown.wait_for_load_state("load")
        shown.get_by_role("heading", name="quarantined").wait_for()
    assert [(what, key) for what, key, _ in there.control.asked] == [("retry", HELD.id)]


def tab_to(shown: Any, name: str) -> None:
    """On from one thing to the next, as people do who have no mouse."""
    shown.locator("a, button", has_text=name).first.wait_for()
    for _ in range(150):
        shown.keyboard.press("Tab")
        if shown.evaluate("document.activeElement.textContent").strip() == name:
            return
    raise AssertionError(f"the keyboard does not come to {name!r}")


@needs_map
def test_a_tile_leads_to_its_place_on_the_map(browser: Any, still: Served) -> None:
    with opened(browser, still.root, f"{RUN}/tiles/99", reduced_motion="reduce") as shown:
        shown.get_by_role("link", name="On the map").click()
        shown.get_by_role("complementary", name="The tile").get_by_role("heading", name="AssetError").wait_for()
        shown.wait_for_url(re.compile(r"#1\d\.\d+/27\.6025\d*/85\.3775\d*/"))


@needs_map
def test_an_address_of_the_map_that_was_kept_comes_back_to_its_place(browser: Any, still: Served) -> None:
    with opened(browser, still.root, f"{RUN}/map#9.50/27.7000/85.4000/seconds/1/0") as shown:
        shown.locator("#frame[data-ready]").wait_for()
        assert shown.get_by_role("radio", name="seconds").is_checked()
        assert shown.locator("#prompt").input_value() == "1"
        assert shown.locator("#when").inner_text() == "2023-05-01"
        shown.locator("#map canvas").press("ArrowRight")
        shown.wait_for_url(re.compile(r"#9\.50/27\.7000/(?!85\.4000).*/seconds/1/0$"))
