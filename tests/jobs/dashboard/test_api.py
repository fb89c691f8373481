"""The API: what it answers is what its document says, and what it is told it does."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dashboard import stream
from jobs.dashboard.keys import Access
from jobs.dashboard.views import RunPage
from mapper.errors import MosaicError, StoreError
from tests.jobs.dashboard.fakes import BEGAN, DONE, HELD, LIVE, QUEUED, happened, page
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.running import BEARER, BROWSER, TOKEN, Asked, running, streamed

API = "/api/v1"
RUN = f"{API}/runs/{LIVE.id}"


@pytest.fixture
def asked() -> Iterator[Asked]:
    with Asked(Access(token=TOKEN)) as asked:
        yield asked


@pytest.fixture(scope="module")
def shared() -> Iterator[Asked]:
    """For questions alone."""
    with Asked(Access(token=TOKEN)) as asked:
        yield asked


@pytest.fixture(scope="module")
def document(shared: Asked) -> dict[str, Any]:
    found: dict[str, Any] = shared.client.get(f"{API}/openapi.json").json()
    return found


def plain(value: Any) -> Any:
    """A value of views as JSON has it: moments with a Z, and lists."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


# Questions -----------------------------------------------------------------------------------------------------------


def test_each_question_answers_with_the_value_that_its_page_draws(shared: Asked) -> None:
    queries = shared.queries
    for path, value in {
        "/runs": [asdict(line) for line in queries.runs()],
        f"/runs/{LIVE.id}": asdict(queries.page(LIVE.id)),
        f"/runs/{QUEUED.id}": asdict(queries.page(QUEUED.id)),
        f"/runs/{HELD.id}/failures": [asdict(group) for group in queries.failures(HELD.id)],
        f"/runs/{LIVE.id}/tiles/99": asdict(queries.tile(LIVE.id, 99)),
        f"/runs/{LIVE.id}/map": asdict(queries.map(LIVE.id)),
        f"/runs/{LIVE.id}/history": queries.history(LIVE.id),
        f"/compare?a={LIVE.id}&b={DONE.id}": asdict(queries.compare(LIVE.id, DONE.id)),
        "/monitors": [asdict(line) for line in queries.monitors()],
        f"/runs/{LIVE.id}/tile?lon=85.3&lat=27.7": {"tile": queries.tile_at(LIVE.id, 85.3, 27.7, 0)},
        f"/runs/{LIVE.id}/tile?lon=0&lat=0&step=3": {"tile": None},
    }.items():
        answer = shared.client.get(API + path)
        assert (answer.status_code, answer.json()) == (200, plain(value)), path


def test_what_nobody_knows_is_null_and_never_0(shared: Asked) -> None:
    told = shared.client.get(f"{API}/runs/{QUEUED.id}").json()
    assert (told["progress"]["eta_s"], told["cost"]["spent_usd"], told["line"]["began"]) == (None, None, None)


def test_a_log_is_read_on_from_where_it_ended(shared: Asked) -> None:
    first = shared.client.get(f"{RUN}/log").json()
    assert first["text"].startswith("08:00:00 tile r0000c0000 is done\n")
    again = shared.client.get(f"{RUN}/log", params={"after": first["end"]}).json()
    assert again == {"text": "", "end": first["end"]}


def test_a_picture_that_the_browser_has_is_not_sent_again(shared: Asked) -> None:
    path = f"{RUN}/map/state/0/0/1/1/1.png"
    first = shared.client.get(path)
    assert first.headers["content-type"] == "image/png"
    assert first.content == shared.queries.picture(LIVE.id, "state", 0, 0, 1, 1, 1)
    again = shared.client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/runs/nobody", 404),
        ("/runs/nobody/events", 404),
        ("/runs/nobody/log", 404),
        (f"/runs/{LIVE.id}/tiles/9999999", 404),
        (f"/runs/{LIVE.id}/tiles/{'9' * 5000}", 422),
        (f"/runs/{LIVE.id}/tiles/-1", 422),
        (f"/runs/{LIVE.id}/tiles/x", 422),
        (f"/runs/{LIVE.id}/tile?lon=nan&lat=0", 422),
        (f"/runs/{LIVE.id}/tile?lon=1e999&lat=0", 422),
        (f"/runs/{LIVE.id}/tile?lon=1&lat=91", 422),
        (f"/runs/{LIVE.id}/tile?lon=1", 422),
        (f"/runs/{LIVE.id}/map/nothing/0/0/1/1/1.png", 404),
        (f"/runs/{LIVE.id}/map/state/9/0/1/1/1.png", 404),
        (f"/runs/{LIVE.id}/map/state/0/0/31/1/1.png", 422),
        (f"/runs/{LIVE.id}/log?after=-1", 422),
        (f"/compare?a={LIVE.id}", 422),
        (f"/compare?a={LIVE.id}&b=nobody", 404),
        ("/nothing", 404),
        ("/docs", 404),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_a_sentence(shared: Asked, path: str, status: int) -> None:
    for headers in ({}, BROWSER):
        answer = shared.client.get(API + path, headers=headers)
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "fix"}
        assert 5 < len(answer.json()["error"]) < 500


def test_a_damaged_run_is_the_servers_matter_and_a_mosaic_of_another_job_that_of_whoever_submits(asked: Asked) -> None:
    def damaged(*_: Any, **__: Any) -> Any:
        raise MosaicError("a file of the run is damaged", fix="resmap verify says more")

    asked.queries.page = damaged  # type: ignore[method-assign]
    asked.control.submit = damaged  # type: ignore[method-assign]
    assert asked.client.get(RUN).status_code == 503
    assert asked.client.post(f"{API}/runs", json={"job": "name: x"}, headers=BEARER).status_code == 422


# Its document --------------------------------------------------------------------------------------------------------


def test_the_document_names_every_value_by_its_class_and_what_every_address_answers(document: dict[str, Any]) -> None:
    # fmt: off
    assert {"RunLine", "RunPage", "GpuRow", "Progress", "Span", "FailureGroup", "TileDetail", "MapInfo", "Comparison",
            "MonitorLine", "Event", "Submitted", "Submission", "Problem"} <= set(document["components"]["schemas"])
    # fmt: on
    for path, methods in document["paths"].items():
        for method, said in methods.items():
            assert said["summary"]
            for status, answer in said["responses"].items():
                if status not in ("204", "304"):
                    (content,) = answer["content"].values()
                    assert content["schema"], (path, method, status)
    assert document["components"]["schemas"]["Problem"]["required"] == ["error", "fix"]


NUMBERS = st.integers(-(2**70), 2**70) | st.integers(0, 5)
WORDS = st.sampled_from([*HOSTILE[::9], "state", "mask"]) | st.text(max_size=30)
KEYS = st.sampled_from([LIVE.id, DONE.id, HELD.id, QUEUED.id, LIVE.id]) | WORDS
PLACES = st.floats(-200, 200) | st.sampled_from([float("nan"), float("inf"), 85.3, 27.7])


@settings(max_examples=80)
@given(data=st.data())
def test_every_answer_to_a_question_is_as_the_document_says(
    data: st.DataObject, shared: Asked, document: dict[str, Any]
) -> None:
    asks = [path for path, methods in document["paths"].items() if "get" in methods]
    path = data.draw(st.sampled_from(asks))
    said = document["paths"][path]["get"]
    address, query = path, {}
    for parameter in said.get("parameters", []):
        name = parameter["name"]
        drawn = data.draw(
            KEYS if name in ("key", "a", "b") else PLACES if name in ("lon", "lat") else WORDS if name == "layer"
            else NUMBERS | WORDS
        )  # fmt: skip
        if path.endswith("/events") and drawn in (LIVE.id, QUEUED.id):
            drawn = DONE.id  # the others go on
        if parameter["in"] == "path":
            address = address.replace(f"{{{name}}}", quote(str(drawn), safe="") or "-")
        elif parameter["required"] or data.draw(st.booleans()):
            query[name] = str(drawn)
    answer = shared.client.get(address, params=query)
    assert str(answer.status_code) in said["responses"], (address, answer.text)
    assert answer.status_code not in (500, 503)
    if answer.headers.get("content-type") == "application/json":
        schema = said["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator(schema | {"components": document["components"]}).validate(answer.json())


# Changes -------------------------------------------------------------------------------------------------------------


def test_a_job_is_taken_on_once_however_often_it_is_submitted(asked: Asked) -> None:
    job = {"job": "name: x", "gpus": 2, "local": False}
    first = asked.client.post(f"{API}/runs", json=job, headers=BEARER)
    again = asked.client.post(f"{API}/runs", json=job, headers=BEARER)
    assert (first.status_code, again.status_code) == (201, 200)
    told = {"key": QUEUED.id, "run": QUEUED.run, "mosaic": QUEUED.mosaic, "state": "queued"}
    assert first.json() == told | {"created": True}
    assert again.json() == first.json() | {"created": False}
    assert asked.control.asked == [("submit", QUEUED.id, "token at testclient")] * 2


@pytest.mark.parametrize(
    "body",
    [
        {"job": "nonsense"},
        {},
        {"job": 1},
        {"job": "name: x", "gpus": 0},
        {"job": "name: x", "gpus": 10**9},
        {"job": "name: x", "shell": "rm -rf /"},
        [],
        "name: x",
    ],
    ids=str,
)
def test_a_job_that_is_none_is_refused_and_nothing_is_kept(asked: Asked, body: Any) -> None:
    answer = asked.client.post(f"{API}/runs", json=body, headers=BEARER)
    assert answer.status_code == 422
    assert answer.json()["error"]
    assert asked.control.asked == []


def test_what_cannot_be_done_now_is_told_from_what_is_not_there(asked: Asked) -> None:
    assert asked.client.post(f"{RUN}/cancel", headers=BEARER).json() == {"state": "cancelled"}
    assert asked.client.post(f"{API}/runs/{HELD.id}/retry", headers=BEARER).json()["key"] == HELD.id
    over = asked.client.post(f"{API}/runs/{DONE.id}/cancel", headers=BEARER)
    assert (over.status_code, over.json()["error"]) == (409, "this run is not under way")
    for key in ("nobody", "%2e%2e", "a%2fb", "x" * 400, quote(HOSTILE[0], safe="")):
        for act in ("cancel", "retry"):
            assert asked.client.post(f"{API}/runs/{key}/{act}", headers=BEARER).status_code == 404
    assert [what for what, _, _ in asked.control.asked] == ["cancel", "retry"]


# As it moves ---------------------------------------------------------------------------------------------------------


def at(finished: int, *, events: int = 12) -> RunPage:
    """The run under way, so far."""
    kept = page(replace(LIVE, finished=finished))
    return replace(kept, events=tuple(reversed(happened(events))))


def over() -> RunPage:
    """The same, done."""
    return page(replace(LIVE, state="done", live=False, finished=LIVE.planned, given_up=0))


def test_a_page_comes_at_once_and_then_whenever_it_has_changed(asked: Asked) -> None:
    reads = 0
    kept = asked.queries.page

    def counted(key: str) -> RunPage:
        nonlocal reads
        reads += 1
        return kept(key)

    asked.queries.page = counted  # type: ignore[method-assign]
    with running(asked.app) as root, streamed(root, LIVE.id) as events:
        finished = []
        for number in (1500, 1501, 1502):
            asked.queries.pages[LIVE.id] = at(number)
            name, _, told = next(events)
            assert name == "page"
            finished.append(told["line"]["finished"])
            until = reads + 3
            while reads < until:  # the reader looks again, and finds nothing new to tell
                time.sleep(0.01)
        assert finished == [1500, 1501, 1502]


def test_what_happened_comes_once_each_in_order_with_its_number(asked: Asked) -> None:
    with running(asked.app) as root, streamed(root, LIVE.id) as events:
        assert next(events)[0] == "page"
        asked.queries.pages[LIVE.id] = at(1501, events=15)
        told = [next(events) for _ in range(4)]
    numbers = [(name, number) for name, number, _ in told]
    assert numbers == [("happened", "13"), ("happened", "14"), ("happened", "15"), ("page", "")]
    assert told[0][2] == plain(asdict(happened(15)[12]))


def test_whoever_comes_again_is_told_what_was_missed_and_nothing_twice(asked: Asked) -> None:
    with running(asked.app) as root, streamed(root, LIVE.id, last_event_id="9") as events:
        assert [next(events)[1] for _ in range(4)] == ["10", "11", "12", ""]
        asked.queries.pages[LIVE.id] = at(1501, events=13)
        assert next(events)[1] == "13"


@pytest.mark.parametrize("said", ["", "-3", "x", "9" * 400, "1; DROP TABLE runs", "²"])
def test_a_number_that_is_none_is_as_if_it_was_not_said(asked: Asked, said: str) -> None:
    with running(asked.app) as root:
        headers: Any = {b"Last-Event-ID": said.encode()}
        with httpx.stream("GET", f"{root}{RUN}/events", headers=headers) as answer:
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(3)] == ["retry: 2000", "", "event: page"]


def test_it_ends_with_the_run_and_a_browser_does_not_come_again(asked: Asked) -> None:
    with running(asked.app) as root:
        with streamed(root, LIVE.id) as events:
            assert next(events)[2]["line"]["state"] == "running"
            asked.queries.pages[LIVE.id] = over()
            rest = list(events)
        assert [name for name, _, _ in rest] == ["page", "over"]
        assert rest[0][2]["line"]["state"] == "done"
        last = rest[-1][1]
        assert httpx.get(f"{root}{RUN}/events", headers={"Last-Event-ID": last}).status_code == 204
        asked.queries.pages[LIVE.id] = at(1500)  # it is taken up again
        with streamed(root, LIVE.id, last_event_id=last) as events:
            assert next(events)[2]["line"]["state"] == "running"


def test_all_who_look_at_a_run_share_one_reader(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Counted(stream._Reader):
        def __init__(self, answers: Any, key: str) -> None:
            made.append(key)
            super().__init__(answers, key)

    monkeypatch.setattr(stream, "_Reader", Counted)
    with running(asked.app) as root:
        with streamed(root, LIVE.id) as a, streamed(root, LIVE.id) as b, streamed(root, LIVE.id) as c:
            assert next(a) == next(b) == next(c)
            asked.queries.pages[LIVE.id] = at(1501)
            assert next(a) == next(b) == next(c)
        assert made == [LIVE.id]


def test_a_client_that_takes_nothing_holds_nobody_up(asked: Asked) -> None:
    long = replace(at(0), model="m" * 2**20)
    with running(asked.app) as root:
        port = int(root.rpartition(":")[2])
        with socket.socket() as slow, streamed(root, LIVE.id) as events:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(f"GET {RUN}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert next(events)[0] == "page"
            for number in range(1, 8):
                asked.queries.pages[LIVE.id] = replace(long, line=replace(long.line, finished=number))
                assert next(events)[2]["line"]["finished"] == number


def test_a_client_that_takes_nothing_is_let_go(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TAKE_WITHIN_S", 0.2)
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.2)
    asked.queries.pages[LIVE.id] = replace(at(0), model="m" * 2**23)
    with running(asked.app) as root:
        port = int(root.rpartition(":")[2])
        with socket.socket() as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", port))
            slow.sendall(f"GET {RUN}/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            for number in (1, 0):
                while asked.app.state.streams.clients != number:
                    time.sleep(0.01)


def test_something_is_said_when_nothing_happens(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "KEEP_ALIVE_S", 0.05)
    with running(asked.app) as root, httpx.stream("GET", f"{root}{RUN}/events") as answer:
        assert any(line == ": still here" for line in answer.iter_lines())


def test_a_store_that_is_away_is_said_so_and_asked_again(asked: Asked) -> None:
    kept = asked.queries.page

    def away(key: str) -> RunPage:
        raise StoreError("the store does not answer", fix="look again in a moment")

    with running(asked.app) as root, streamed(root, LIVE.id) as events:
        assert next(events)[0] == "page"
        asked.queries.page = away  # type: ignore[method-assign]
        problem = {"error": "the store does not answer", "fix": "look again in a moment"}
        assert next(events) == ("problem", "", problem)
        asked.queries.page = kept  # type: ignore[method-assign]
        assert next(events)[0] == "page"


def test_more_than_so_many_are_told_to_come_again(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MOST_CLIENTS", 1)
    with running(asked.app) as root, streamed(root, LIVE.id) as events:
        next(events)
        refused = httpx.get(f"{root}{RUN}/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")


def test_streams_end_when_the_server_stops_and_it_does_not_wait_for_them(asked: Asked) -> None:
    with running(asked.app) as root, streamed(root, LIVE.id) as a, streamed(root, DONE.id) as b:
        assert next(a)[0] == next(b)[0] == "page"
        asked.app.state.streams.stop()
        assert list(a) == []
        assert httpx.get(f"{root}{RUN}/events").status_code == 503


def test_hostile_words_do_not_break_the_lines_of_a_stream(asked: Asked) -> None:
    asked.queries.pages[LIVE.id] = replace(at(1500), prompts=tuple((text, text) for text in HOSTILE))
    with running(asked.app) as root, streamed(root, LIVE.id) as events:
        name, _, told = next(events)
    assert name == "page"
    assert told["prompts"] == [[text, text] for text in HOSTILE]


def test_moments_are_as_iso_8601_has_them_in_utc(shared: Asked) -> None:
    assert shared.client.get(RUN).json()["line"]["began"] == f"{BEGAN:%Y-%m-%dT%H:%M:%S}Z"
    assert json.loads(json.dumps(plain(BEGAN))).endswith("Z")
