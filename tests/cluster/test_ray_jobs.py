"""Jobs of a real Ray head, which asks for a token: begun once, listened to, told to end, and refused in sentences."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
from aiohttp import web

from cluster.ray_access import manner_of
from cluster.ray_jobs import RayHead, RayJob, Wanted, checked_env, dashboard_of, zipped
from cluster.ray_log import Log
from mapper.errors import AwayError, CredentialsError, MapperError, QuestionError, ResourceError, SpecError
from tests.cluster.ray_head import Head, ray_head

SOON_S = 90.0

TIDY = """
import signal, sys, time

def heard(*_):
    print("told to end", flush=True)
    time.sleep(4)
    print("tidied up", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, heard)
print("begun " + "x" * 30000, flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as started:
        yield started


@pytest.fixture
def there(head: Head, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayHead]:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    with RayHead(head.dashboard) as known:
        yield known


def wanted(name: str, entrypoint: str, **env: object) -> Wanted:
    return Wanted(submission=name, entrypoint=entrypoint, runtime_env=env, metadata={"whose": "the tests'"})


def ended(there: RayHead, name: str) -> tuple[RayJob, list[str]]:
    """How a job ended, and all that it said."""
    with Log(there, name) as log:
        said: list[str] = []
        while not log.over:
            said += log.lines(SOON_S)
    job = there.job(name)
    assert job is not None
    return job, said


def test_a_job_that_many_submit_at_once_is_begun_by_one_and_says_each_line_once(there: RayHead, head: Head) -> None:
    def submit(_: int) -> bool:
        with RayHead(head.dashboard) as mine:
            return mine.submit(wanted("tests-race", "echo one; echo two; exit 4"))

    with ThreadPoolExecutor(6) as threads:
        assert sorted(threads.map(submit, range(6))) == [False] * 5 + [True]
    job, said = ended(there, "tests-race")
    assert [line for line in said if line in ("one", "two")] == ["one", "two"]
    assert (job.status, job.exit_status, job.metadata) == ("FAILED", 4, {"whose": "the tests'"})
    assert "one\ntwo\n" in there.log("tests-race")
    assert "tests-race" in {one.submission for one in there.jobs()}
    assert there.job("tests-nobody") is None


def test_a_job_that_is_stopped_has_the_time_it_asked_for_and_a_folder_of_its_own(there: RayHead) -> None:
    folder = there.keep({"tidy.py": TIDY.encode()})
    assert there.keep({"tidy.py": TIDY.encode()}) == folder  # it lies there already
    env = {"working_dir": folder, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}
    there.submit(wanted("tests-tidy", "python tidy.py", **env))
    said: list[str] = []
    with Log(there, "tests-tidy") as log:
        while not log.over:
            for line in log.lines(SOON_S):
                said.append(line)
                if line.startswith("begun"):
                    assert len(line) == 30006  # whole, though it crosses in parts
                    there.stop("tests-tidy")
    assert said[-2:] == ["told to end", "tidied up"]  # Ray alone would have killed it after three seconds
    job = there.job("tests-tidy")
    assert job is not None
    assert job.status == "STOPPED"


def test_what_a_head_cannot_run_is_told_in_a_sentence(there: RayHead) -> None:
    with pytest.raises(MapperError, match="the Ray head refuses"):
        there.submit(replace(wanted("tests-nonsense", "true"), labels={"region": "?!"}))
    with pytest.raises(MapperError, match="the Ray head refuses"):
        there.stop("tests-nobody")


def test_who_has_no_token_or_another_is_told_so_and_ends_with_5(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(CredentialsError, match="there is none here") as none:
        RayHead(head.dashboard)
    assert "RAY_AUTH_TOKEN_PATH" in none.value.fix
    assert none.value.exit_status == 5
    monkeypatch.setenv("RAY_AUTH_TOKEN", "not the token of this head")
    with pytest.raises(CredentialsError, match="not the one of this Ray cluster"):
        RayHead(head.dashboard)
    assert manner_of(head.gcs) == "token"
    assert manner_of(head.gcs, "not the token of this head") == "token"
    assert manner_of(head.gcs, head.token) == "open"


def test_a_token_from_a_file_opens_the_head_too(head: Head, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    file = tmp_path / "token"
    file.write_text(f"{head.token}\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    with RayHead(head.dashboard) as known:
        assert known.ray
    file.unlink()
    with pytest.raises(CredentialsError, match="cannot be read, or is empty"):
        RayHead(head.dashboard)


Answers = Callable[[http.server.BaseHTTPRequestHandler], tuple[int, str]]


@contextmanager
def answering(answers: Answers) -> Iterator[tuple[str, list[str]]]:
    """A server of few words; its address, and the tokens that it was shown."""
    shown: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization", ""))
            status, text = answers(self)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", shown
        server.shutdown()
        thread.join()


def version_of(ray: str) -> Answers:
    return lambda _: (200, json.dumps({"ray_version": ray}))


def test_a_head_of_other_machines_that_asks_for_no_token_is_talked_to_only_where_that_was_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token that nobody asked for")
    with answering(version_of("2.60.0")) as (address, shown):
        RayHead(address).close()  # nobody else reaches the loopback
        monkeypatch.setattr("cluster.ray_jobs.is_loopback", lambda host: False)
        with pytest.raises(ResourceError, match="asks nobody for a token") as caught:
            RayHead(address)
        assert "--insecure-ray" in caught.value.fix
        RayHead(address, insecure_ray=True).close()
    assert set(shown) == {""}


def test_a_token_crosses_no_network_in_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token")
    monkeypatch.setattr("cluster.ray_jobs.is_loopback", lambda host: False)

    def guarded(asked: http.server.BaseHTTPRequestHandler) -> tuple[int, str]:
        known = asked.headers.get("Authorization") == "Bearer a token"
        return (200, json.dumps({"ray_version": "2.60.0"})) if known else (401, "Unauthorized")

    with answering(guarded) as (address, shown):
        with pytest.raises(CredentialsError, match="in plain text") as caught:
            RayHead(address)
        assert "port-forward" in caught.value.fix
        assert set(shown) == {""}
        RayHead(address, insecure=True).close()
        assert shown[-1] == "Bearer a token"


@contextmanager
def breaking(parts: list[str]) -> Iterator[str]:
    """The address of a head whose connections end after so much of a log; the job ends with the last of them."""
    heard: list[int] = []

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"ray_version": "2.60.0"})

    async def job(_: web.Request) -> web.Response:
        return web.json_response({"status": "RUNNING" if len(heard) < len(parts) else "SUCCEEDED"})

    async def tail(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        heard.append(1)
        await socket.send_str(parts[len(heard) - 1])
        return socket

    pages = web.Application()
    pages.add_routes(
        [web.get("/api/version", version), web.get("/api/jobs/a", job), web.get("/api/jobs/a/logs/tail", tail)]
    )
    loop, ports = asyncio.new_event_loop(), SimpleQueue[int]()

    async def serve() -> None:
        runner = web.AppRunner(pages)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ports.put(runner.addresses[0][1])
        await over.wait()
        await runner.cleanup()

    over = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    yield f"http://127.0.0.1:{ports.get(timeout=SOON_S)}"
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


def test_a_connection_that_breaks_loses_no_line_and_says_none_twice() -> None:
    parts = ["one\ntw", "one\ntwo\n", "one\ntwo\nthree\nlast"]
    with breaking(parts) as address, RayHead(address) as there, Log(there, "a") as log:
        said: list[str] = []
        while not log.over:
            said += log.lines(SOON_S)
    assert said == ["one", "two", "three", "last"]


def test_an_old_ray_and_a_server_that_is_none_are_told_apart() -> None:
    with (
        answering(version_of("2.9.3")) as (address, _),
        pytest.raises(ResourceError, match=r"has Ray 2\.9\.3, and resmap"),
    ):
        RayHead(address)
    with answering(lambda _: (404, "not here")) as (address, _), pytest.raises(QuestionError, match="no Ray head"):
        RayHead(address)
    with pytest.raises(AwayError, match="no Ray head answers"):
        RayHead(address)


def test_a_client_address_means_the_dashboard_of_that_host() -> None:
    assert dashboard_of("ray://head:10001") == "http://head:8265"
    assert dashboard_of("ray://[fd00::1]:10001") == "http://[fd00::1]:8265"
    assert dashboard_of("https://head/ray/") == "https://head/ray"


@pytest.mark.parametrize(
    "address",
    ["head:6379", "ftp://head", "http://", "http://me:hunter2@head", "http://head:port", "http://h?token=hunter2"],
)
def test_what_is_no_address_is_told_so_and_not_repeated(address: str) -> None:
    with pytest.raises(QuestionError, match="no address of a Ray head") as refused:
        dashboard_of(address)
    assert "hunter2" not in str(refused.value)


def test_a_folder_of_files_is_the_same_bytes_each_time() -> None:
    assert zipped({"b": b"2", "a": b"1"}) == zipped({"a": b"1", "b": b"2"})


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "HF_TOKEN", "PGPASSWORD", "GDAL_HTTP_USERPWD", "MY_API_KEY"]
)
def test_variables_that_look_like_secrets_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=f"looks like a secret: {name}") as caught:
        checked_env({"env_vars": {"GDAL_CACHEMAX": 512, name: "x"}})
    assert "instance role" in caught.value.fix


def test_a_runtime_environment_is_read_as_ray_reads_it(tmp_path: Path) -> None:
    assert checked_env({"env_vars": {"GDAL_CACHEMAX": 512}})["env_vars"] == {"GDAL_CACHEMAX": "512"}
    with pytest.raises(SpecError, match="has working_dir"):
        checked_env({"working_dir": str(tmp_path)})
    with pytest.raises(SpecError, match="Ray refuses the runtime environment"):
        checked_env({"pip": 7})
    with pytest.raises(SpecError, match="env_vars"):
        checked_env({"env_vars": ["A=1"]})
