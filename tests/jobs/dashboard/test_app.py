"""The pages: what they show, that strangers' words stay words, and the command that serves them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from jobs.dashboard.keys import Access
from jobs.dashboard.views import Event, FailureGroup, RunPage, Straggler
from mapper.errors import QuestionError
from tests.jobs.dashboard.fakes import BEGAN, DONE, HELD, LIVE, page
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.running import BEARER, BROWSER, TOKEN, Asked

PAGES = (
    "/",
    f"/runs/{LIVE.id}",
    f"/runs/{LIVE.id}/map",
    f"/runs/{LIVE.id}/failures",
    f"/runs/{LIVE.id}/tiles/99",
    "/monitors",
    "/monitors/nepal",
    "/monitors/lakes",
    f"/compare?a={LIVE.id}&b={DONE.id}",
)


@pytest.fixture
def asked() -> Iterator[Asked]:
    with Asked(Access(token=TOKEN)) as asked:
        yield asked


@pytest.fixture(scope="module")
def shared() -> Iterator[Asked]:
    """For questions alone."""
    with Asked(Access(token=TOKEN)) as asked:
        yield asked


class Seen(HTMLParser):
    """The elements of a page with the names of their attributes, where they lead, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.leads: set[str] = set()
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.leads |= {value or "" for name, value in attrs if name in ("href", "src", "action", "formaction")}

    def handle_data(self, data: str) -> None:
        self.words += data


# What they show ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_each_page_is_also_json_at_its_own_address_and_at_the_one_it_names(shared: Asked, path: str) -> None:
    shown = shared.client.get(path, headers=BROWSER)
    assert (shown.status_code, shown.headers["content-type"]) == (200, "text/html; charset=utf-8")
    (address,) = re.findall(r'<(/api/v1/[^>]*)>; rel="alternate"; type="application/json"', shown.headers["link"])
    same = shared.client.get(path, headers={"Accept": "application/json"})
    assert same.headers["content-type"] == "application/json"
    assert same.json() == shared.client.get(address).json()
    assert shown.headers["vary"] == "Accept"


def test_the_pages_tell_what_they_are_of(shared: Asked) -> None:
    for path, words in {
        "/": (LIVE.name, DONE.name, HOSTILE[2]),
        f"/runs/{LIVE.id}": ("the buildings", "reads hold back 5 of 8 GPUs", "gpu-7"),
        f"/runs/{LIVE.id}/failures": ("ReadError", "AssetError", HOSTILE[0]),
        f"/runs/{LIVE.id}/tiles/99": ("r0001c0035", HOSTILE[0]),
        f"/runs/{LIVE.id}/log": ("tile r0000c0599 is done", HOSTILE[0]),
        f"/compare?a={LIVE.id}&b={DONE.id}": ("area an hour", "compute.readers"),
        "/compare": (LIVE.name,),
        "/monitors": ("nepal", HOSTILE[0]),
        "/monitors/nepal": ("every day at 06:00", "the catalog is down", "yet to come", *HOSTILE[:2], *HOSTILE[3:5]),
        "/monitors/lakes": (HOSTILE[0], "resmap monitor serve"),
    }.items():
        told = Seen(shared.client.get(path, headers=BROWSER).text).words
        assert all(word in told for word in words), path


def test_a_run_that_has_kept_no_log_says_so(asked: Asked) -> None:
    def none(key: str, *, after: int = 0) -> tuple[str, int]:
        raise QuestionError("this run was not submitted: what it says is where it was begun")

    asked.control.log = none  # type: ignore[method-assign]
    shown = asked.client.get(f"/runs/{LIVE.id}/log", headers=BROWSER)
    assert shown.status_code == 200
    assert "Nothing was kept" in shown.text


def test_of_a_long_log_the_end_is_shown_and_its_beginning_is_read_once(asked: Asked) -> None:
    asked.control.said = "".join(f"line {number}\n" for number in range(200_000))
    read: list[int] = []
    kept = asked.control.log

    def counted(key: str, *, after: int = 0) -> tuple[str, int]:
        read.append(after)
        return kept(key, after=after)

    asked.control.log = counted  # type: ignore[method-assign]
    shown = asked.client.get(f"/runs/{LIVE.id}/log", headers=BROWSER).text
    assert "line 199999" in shown
    assert "line 1\n" not in shown
    first = len(read)
    assert "line 199999" in asked.client.get(f"/runs/{LIVE.id}/log", headers=BROWSER).text
    assert len(read) - first <= 5 < first


def test_what_is_not_there_is_a_page_with_a_sentence(shared: Asked) -> None:
    of = f"/runs/{LIVE.id}"
    for path in ("/nothing", "/runs/nobody", "/runs/nobody/map", f"{of}/tiles/999999", f"{of}/tiles/{'9' * 4000}",
                 f"{of}/x", "/compare?a=nobody&b=nobody", "/static/nothing.js"):  # fmt: skip
        shown = shared.client.get(path, headers=BROWSER)
        assert (shown.status_code, shown.headers["content-type"]) == (404, "text/html; charset=utf-8"), path
        plain = shared.client.get(path)
        assert plain.status_code == 404
        assert set(plain.json()) == {"error", "fix"}


def test_the_buttons_do_what_they_say_and_lead_back(asked: Asked) -> None:
    headers = {**BROWSER, **BEARER, "Origin": "http://127.0.0.1:8765", "Sec-Fetch-Site": "same-origin"}
    for act, run in (("cancel", LIVE), ("retry", HELD)):
        done = asked.client.post(f"/runs/{run.id}/{act}", headers=headers, data={})
        assert (done.status_code, done.headers["location"]) == (303, f"/runs/{run.id}")
    assert [(what, key) for what, key, _ in asked.control.asked] == [("cancel", LIVE.id), ("retry", HELD.id)]
    refused = asked.client.post(f"/runs/{DONE.id}/cancel", headers=headers, data={})
    assert refused.status_code == 409
    assert "this run is not under way" in refused.text


def test_a_report_runs_nothing_wherever_it_is_opened(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.dashboard.report.html", lambda source, key: f"<p>{key}</p>")
    shown = asked.client.get(f"/runs/{LIVE.id}/report.html", headers=BROWSER)
    assert shown.text == f"<p>{LIVE.id}</p>"
    policy = [part.strip() for part in shown.headers["content-security-policy"].split(";")]
    assert {"default-src 'none'", "sandbox", "frame-ancestors 'none'"} <= set(policy)
    assert not any("script-src" in part for part in policy)


def test_machines_are_told_that_it_lives_and_how_runs_stand(shared: Asked) -> None:
    assert shared.client.get("/healthz").text == "ok\n"
    metrics = shared.client.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "# HELP resmap_" in metrics.text


def test_it_works_below_another_application() -> None:
    with Asked(Access(token=TOKEN, loopback=False)) as asked:
        outer = Starlette(routes=[Mount("/maps", asked.app)])
        client = TestClient(outer, base_url="http://127.0.0.1:8765", follow_redirects=False)
        door = client.get(f"/maps/runs/{LIVE.id}", headers=BROWSER)
        assert door.status_code == 401
        assert 'action="/maps/login"' in door.text
        assert f'value="/maps/runs/{LIVE.id}"' in door.text
        let_in = client.get(f"/maps/runs/{LIVE.id}?token={TOKEN}", headers=BROWSER)
        assert let_in.headers["location"] == f"/maps/runs/{LIVE.id}"
        assert "Path=/maps" in let_in.headers["set-cookie"]
        shown = client.get(f"/maps/runs/{LIVE.id}", headers=BROWSER)
        assert all(lead.startswith(("/maps/", "#")) for lead in Seen(shown.text).leads)
        assert client.get("/maps/static/door.css").status_code == 200
        assert "</maps/api/v1/" in shown.headers["link"]


# Words of strangers --------------------------------------------------------------------------------------------------


def filled(words: tuple[str, ...]) -> RunPage:
    """A run in which everything that a stranger can choose is one of these words."""
    kept, one = page(LIVE), words[0]
    group = FailureGroup(cause=one, count=2, first_tile=1, first_name=one, first_error=one, fix=one, retryable=True,
                         tiles=((1, one), (2, one)))  # fmt: skip
    slow = Straggler(tile=1, name=one, seconds=1.0, worker=one, parts={"read": 1.0}, times_median=2.0)
    return replace(
        kept,
        line=replace(kept.line, name=one, mosaic=one, run=one),
        gpus=tuple(replace(gpu, worker=word, host=word, device=word) for gpu, word in zip(kept.gpus, words)),  # noqa: B905
        bottleneck=replace(kept.bottleneck, sentence=one),
        failures=tuple(replace(group, cause=word, first_error=word, fix=word, first_name=word) for word in words),
        stragglers=tuple(replace(slow, name=word, worker=word) for word in words[:10]),
        calls=tuple(replace(kept.calls[0], host=word) for word in words),
        events=tuple(Event(number=n + 1, at=BEGAN, kind=word, text=word) for n, word in enumerate(words[::-1])),
        prompts=tuple((word, word) for word in words),
        model=one,
    )  # fmt: skip


def letters(text: str) -> str:
    """Less what parsers of HTML change by themselves: ends of lines, and what is no character."""
    return re.sub(r"[\x00\r\n\ufffd]", "", text)


@pytest.mark.parametrize("path", ["/", f"/runs/{LIVE.id}", f"/runs/{LIVE.id}/map", f"/runs/{LIVE.id}/failures"])
def test_two_hundred_hostile_strings_are_text_wherever_a_stranger_can_put_them(asked: Asked, path: str) -> None:
    plain = tuple(f"word {number}" for number in range(len(HOSTILE)))
    asked.queries.pages = {LIVE.id: filled(plain)}
    expected = Seen(asked.client.get(path, headers=BROWSER).text)
    asked.queries.pages = {LIVE.id: filled(HOSTILE)}
    seen = Seen(asked.client.get(path, headers=BROWSER).text)
    assert seen.elements == expected.elements
    assert all(lead.startswith(("/", "#")) for lead in seen.leads)
    told = letters(seen.words)
    words = HOSTILE[:1] if path == "/" else HOSTILE
    assert [word for word in words if letters(word) not in told] == []


def test_a_hostile_string_is_no_address_and_makes_no_element_of_the_page_that_says_so(shared: Asked) -> None:
    expected = Seen(shared.client.get("/runs/nobody", headers=BROWSER).text).elements
    for word in HOSTILE:
        for path in (f"/runs/{quote(word, safe='')}", f"/runs/{quote(word, safe='')}/failures",
                     f"/compare?a={quote(word, safe='')}&b={LIVE.id}"):  # fmt: skip
            answer = shared.client.get(path, headers=BROWSER)
            assert answer.status_code == 404
            assert Seen(answer.text).elements == expected
        api = shared.client.get(f"/api/v1/runs/{quote(word, safe='')}")
        assert (api.status_code, api.headers["content-type"]) == (404, "application/json")


def test_a_hostile_job_is_refused_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.dashboard.guard.CHANGES", (1000, 1.0))
    with Asked(Access(token=TOKEN)) as asked:
        for word in HOSTILE:
            answer = asked.client.post("/api/v1/runs", json={"job": word}, headers={**BEARER, **BROWSER})
            assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
        assert asked.control.asked == []
