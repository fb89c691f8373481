"""A server as programs and the command line talk to it, over real connections."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import client as clients
from jobs.client import Client
from jobs.dashboard.answers import as_json
from jobs.dashboard.app import app
from jobs.dashboard.keys import Access
from jobs.dashboard.queries import Queries
from jobs.dashboard.views import Event, RunPage
from jobs.executor import Executor
from jobs.job import Job
from jobs.registry import Registry
from jobs.sending import sent
from jobs.settings import token_file
from jobs.sse import Message, messages
from jobs.submitted import asked_by
from mapper.errors import AwayError, BusyError, CredentialsError, MapperError, QuestionError, SpecError
from tests.jobs.dashboard.fakes import DONE, HELD, LIVE, FakeControl, FakeQueries, happened
from tests.jobs.dashboard.running import running
from tests.jobs.test_executor import FAKE, job
from tests.stories.command_line import Resmap

TOKEN = "a-token-of-the-tests-0123456789"
SOON_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real one, whose runs are stand-ins. It wants the token for everything."""
    folder = tmp_path_factory.mktemp("server")
    registry = Registry(f"sqlite:///{folder}/registry.db")
    executor = Executor(registry, folder=folder / "jobs", program=FAKE)
    pages = app(Queries(registry), executor, access=Access(token=TOKEN, loopback=False))
    with executor, running(pages) as address:
        yield address


@pytest.fixture(scope="module")
def shown() -> Iterator[tuple[str, FakeQueries]]:
    """The address of one that has much to show, to anybody on this machine."""
    queries = FakeQueries()
    with running(app(queries, FakeControl(queries), access=Access(token=TOKEN))) as address:
        yield address, queries


@pytest.fixture
def client(server: str) -> Iterator[Client]:
    with Client(server, TOKEN) as one:
        yield one


@contextmanager
def answering(respond: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """A server that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        do_POST = do_GET  # noqa: N815  # as the library names it

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            thread.join()


def said(handler: BaseHTTPRequestHandler, status: int, content: Any, **headers: str) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def begun(client: Client, key: str) -> None:
    """Wait till its process listens."""
    end = time.monotonic() + SOON_S
    while "begun" not in client.log(key)[0]:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_job_is_sent_followed_and_its_log_read(client: Client, tmp_path: Path) -> None:
    text = job(tmp_path / "map.zarr", "ends 4")
    first, second = client.submit(text), client.submit(text)
    assert (first.created, second.created, first.key) == (True, False, second.key)
    page = client.wait(first.key, timeout_s=SOON_S, every_s=0.1)
    assert page.line.state == "quarantined"
    assert client.find(first.run).id == client.find(first.key).id == first.key
    log, end = client.log(first.key)
    assert "begun" in log
    assert client.log(first.key, after=end) == ("", end)
    assert client.retry(first.key).state == "queued"
    assert client.wait(first.key, timeout_s=SOON_S, every_s=0.1).line.state == "quarantined"


def test_a_run_is_cancelled(client: Client, tmp_path: Path) -> None:
    key = client.submit(job(tmp_path / "map.zarr", "waits")).key
    begun(client, key)
    assert client.cancel(key) == "running"
    assert client.wait(key, timeout_s=SOON_S, every_s=0.1).line.state == "cancelled"


def test_what_is_waited_for_too_long_goes_on(client: Client, tmp_path: Path) -> None:
    key = client.submit(job(tmp_path / "map.zarr", "waits")).key
    with pytest.raises(TimeoutError):
        client.wait(key, timeout_s=0.3, every_s=0.1)
    begun(client, key)
    client.cancel(key)


def test_every_value_comes_back_as_it_was(shown: tuple[str, FakeQueries]) -> None:
    address, queries = shown
    with Client(address) as client:
        assert client.runs() == queries.runs()
        assert client.run(HELD.id) == queries.page(HELD.id)
        assert client.compare(DONE.id, HELD.id) == queries.compare(DONE.id, HELD.id)


def test_what_the_server_refuses_is_an_error_of_ours(client: Client, shown: tuple[str, FakeQueries]) -> None:
    for ask in (client.run, client.cancel, client.retry, client.log, lambda key: next(client.events(key))):
        with pytest.raises(QuestionError):
            ask("no-such-run")
    with pytest.raises(SpecError, match="not a key") as refused:
        client.submit("nonsense: 1")
    assert refused.value.fix
    with Client(shown[0]) as other, pytest.raises(BusyError, match="not under way"):
        other.cancel(DONE.id)
    with pytest.raises(QuestionError, match="no run there"):
        client.find("r")


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_token_that_is_missing_or_wrong_is_told_with_where_it_goes(server: str, token: str | None) -> None:
    with Client(server, token) as client, pytest.raises(CredentialsError) as refused:
        client.runs()
    assert "RESMAP_TOKEN" in refused.value.fix


def test_the_token_comes_from_the_environment_or_from_the_users_own_server(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    token_file().parent.mkdir()
    token_file().write_text(TOKEN + "\n")
    with Client(server) as client:
        client.runs()
    token_file().write_text("another")
    monkeypatch.setenv("RESMAP_TOKEN", TOKEN)
    with Client(server) as client:
        client.runs()


def test_the_users_own_token_is_not_shown_to_another_users_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[str | None] = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        shown.append(handler.headers["Authorization"])
        said(handler, 200, [])

    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    token_file().parent.mkdir()
    token_file().write_text(TOKEN)
    with answering(respond) as address:
        with Client(address) as client:
            client.runs()
        monkeypatch.setattr("os.getuid", lambda: 4711)
        with Client(address) as client:
            client.runs()
    assert shown == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize("address", ["http://maps.example", "http://10.0.0.1:8765", "http://localhost.example"])
def test_a_token_does_not_cross_the_network_in_plain_text_unless_asked(address: str) -> None:
    with pytest.raises(CredentialsError, match="plain text"):
        Client(address, TOKEN)
    Client(address, TOKEN, insecure=True).close()
    Client(address).close()  # there is none to send


@pytest.mark.parametrize(
    "address",
    [
        "",
        "maps",
        "ray://x:1",
        "https://",
        "https://u:p@h",
        "http://h:port",
        "http://[::1",
        "https://h/?q=1",
        "file:///x",
    ],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(QuestionError, match="no server's address"):
        Client(address)


def test_neither_proxies_nor_a_users_other_passwords_come_between(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    shown: list[str | None] = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        shown.append(handler.headers["Authorization"])
        said(handler, 200, [])

    with answering(respond) as address, Client(address) as client:
        client.runs()
    assert shown == [None]


def test_a_server_that_is_away_is_told_and_waited_for(
    shown: tuple[str, FakeQueries], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(AwayError, match="does not answer"):
            client.runs()
        monkeypatch.setattr(clients, "PATIENCE_S", 0.2)
        with pytest.raises(AwayError):
            client.wait("k", every_s=0.05)
        with pytest.raises(AwayError):
            next(client.events("k"))
    answers: list[Callable[[BaseHTTPRequestHandler], None]] = [
        lambda handler: said(handler, 429, {"error": "too often", "fix": ""}, Retry_After="0"),
        lambda handler: said(handler, 200, []),
    ]
    with answering(lambda handler: answers.pop(0)(handler)) as address, Client(address) as client:
        assert client.runs() == ()


@pytest.mark.parametrize(
    ("status", "content", "headers"),
    [
        (200, [{"id": "r"}], {}),
        (200, b"{", {}),
        (200, b"<html>", {"Content-Type": "text/html"}),
        (404, b"not found", {"Content-Type": "text/plain"}),
        (302, b"", {"Location": "http://127.0.0.1:9/"}),
        (500, b"\xff\xfe", {"Content-Type": "application/json"}),
    ],
)
def test_what_is_no_server_of_ours_or_of_another_version_is_told_so(
    status: int, content: Any, headers: dict[str, str]
) -> None:
    with answering(lambda handler: said(handler, status, content, **headers)) as address:
        with Client(address, TOKEN) as client, pytest.raises(MapperError, match="another version") as refused:
            client.runs()
        assert address in str(refused.value)


def test_what_a_newer_server_adds_is_left_out() -> None:
    newer = {"key": "k", "run": "r", "mosaic": "m", "state": "queued", "created": True, "queue": 7}
    with answering(lambda handler: said(handler, 201, newer)) as address, Client(address) as client:
        assert client.submit("x").key == "k"


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as held:

        def serve() -> None:
            line, _ = listener.accept()
            with line, pytest.raises(OSError, match=r"(?i)alert|eof|reset|pipe"):
                held.enter_context(context.wrap_socket(line, server_side=True)).recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        client = Client(f"https://localhost:{listener.getsockname()[1]}", TOKEN)
        with client, pytest.raises(MapperError, match="certificate") as refused:
            client.runs()
        thread.join()
    assert "REQUESTS_CA_BUNDLE" in refused.value.fix


def test_a_run_is_followed_across_a_connection_that_breaks(shown: tuple[str, FakeQueries]) -> None:
    queries = shown[1]
    page = as_json(RunPage, queries.page(LIVE.id))
    events = [as_json(Event, event) for event in happened(3)]
    numbers = [event.number for event in happened(3)]
    heard: list[str | None] = []
    parts = [
        b"retry: 1\n\n: hello\n\nevent: page\r\ndata: " + page + b"\r\n\r\n" + frame(numbers[0], events[0])
        + b"id: 99\nevent: happened\ndata: {half",
        frame(numbers[0], events[0]) + frame(numbers[1], events[1]),
        frame(numbers[2], events[2]) + b"event: problem\ndata: {}\n\nevent: over\ndata: {}\n\n",
    ]  # fmt: skip

    def respond(handler: BaseHTTPRequestHandler) -> None:
        heard.append(handler.headers["Last-Event-ID"])
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.end_headers()
        for byte in parts[len(heard) - 1]:
            handler.wfile.write(bytes([byte]))

    with answering(respond) as address, Client(address) as client:
        told = list(client.events(LIVE.id))
    assert [one.number for one in told if isinstance(one, Event)] == numbers
    assert [one for one in told if isinstance(one, RunPage)] == [queries.page(LIVE.id)]
    assert heard == [None, str(numbers[0]), str(numbers[1])]


def test_the_events_of_a_run_that_is_over_end(shown: tuple[str, FakeQueries]) -> None:
    address, queries = shown
    with Client(address) as client:
        told = list(client.events(DONE.id, after=0))
        assert [one.number for one in told if isinstance(one, Event)] == [
            event.number for event in queries.events(DONE.id, 0)
        ]
        assert queries.page(DONE.id) in told or not queries.page(DONE.id).events
        assert list(client.events(DONE.id, after=10**9)) == []


def frame(number: int, data: bytes) -> bytes:
    return f"id: {number}\nevent: happened\ndata: ".encode() + data + b"\n\n"


def test_messages_are_read_however_they_are_cut() -> None:
    stream = "event: a\ndata: ä\ndata: b\n\ndata\n\nid: 7\ndata: c\r\n\r\n: no\n\nevent: half\ndata: d".encode()
    whole = [Message(event="a", data="ä\nb", id=""), Message(event="message", data="", id=""),
             Message(event="message", data="c", id="7")]  # fmt: skip
    for size in (1, 2, 3, 7, len(stream)):
        assert list(messages(stream[at : at + size] for at in range(0, len(stream), size))) == whole


def test_a_stream_without_an_end_of_a_message_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.sse.LONGEST_MESSAGE", 1000)
    with pytest.raises(MapperError, match="no end"):
        list(messages(b"x" * 100 for _ in range(20)))
    with pytest.raises(MapperError, match="no end"):
        list(messages(b"data: x\n" * 10 for _ in range(20)))


def relative_job(folder: Path) -> Path:
    (folder / "area.json").write_text(
        json.dumps({"type": "Polygon", "coordinates": [[[12, 55], [12.1, 55], [12.1, 55.1], [12, 55]]]})
    )
    path = folder / "job.yaml"
    path.write_text(job(Path("map.zarr"), area={"geojson": "area.json"}, imagery={"catalog": "catalog.json"}))
    return path


def test_a_job_file_means_the_same_on_the_server_of_this_machine(tmp_path: Path) -> None:
    path = relative_job(tmp_path)
    text = sent(path, here=True)
    asked = asked_by(text)
    assert asked.mosaic == str(tmp_path / "map.zarr")
    assert Job.from_dict(yaml.safe_load(text), folder="/").spec.imagery == Job.from_file(path).spec.imagery


def test_files_of_this_machine_are_not_named_to_a_server_elsewhere(tmp_path: Path) -> None:
    path = relative_job(tmp_path)
    with pytest.raises(SpecError, match=r"imagery\.catalog is a file of this machine") as refused:
        sent(path, here=False)
    assert "--same-files" in refused.value.fix
    with pytest.raises(SpecError, match=r"output\.mosaic is a file"):
        sent(job(tmp_path / "map.zarr", imagery={"catalog": "https://stac.example/"}), here=False)


def test_an_outline_in_a_file_goes_along_to_a_server_elsewhere(tmp_path: Path) -> None:
    path = relative_job(tmp_path)
    document = yaml.safe_load(path.read_text())
    document |= {"imagery": {"catalog": "https://stac.example/"}, "output": {"mosaic": "memory://map.zarr"}}
    path.write_text(yaml.safe_dump(document))
    there, here = sent(path, here=False), sent(path, here=True)
    assert "geojson" not in there
    assert asked_by(there).run == asked_by(here).run


def test_the_commands_speak_to_a_server(server: str, resmap: Resmap, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "job.yaml").write_text(job(Path("map.zarr"), "ends 4"))
    at = ["--address", server, "--token-file", str(tmp_path / "token")]
    done = resmap("submit", tmp_path / "job.yaml", *at, "--wait", "--json")
    assert (done.status, done.document["line"]["state"]) == (4, "quarantined"), done.err
    key = done.document["line"]["id"]
    assert key in resmap("status", *at).out
    assert resmap("status", key, *at, "--json").document["line"]["mosaic"] == str(tmp_path / "map.zarr")
    assert "quarantined" in resmap("status", key, *at).out
    assert "begun" in resmap("logs", key, *at, "--follow").out
    assert "is quarantined" in resmap("cancel", key, *at).out
    again = resmap("submit", tmp_path / "job.yaml", *at)
    assert "it was sent before" in again.out
    refused = resmap("submit", tmp_path / "job.yaml", "--address", server)
    assert refused.status == 5
    assert "token" in refused.complaint


def test_retry_knows_a_server_from_a_ray_cluster(
    server: str, client: Client, resmap: Resmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = client.submit(job(tmp_path / "map.zarr", "ends 4")).key
    client.wait(key, timeout_s=SOON_S, every_s=0.1)
    keys = tmp_path / "token"
    keys.write_text(TOKEN)
    there = ("--address", server, "--token-file", keys, "--json")
    assert resmap("retry", key, *there).document["key"] == key
    waited = resmap("retry", key, *there, "--wait")
    assert waited.document["line"]["state"] == "quarantined"
    assert waited.status == 4


def test_without_an_address_the_commands_act_on_this_machine(
    resmap: Resmap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESMAP_REGISTRY", f"sqlite:///{tmp_path}/registry.db")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    key = Executor().submit(job(tmp_path / "map.zarr")).key
    (tmp_path / "resmap" / "jobs" / key / f"log-{0:020d}").write_text("one\x1b[2Jtwo\n")
    assert resmap("logs", key).out == "one�[2Jtwo\n"
    assert resmap("cancel", key, "--json").document == {"key": key, "state": "cancelled"}
    assert resmap("logs", "nothing").status == 2


def test_a_connection_that_breaks_while_an_answer_comes_is_a_server_that_is_away() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"[")

    with answering(respond) as address, Client(address) as client, pytest.raises(AwayError):
        client.runs()
