"""What clouds say of a machine they take, and what strangers say at the same address: real servers on loopback."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import pytest

from cluster.spot import MOST_BYTES, Cloud, Leaving, Spot

NOW = datetime(2026, 12, 1, 6, 0, tzinfo=UTC)
TOKEN = "AQAEAMnSyIk="  # of this test's own server


@dataclass
class Service:
    """A metadata service: path → status and body. It keeps the rules of its cloud."""

    cloud: Cloud
    says: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
        self.asked.append(f"{method} {path}")
        if "X-Forwarded-For" in headers or "localhost" in headers["Host"]:
            return 403, b"", {}
        match self.cloud:
            case "aws":
                if (method, path) == ("PUT", "/latest/api/token"):
                    assert 1 <= int(headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
                    self.tokens.append(f"{TOKEN}{len(self.tokens)}")
                    return 200, self.tokens[-1].encode(), {}
                if not self.tokens or headers.get("X-aws-ec2-metadata-token") != self.tokens[-1]:
                    return 401, b"<html>Unauthorized</html>", {}
                return (*self.says.get(path, (404, b"<html>Not Found</html>")), {})
            case "gcp":
                flavor = {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"}
                if path != "/" and headers.get("Metadata-Flavor") != "Google":
                    return 403, b"missing header", flavor
                return (*self.says.get(path, (200, b"NONE" if "maintenance" in path else b"FALSE")), flavor)
            case "azure":
                if headers.get("Metadata") != "true":
                    return 400, b'{"error": "Bad request. Required metadata header not specified"}', {}
                return (*self.says.get(path, (404, b"{}")), {})


@contextmanager
def served(service: Service) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body, headers = service.answer(self.command, self.path, dict(self.headers.items()))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET  # noqa: N815  # http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Nowhere."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def stranger(say: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Whoever else may be at that address: says what it likes to each who calls, until the test is over."""
    over = threading.Event()

    def serve(caller: socket.socket) -> None:
        with caller:
            try:
                caller.recv(65536)
                say(caller, over)
            except OSError:
                return  # hung up on

    def accept() -> None:
        while True:
            try:
                caller, _ = door.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(caller,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{door.getsockname()[1]}"
        over.set()
        door.shutdown(socket.SHUT_RDWR)


def spot(address: str, cloud: Cloud | Literal["auto", "off"] = "auto", *, answer_s: float = 2.0) -> Spot:
    return Spot(cloud, service=address, answer_s=answer_s, now=NOW.timestamp)


# Each cloud -----------------------------------------------------------------------------------------------------------

ACTION = "/latest/meta-data/spot/instance-action"
PREEMPTED, MAINTENANCE = "/computeMetadata/v1/instance/preempted", "/computeMetadata/v1/instance/maintenance-event"
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
COMPUTE = "/metadata/instance/compute?api-version=2021-02-01"
AZURE = {COMPUTE: (200, b'{"name": "gpu_3", "vmSize": "Standard_NC24ads_A100_v4"}')}


def test_aws_tells_of_an_interruption_with_its_time() -> None:
    service = Service("aws")
    with served(service) as address:
        asked = spot(address)
        assert asked.notice() is None
        assert asked.ask_every_s == 5.0
        service.says[ACTION] = (200, b'{"action": "terminate", "time": "2026-12-01T06:02:00Z"}')
        assert asked.notice() == Leaving(120.0, "AWS takes it back (terminate)")
        service.says[ACTION] = (200, b'{"action": "hibernate", "time": "2026-12-01T05:59:58Z"}')
        assert asked.notice() == Leaving(0.0, "AWS takes it back (hibernate)")
    assert len(service.tokens) == 1


def test_a_token_of_aws_that_has_ended_is_renewed() -> None:
    service = Service("aws")
    with served(service) as address:
        asked = spot(address)
        asked.notice()
        service.tokens.append("another")  # ours is no longer taken
        service.says[ACTION] = (200, b'{"action": "stop", "time": "2026-12-01T06:01:00Z"}')
        assert [asked.notice(), asked.notice()] == [None, Leaving(60.0, "AWS takes it back (stop)")]


def test_a_rebalance_recommendation_is_no_notice_and_is_not_even_asked_for() -> None:
    service = Service("aws")
    service.says["/latest/meta-data/events/recommendations/rebalance"] = (
        200,
        b'{"noticeTime": "2026-12-01T06:00:00Z"}',
    )
    with served(service) as address:
        assert spot(address).notice() is None
    assert not any("rebalance" in path for path in service.asked)


@pytest.mark.parametrize(
    ("path", "said", "notice"),
    [
        (PREEMPTED, b"TRUE", Leaving(30.0, "Google Cloud preempts it")),
        (PREEMPTED, b"TRUE\n", Leaving(30.0, "Google Cloud preempts it")),
        (PREEMPTED, b"FALSE", None),
        (MAINTENANCE, b"TERMINATE_ON_HOST_MAINTENANCE", Leaving(60.0, "Google Cloud maintains its host")),
        (MAINTENANCE, b"MIGRATE_ON_HOST_MAINTENANCE", None),
        (MAINTENANCE, b"NONE", None),
    ],
)
def test_google_tells_that_it_preempts_or_ends_a_machine(path: str, said: bytes, notice: Leaving | None) -> None:
    service = Service("gcp", says={path: (200, said)})
    with served(service) as address:
        asked = spot(address)
        assert asked.notice() == notice
        assert asked.ask_every_s == 1.0


def azure_event(kind: str, *, left_s: float | None, of: str = "gpu_3") -> dict[str, object]:
    at = "" if left_s is None else format_datetime(NOW + timedelta(seconds=left_s), usegmt=True)
    return {
        "EventId": "f020ba2e", "EventType": kind, "ResourceType": "VirtualMachine", "Resources": ["gpu_1", of],
        "EventStatus": "Started" if left_s is None else "Scheduled", "NotBefore": at, "DurationInSeconds": -1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("events", "notice"),
    [
        ([], None),
        ([azure_event("Preempt", left_s=30)], Leaving(30.0, "Azure takes it (Preempt)")),
        ([azure_event("Preempt", left_s=None)], Leaving(30.0, "Azure takes it (Preempt)")),
        ([azure_event("Preempt", left_s=30, of="gpu_2")], None),
        ([azure_event("Freeze", left_s=30)], None),
        ([azure_event("Reboot", left_s=900)], None),  # it works on until it is near
        ([azure_event("Reboot", left_s=200), azure_event("Terminate", left_s=60)],
         Leaving(60.0, "Azure takes it (Terminate)")),
        ([azure_event("Preempt", left_s=-7)], Leaving(0.0, "Azure takes it (Preempt)")),
    ],
)  # fmt: skip
def test_azure_tells_what_it_will_do_to_which_machines_and_when(
    events: list[dict[str, object]], notice: Leaving | None
) -> None:
    service = Service("azure", says={**AZURE, EVENTS: (200, json.dumps({"Events": events}).encode())})
    with served(service) as address:
        asked = spot(address)
        assert asked.notice() == notice
        assert asked.ask_every_s == 1.0


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_whose_machine_it_is_may_be_said_and_need_not_be_found_out(cloud: Cloud) -> None:
    service = Service(cloud, says=dict(AZURE))
    with served(service) as address:
        told = spot(address, cloud)
        assert told.notice() is None
        assert "GET /" not in service.asked
        found = spot(address)
        assert found.notice() is None
        assert told.ask_every_s == found.ask_every_s


# Where there is no cloud ----------------------------------------------------------------------------------------------


def test_where_nobody_answers_it_is_asked_once_and_never_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        address = f"127.0.0.1:{door.getsockname()[1]}"
    asked = spot(address)
    assert asked.ask_every_s == 0.0  # at once
    assert asked.notice() is None
    assert asked.ask_every_s is None


def test_a_service_that_is_silent_is_waited_for_so_long_and_no_longer() -> None:
    with stranger(hangs) as address:
        asked = spot(address, answer_s=0.1)
        assert asked.notice() is None
        assert asked.ask_every_s is None


def hangs(caller: socket.socket, over: threading.Event) -> None:
    """Nothing."""
    over.wait()


def drips(caller: socket.socket, over: threading.Event) -> None:
    """A header that never ends, a byte at a time."""
    caller.sendall(b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\nX: ")
    while not over.wait(0.02):
        caller.sendall(b"x")


def floods(caller: socket.socket, over: threading.Event) -> None:
    """A body that never ends."""
    caller.sendall(b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\n\r\n")
    while not over.is_set():
        caller.sendall(b"TRUE" * 4096)


def says(status: str, body: bytes, *headers: str) -> Callable[[socket.socket, threading.Event], None]:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""])
    return lambda caller, over: caller.sendall(head.encode() + body)


STRANGERS = {
    "drips": drips,
    "floods": floods,
    "hangs": hangs,
    "hangs up": lambda caller, over: None,
    "noise": lambda caller, over: caller.sendall(bytes(range(256)) * 100),
    "html": says("200 OK", b"<html><h1>Welcome to the hotel</h1></html>"),
    "redirects": says("302 Found", b"", "Location: http://127.0.0.1:1/latest/api/token"),
    "errors": says("500 Internal Server Error", b"TRUE"),
    "huge": says("200 OK", b"T" * (MOST_BYTES + 1), "Metadata-Flavor: Google"),
    "huge length": lambda caller, over: caller.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\nTRUE"
    ),
    "deep": says("200 OK", b"[" * 60_000),
    "numbers": says("200 OK", b'{"action": 1, "time": 2, "Events": 3, "name": "gpu_3"}'),
    "events of nothing": says(
        "200 OK", b'{"name": "x", "Events": [1, null, {"EventType": ["Preempt"]}, {"Resources": 7}]}'
    ),
    "no list": says("200 OK", b'["action", "time"]'),
    "null": says("200 OK", b"null"),
    "not text": says("200 OK", b"\xff\xfe\x00\xd8" * 10),
    "control marks": says("200 OK", b"a token\r\nX-Evil: 1"),
}


@pytest.mark.parametrize("cloud", ["auto", "aws", "gcp", "azure"])
@pytest.mark.parametrize("kind", STRANGERS)
def test_what_a_stranger_says_is_no_notice_and_holds_nobody_up(kind: str, cloud: Cloud | Literal["auto"]) -> None:
    with stranger(STRANGERS[kind]) as address:
        asked = spot(address, cloud, answer_s=0.15)
        assert [asked.notice(), asked.notice()] == [None, None]


@pytest.mark.parametrize(
    ("said", "within_s"),
    [
        ("", 120.0), ("soon", 120.0), (None, 120.0), (17, 120.0), ("2026-13-45T99:00:00Z", 120.0),
        ("2026-12-01T06:02:00", 120.0), ("9" * 5000 + "Z", 120.0), ("1970-01-01T00:00:00Z", 0.0),
        ("9999-12-31T23:59:59Z", None), ("2026-12-01T06:02:00Z", 120.0),
    ],
)  # fmt: skip
def test_a_time_that_cannot_be_is_taken_for_the_usual_one(said: object, within_s: float | None) -> None:
    service = Service("aws", says={ACTION: (200, json.dumps({"action": "stop", "time": said}).encode())})
    with served(service) as address:
        notice = spot(address).notice()
    assert (notice.within_s if notice else None) == within_s


def test_what_a_cloud_says_is_no_longer_than_people_read_and_safe_to_print() -> None:
    service = Service("aws", says={ACTION: (200, json.dumps({"action": "\x1b[2J" + "x" * 999, "time": ""}).encode())})
    with served(service) as address:
        notice = spot(address).notice()
    assert notice is not None
    assert "\x1b" not in notice.reason
    assert len(notice.reason) < 120


# The environment ------------------------------------------------------------------------------------------------------


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with stranger(STRANGERS["html"]) as proxy, served(Service("gcp", says={PREEMPTED: (200, b"TRUE")})) as address:
        monkeypatch.setenv("http_proxy", f"http://{proxy}")
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy}")
        assert spot(address).notice() is not None


def test_the_environment_says_whom_to_ask_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESMAP_SPOT", "off")
    assert Spot.here().ask_every_s is None
    assert Spot.here().notice() is None
    with served(Service("gcp", says={PREEMPTED: (200, b"TRUE")})) as address:
        monkeypatch.setenv("RESMAP_SPOT", "gcp")
        for written in (address, f"http://{address}", f"http://{address}/"):
            monkeypatch.setenv("RESMAP_METADATA", written)
            assert Spot.here().notice() is not None


def test_what_the_environment_says_wrongly_is_told_and_stops_no_worker(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        monkeypatch.setenv("RESMAP_SPOT", "amazon")
        assert Spot.here().ask_every_s == 0.0
        monkeypatch.setenv("RESMAP_METADATA", "http://metadata.google.internal/computeMetadata")
        assert Spot.here().ask_every_s is None
    assert "RESMAP_SPOT is amazon" in caplog.text
    assert "must be host:port" in caplog.text
