"""Who may look at the dashboard and who may change something: every way in that should be closed."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.routing import Mount, Route

from jobs.dashboard.app import app
from jobs.dashboard.guard import CHANGES, MOST_BODY
from jobs.dashboard.keys import GUESSES, Access
from jobs.dashboard.peers import same_user, user_of
from jobs.dashboard.rates import Allowance, peer_of
from tests.jobs.dashboard.fakes import DONE, LIVE, FakeControl, FakeQueries
from tests.jobs.dashboard.hostile import HOSTILE
from tests.jobs.dashboard.monitor_panels import NEPAL, monitor_page
from tests.jobs.dashboard.running import BEARER, BROWSER, HERE, TOKEN, Asked, other_address, running

CANCEL = f"/api/v1/runs/{LIVE.id}/cancel"
FILLED = {
    "key": LIVE.id, "n": "99", "layer": "state", "prompt": "0", "step": "0", "z": "1", "x": "1", "y": "1",
    "name": NEPAL.name, "alert": monitor_page(NEPAL).alerts[0].key, "side": "before",
}  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def addresses() -> list[str]:
    """Every address that the application has, from its own table of routes."""
    fakes = FakeQueries()
    made = app(fakes, FakeControl(fakes), access=Access())
    paths = {route.path for route in made.routes if isinstance(route, Route)} | set(made.openapi()["paths"])
    paths |= {f"{route.path}/door.css" for route in made.routes if isinstance(route, Mount)}
    return sorted(path.replace(":int", "").format(**FILLED) for path in paths)


@pytest.fixture
def away() -> Iterator[Asked]:
    """On an address that others reach."""
    with Asked(Access(token=TOKEN, loopback=False)) as asked:
        yield asked


@pytest.fixture
def here() -> Iterator[Asked]:
    """On loopback; its client is of no user of this machine."""
    with Asked(Access(token=TOKEN)) as asked:
        yield asked


# Without the token ---------------------------------------------------------------------------------------------------


def test_away_from_loopback_every_route_refuses_whoever_has_no_token(away: Asked) -> None:
    for path in (*addresses(), "/nothing/at/all", "/static/", "/api/v1/docs", "//", "/login/x"):
        for method in METHODS:
            for accept in (BROWSER, {"Accept": "*/*"}):
                answer = away.client.request(method, f"{HERE}{path}", headers=accept)
                at_door = path == "/login" and method not in ("GET", "HEAD", "POST")
                assert answer.status_code in ((401, 405) if at_door else (401,)), (method, path)
                assert LIVE.name not in answer.text
                assert answer.headers["cache-control"] == "no-store"
    assert away.control.asked == []


def test_with_the_token_every_route_answers(away: Asked) -> None:
    asks = {"/api/v1/compare": f"?a={LIVE.id}&b={DONE.id}", f"/api/v1/runs/{LIVE.id}/tile": "?lon=85.3&lat=27.7"}
    for path in addresses():
        if path == "/login" or path.endswith("/events"):  # one always asks, the other goes on: they have tests
            continue
        answer = away.client.get(path + asks.get(path, ""), headers=BEARER)
        # Some take only changes; the report is made of what lies beside a mosaic, and that of the fakes is nowhere.
        otherwise = (
            405
            if path.endswith(("/retry", "/cancel", "/pause", "/resume", "/run"))
            else 503
            if path.endswith("report.html")
            else 200
        )
        assert answer.status_code in (200, otherwise), (path, answer.text)


def test_a_real_address_of_this_machine_refuses_without_the_token_and_opens_with_it(away: Asked) -> None:
    host = other_address()
    if host is None:
        pytest.skip("this machine has no address but its loopback")
    with running(away.app, host=host) as root:
        for path in addresses():
            assert httpx.get(f"{root}{path}").status_code == 401
        # On loopback it would be enough to be the same user; from here it is not.
        assert httpx.post(f"{root}{CANCEL}").status_code == 401
        assert httpx.post(f"{root}{CANCEL}", headers=BEARER).status_code == 200


@pytest.mark.parametrize("kind", ["Bearer ", "bearer ", "Basic ", ""])
def test_what_is_almost_the_token_is_not_the_token(away: Asked, kind: str) -> None:
    for said in ("", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ÿ" * 8, "null", "  "):
        given: Any = {"Authorization": (kind + said).encode("latin-1")}
        assert away.client.get("/api/v1/runs", headers=given).status_code == 401


def test_where_there_is_no_token_nobody_has_it() -> None:
    away = Asked(Access(loopback=False))
    for given in ({"Authorization": "Bearer "}, {"Authorization": "Bearer"}, {"Cookie": "resmap-8765="}):
        assert away.client.get("/api/v1/runs", headers=given).status_code == 401
    assert away.client.get("/?token=", headers=BROWSER).status_code == 401


# On loopback ---------------------------------------------------------------------------------------------------------


def test_on_loopback_everybody_may_look_and_a_stranger_may_change_nothing(here: Asked) -> None:
    assert here.client.get("/api/v1/runs").status_code == 200
    for path in (CANCEL, f"/api/v1/runs/{LIVE.id}/retry", f"/runs/{LIVE.id}/cancel", "/api/v1/runs"):
        assert here.client.post(path, json={"job": "name: x"}).status_code == 401
    assert here.control.asked == []
    assert here.client.post(CANCEL, headers=BEARER).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whose a connection is")
def test_a_process_of_the_same_user_may_change_things_and_one_of_another_user_may_not(here: Asked) -> None:
    code = "import sys, urllib.request, urllib.error\n"
    code += "try: print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], method='POST')).status)\n"
    code += "except urllib.error.HTTPError as error: print(error.code)\n"
    with running(here.app) as root:
        command = ["/usr/bin/env", "python3", "-c", code, root + CANCEL]
        ours = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert ours.stdout.strip() == "200"
        assert here.control.asked == [("cancel", LIVE.id, f"user {os.getuid()} at 127.0.0.1")]
        if os.getuid() != 0:
            pytest.skip("only root can be another user")
        theirs = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60, user=12345, group=12345, extra_groups=[]
        )
        assert theirs.stdout.strip() == "401"


def test_whoever_comes_through_a_proxy_is_not_from_here(here: Asked) -> None:
    with running(here.app) as root, httpx.Client(base_url=root) as client:
        for said in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Host"):
            assert client.get("/api/v1/runs", headers={said: "127.0.0.1"}).status_code == 401
            assert client.post(CANCEL, headers={said: "127.0.0.1"}).status_code == 401
            assert client.get("/api/v1/runs", headers={said: "127.0.0.1", **BEARER}).status_code == 200


def test_whose_a_connection_is_is_only_said_of_connections_that_are_there() -> None:
    assert user_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert user_of(("::1", 1), ("::1", 2)) is None
    assert user_of(("testclient", 1), ("127.0.0.1", 2)) is None
    assert not same_user(("192.0.2.9", 5), ("192.0.2.9", 6))


# Names it goes by ----------------------------------------------------------------------------------------------------


def test_a_name_that_somebody_made_point_here_is_refused(here: Asked) -> None:
    for host in (
        "evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.2:8765",
        "[::1", "", "user@evil.example", "evil.example#127.0.0.1", "0.0.0.0:8765", "127.0.0.1:8765@evil.example",
    ):  # fmt: skip
        for headers in (BEARER, BROWSER, {}):
            answer = here.client.get("/api/v1/runs", headers={**headers, "Host": host})
            assert answer.status_code == 400
            assert set(answer.json()) == {"error", "fix"}


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST", "maps.example.org:443"])
def test_its_own_names_are_answered(host: str) -> None:
    asked = Asked(Access(token=TOKEN, hosts=("127.0.0.1", "localhost", "maps.example.org")))
    assert asked.client.get("/api/v1/runs", headers={"Host": host}).status_code == 200


# Pages of other sites ------------------------------------------------------------------------------------------------

FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8766"},
    {"Origin": "http://localhost:8765"},
    {"Origin": "http://127.0.0.1:8765.evil.example"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "whatever"},
    {"Origin": "http://127.0.0.1:8765", "Sec-Fetch-Site": "cross-site"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": "Text/Plain; charset=utf-8"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_page_of_another_site_changes_nothing_even_with_the_token(here: Asked, headers: dict[str, str]) -> None:
    paths = (CANCEL, f"/runs/{LIVE.id}/retry", "/api/v1/runs", "/login")
    for method, path in product(("POST", "PUT", "PATCH", "DELETE", "OPTIONS"), paths):
        answer = here.client.request(method, path, headers={**BEARER, **headers}, content=b"x")
        assert answer.status_code == 403
        assert "another site" in answer.json()["error"]
        assert "access-control-allow-origin" not in answer.headers
    assert here.control.asked == []


def test_our_own_pages_and_programs_change_things(here: Asked) -> None:
    ours = "http://127.0.0.1:8765"
    known: list[dict[str, str]] = [
        {},
        {"Origin": ours},
        {"Origin": ours, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://127.0.0.1:8765"},
    ]
    for headers in known:
        assert here.client.post(CANCEL, headers={**BEARER, **headers}).status_code == 200


# Signing in ----------------------------------------------------------------------------------------------------------


def test_a_browser_without_the_token_is_asked_for_it_and_comes_back_to_where_it_went(away: Asked) -> None:
    page = away.client.get(f"/runs/{LIVE.id}?x=1", headers=BROWSER)
    assert page.status_code == 401
    assert f'value="/runs/{LIVE.id}?x=1"' in page.text
    filled = {"token": TOKEN, "next": f"/runs/{LIVE.id}?x=1"}
    let_in = away.client.post("/login", data=filled, headers={**BROWSER, "Sec-Fetch-Site": "same-origin"})
    assert (let_in.status_code, let_in.headers["location"]) == (303, f"/runs/{LIVE.id}?x=1")
    assert away.client.get(let_in.headers["location"], headers=BROWSER).status_code == 200
    assert away.client.post(CANCEL).status_code == 200


def test_the_page_that_asks_has_one_style_of_its_own_and_runs_nothing(away: Asked) -> None:
    page = away.client.get("/", headers=BROWSER)
    policy = page.headers["content-security-policy"]
    assert "style-src 'self' 'sha256-" in policy
    assert "unsafe" not in policy
    assert "<script" not in page.text
    assert 'src="' not in page.text
    assert "<link" not in page.text


def test_a_link_with_the_token_sets_the_cookie_and_leads_to_the_address_without_it(away: Asked) -> None:
    answer = away.client.get(f"/runs/{LIVE.id}?a=1&token={TOKEN}&b=%20", headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/{LIVE.id}?a=1&b=+")
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert away.client.get("/api/v1/runs").status_code == 200


def test_over_tls_the_cookie_stays_there(away: Asked) -> None:
    secure = away.another("https://127.0.0.1:8765").get(f"/?token={TOKEN}", headers=BROWSER)
    assert "; Secure" in secure.headers["set-cookie"]
    proxied = away.client.get(f"/?token={TOKEN}", headers={**BROWSER, "X-Forwarded-Proto": "https"})
    assert "; Secure" in proxied.headers["set-cookie"]


def test_a_cookie_that_is_wrong_or_of_another_token_opens_nothing(away: Asked) -> None:
    other = Asked(Access(token="another-token-0123456789", loopback=False))
    let_in = other.client.get("/?token=another-token-0123456789", headers=BROWSER)
    value = let_in.headers["set-cookie"].partition("=")[2].partition(";")[0]
    for wrong in (value, "", TOKEN, "x", '"' + value + '"'):
        assert away.client.get("/api/v1/runs", headers={"Cookie": f"resmap-8765={wrong}"}).status_code == 401


def test_signing_in_never_leads_elsewhere(away: Asked) -> None:
    for to in (
        "//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "/\t/evil.example",
        "evil.example",
        "///evil.example", "javascript:1", "/x\r\nSet-Cookie: a=b", "/login?next=/login", "", *HOSTILE[175:185],
    ):  # fmt: skip
        filled = {"token": TOKEN, "next": to}
        answer = away.another().post("/login", data=filled, headers={"Sec-Fetch-Site": "same-origin"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert len(answer.headers.get_list("set-cookie")) == 1


def test_a_link_with_the_token_never_leads_elsewhere(away: Asked) -> None:
    for path in ("//evil.example/", "//evil.example/%2e%2e", "/%5cevil.example", "/%0d%0aX: y", "/%2f/evil.example"):
        answer = away.another().get(f"{HERE}{path}?token={TOKEN}", headers=BROWSER)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/")
        assert answer.headers["location"][1:2] not in ("/", "\\")


def test_guessing_is_slowed_and_then_even_the_right_token_waits(away: Asked) -> None:
    wrong = [away.client.get("/api/v1/runs", headers={"Authorization": f"Bearer guess-{n}"}) for n in range(12)]
    assert [answer.status_code for answer in wrong] == [401] * GUESSES[0] + [429] * (12 - GUESSES[0])
    assert 1 <= int(wrong[-1].headers["retry-after"]) <= GUESSES[1]
    assert away.client.get("/api/v1/runs", headers=BEARER).status_code == 429
    page = away.client.post(
        "/login", data={"token": TOKEN, "next": "/"}, headers={**BROWSER, "Sec-Fetch-Site": "same-origin"}
    )
    assert page.status_code == 429
    assert "too many wrong tokens" in page.text
    elsewhere = away.another(client=("192.0.2.77", 1234))
    assert elsewhere.get("/api/v1/runs", headers=BEARER).status_code == 200


def test_a_client_that_says_the_same_wrong_token_again_does_not_guess(away: Asked) -> None:
    for _ in range(3 * GUESSES[0]):
        assert away.client.get("/api/v1/runs", headers={"Authorization": "Bearer an-old-one"}).status_code == 401
        assert away.client.get("/api/v1/runs", headers={"Cookie": "resmap-8765=an-old-one"}).status_code == 401
    assert away.client.get("/api/v1/runs", headers=BEARER).status_code == 200


# How much and how often ----------------------------------------------------------------------------------------------


def test_a_request_that_says_it_is_too_large_is_refused_unread(here: Asked) -> None:
    for length in (str(MOST_BODY + 1), "9" * 30, "-1", "1e3", "٣"):
        headers: Any = {**BEARER, "Content-Length": length.encode()}
        answer = here.client.post("/api/v1/runs", headers=headers, content=b"{}")
        assert answer.status_code == 413


def test_an_endless_request_is_cut_off_where_the_limit_is(here: Asked) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * MOST_BODY:
            sent += 2**16
            yield b" " * 2**16

    with running(here.app) as root:
        for path, headers, status in (("/api/v1/runs", BEARER, 413), ("/login", {}, 413), (CANCEL, {"Via": "x"}, 401)):
            sent = 0
            try:
                answer = httpx.post(f"{root}{path}", headers=headers, content=endless(), timeout=30)
                assert answer.status_code == status
            except httpx.WriteError:  # it answered and hung up while we were still speaking
                pass
            # What a client and the kernel hold back on the way is a few MiB.
            assert sent < 32 * MOST_BODY


def test_a_request_that_never_ends_is_not_waited_for(here: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.dashboard.guard.BODY_WITHIN_S", 0.2)

    with running(here.app) as root:
        port = int(root.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
            head = f"POST /api/v1/runs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            line.sendall(f"{head}Content-Length: 30\r\n\r\n{{".encode())
            assert line.recv(100).startswith(b"HTTP/1.1 408 ")
    assert here.control.asked == []


def test_changes_have_a_rate_and_looking_has_none(here: Asked) -> None:
    answers = [here.client.post(CANCEL, headers=BEARER) for _ in range(CHANGES[0] + 5)]
    assert [answer.status_code for answer in answers[: CHANGES[0]]] == [200] * CHANGES[0]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert here.client.get("/api/v1/runs").status_code == 200


def test_turns_come_back_with_time_and_never_more_than_there_were() -> None:
    turns = Allowance(2, 10.0)
    assert [turns.take("a", now) for now in (0.0, 0.0, 0.0, 5.0, 10.0, 10.0)] == [0, 0, 10, 5, 0, 10]
    assert turns.take("b", 10.0) == 0
    assert [turns.take("a", 1e6) for _ in range(3)] == [0, 0, 10]


def test_turns_are_kept_for_so_many_peers_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.dashboard.rates.MOST_PEERS", 3)
    turns = Allowance(1, 10.0)
    for peer in "abcd":
        assert turns.take(peer, 0.0) == 0
    assert turns.wait_s("d", 0.0) == 10
    assert turns.wait_s("a", 0.0) == 0


def test_a_network_of_ipv6_is_one_peer() -> None:
    assert peer_of("2001:db8::1") == peer_of("2001:db8::ffff:1") != peer_of("2001:db8:0:1::1")
    assert peer_of("::ffff:192.0.2.1") == peer_of("192.0.2.1") == "192.0.2.1"


# Read-only -----------------------------------------------------------------------------------------------------------


def test_read_only_refuses_every_change_with_a_sentence_and_shows_no_button() -> None:
    asked = Asked(Access(token=TOKEN, readonly=True))
    for path in (CANCEL, f"/api/v1/runs/{LIVE.id}/retry", f"/runs/{LIVE.id}/retry", "/api/v1/runs"):
        answer = asked.client.post(path, headers=BEARER, json={"job": "name: x"})
        assert answer.status_code == 403
        assert "read-only" in answer.json()["error"]
    assert asked.control.asked == []
    for path in ("", "/failures", "/tiles/99"):
        assert 'method="post"' not in asked.client.get(f"/runs/{LIVE.id}{path}", headers=BROWSER).text
    filled = {"token": TOKEN, "next": "/"}
    assert asked.client.post("/login", data=filled, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303


# Audit ---------------------------------------------------------------------------------------------------------------


def test_each_change_leaves_a_line_whatever_became_of_it(here: Asked, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resmap.audit")
    here.client.post(CANCEL, headers=BEARER)
    here.client.post(CANCEL)
    here.client.post("/api/v1/runs/nobody/retry", headers=BEARER)
    here.client.post("/api/v1/runs", json={"job": "nonsense"}, headers=BEARER)
    here.client.get("/api/v1/runs")
    lines = [record.getMessage() for record in caplog.records if record.name == "resmap.audit"]
    assert lines == [
        f"by=token from=testclient act=cancel run={LIVE.id} outcome=done",
        f"by=nobody from=testclient act=POST {CANCEL} run=- outcome=this needs the token",
        "by=token from=testclient act=retry run=nobody outcome=refused: there is no run of this name",
        "by=token from=testclient act=submit run=- outcome=refused: this is no job file",
    ]


def test_a_line_of_the_audit_is_one_line(here: Asked, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "resmap.audit")
    for key in ("a\nb=c", "a\r\nby=token from=x", "\x1b[2J", "x" * 5000, "\u2028", "\u202e"):
        here.client.post(f"/api/v1/runs/{quote(key)}/cancel", headers=BEARER)
        here.client.post(f"/{quote(key)}")
    lines = [record.getMessage() for record in caplog.records if record.name == "resmap.audit"]
    assert len(lines) >= 6
    for line in lines:
        assert line.isprintable()
        assert len(line) < 2000


# Headers, errors -----------------------------------------------------------------------------------------------------


def test_every_answer_tells_the_browser_to_be_careful(here: Asked) -> None:
    for path in (*addresses(), "/nothing", "/static/%2e%2e/app.py", "/static/..%2fguard.py"):
        if path.endswith("/events"):
            continue
        headers = here.client.get(path, headers=BROWSER).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'") or (path.endswith("report.html") and "sandbox" in policy)
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not any(name.startswith("access-control-") for name in headers)


def test_what_nobody_foresaw_is_a_sentence_and_no_trace(
    here: Asked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(key: str) -> Any:
        raise RuntimeError("a secret in /home/somebody/secrets.py")

    monkeypatch.setattr(here.queries, "page", broken)
    for headers in (BROWSER, {"Accept": "application/json"}):
        for path in (f"/runs/{LIVE.id}", f"/api/v1/runs/{LIVE.id}", f"/api/v1/runs/{LIVE.id}/events"):
            answer = here.client.get(path, headers=headers)
            assert answer.status_code == 500
            assert "secret" not in answer.text
            assert "Traceback" not in answer.text
    assert "a secret in" in caplog.text  # for whoever serves
